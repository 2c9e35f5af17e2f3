"""Settings of the models of the tasks, from `parameters` of their config.pbtxt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from tritonlm.config import (
    DEVICES,
    DTYPES,
    ENV_PREFIX,
    parse_settings,
    require,
    triton_parameters,
)
from tritonlm.logs import FORMS

POOLINGS = ("auto", "mean", "cls", "last")
ACTIVATIONS = ("auto", "sigmoid", "none")
SWITCHES = ("auto", "true", "false")
LOG_SETTINGS = ("log_format", "request_log")
PLACES = ("{query}", "{document}")
CAUSAL_HEADS = ("ForCausalLM", "LMHeadModel")
CLASSIFIER_HEAD = "ForSequenceClassification"
HEADS = {"embed": CAUSAL_HEADS, "rerank": (CLASSIFIER_HEAD, *CAUSAL_HEADS),
         "classify": (CLASSIFIER_HEAD,)}
"""How names of classes end whose weights a task can use."""
OTHER_HEADS = (CLASSIFIER_HEAD, "ForTokenClassification", "ForQuestionAnswering",
               "ForConditionalGeneration", "ForMultipleChoice")
QWEN3_RERANKER = """<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: Given a web search query, retrieve relevant passages that answer the query
<Query>: {query}
<Document>: {document}<|im_end|>
<|im_start|>assistant
<think>

</think>

"""
"""The prompt that Qwen3-Reranker was trained on."""


@dataclass(frozen=True)
class TaskConfig:
    """What all tasks have; raises `InvalidArgument` for a value out of range."""

    task: ClassVar[str]
    """Name of the model that it is for."""
    model: str = ""
    """A hub id, or the path of a checkpoint folder."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    device: str = "auto"
    """auto, cpu or cuda; auto is cuda where there is one."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is bfloat16 on a GPU, and float32 on a cpu."""
    max_model_len: int | None = None
    """Tokens of a text or pair; unset, what the checkpoint was made for."""
    max_batch_tokens: int = 16_384
    """Tokens that are computed together, padding included; more become several batches."""
    cuda_graphs: bool = True
    """true or false: on a GPU, keep batches as CUDA graphs where that is faster: slower start."""
    truncate: bool = False
    """true or false: cut what is longer than max_model_len, instead of refusing it."""
    queue_policy: bool = False
    """true or false: levels of priority, bounds and timeouts in Triton's queue, which is slower."""
    log_format: str = "text"
    """text or json: lines of log for people, or JSON objects."""
    request_log: bool = False
    """true or false: a line of log for each request; without it, for those that fail."""

    def __post_init__(self) -> None:
        require("model", self.model, bool(self.model), "a hub id or the path of a checkpoint")
        require("device", self.device, self.device in DEVICES, f"one of {', '.join(DEVICES)}")
        require("dtype", self.dtype, self.dtype in DTYPES, f"one of {', '.join(DTYPES)}")
        require("log_format", self.log_format, self.log_format in FORMS,
                f"one of {', '.join(FORMS)}")
        for name in ("max_model_len", "max_batch_tokens"):
            value = getattr(self, name)
            require(name, value, value is None or value > 0, "more than 0")


@dataclass(frozen=True)
class EmbedConfig(TaskConfig):
    """Settings of `embed` and `embed_tokenize`."""

    task = "embed"
    pooling: str = "auto"
    """auto, mean, cls or last: of which tokens; auto is what the checkpoint says, else mean."""
    normalize: str = "auto"
    """auto, true or false: to length 1; auto is what the checkpoint says, else false."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("pooling", self.pooling, self.pooling in POOLINGS, f"one of {', '.join(POOLINGS)}")
        require("normalize", self.normalize, self.normalize in SWITCHES,
                f"one of {', '.join(SWITCHES)}")


@dataclass(frozen=True)
class RerankConfig(TaskConfig):
    """Settings of `rerank` and `rerank_tokenize`."""

    task = "rerank"
    truncate: bool = True
    """true or false: cut documents so that the pair has max_model_len tokens, or refuse it."""
    prompt_template: str | None = None
    """Text with {query} and {document}; unset, a pair of texts, or Qwen3's for causal models."""
    yes_token: str = "yes"
    """Of a causal model: the token whose probability, beside that of no_token, is the score."""
    no_token: str = "no"
    """Of a causal model."""
    activation: str = "auto"
    """auto, sigmoid or none; auto is what the checkpoint says, else sigmoid."""

    def __post_init__(self) -> None:
        super().__post_init__()
        template = self.prompt_template
        require("prompt_template", template,
                template is None or _has_places(template),
                "a text with {query} and then {document}, each once")
        require("activation", self.activation, self.activation in ACTIVATIONS,
                f"one of {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class ClassifyConfig(TaskConfig):
    """Settings of `classify`."""

    task = "classify"


C = TypeVar("C", bound=TaskConfig)
CONFIGS: dict[str, type[TaskConfig]] = {
    kind.task: kind for kind in (EmbedConfig, RerankConfig, ClassifyConfig)}


def misfit(task: str, architectures: Sequence[str]) -> str | None:
    """Why weights saved from one of these classes are not for `task`; None if they may be."""
    fitting = [name for name in architectures if name.endswith(HEADS[task])
               or (task == "embed" and not name.endswith(OTHER_HEADS))]
    if fitting or not architectures:
        return None
    allowed = "a model without a head of another task" if task == "embed" else (
        " or ".join(f"...{head}" for head in HEADS[task]))
    return f"it is a {', '.join(architectures)}; {task} needs {allowed}"


def from_triton(kind: type[C], args: Mapping[str, str]) -> C:
    """Settings of the model whose `initialize` got `args`.

    Those of the log may be in the environment, as the language model's, and no others: they differ.
    """
    variables = {name: ENV_PREFIX + name.upper() for name in LOG_SETTINGS}
    texts = {name: os.environ[variable] for name, variable in variables.items()
             if variable in os.environ}
    config: C = parse_settings(kind, texts | triton_parameters(args))
    return config


def _has_places(template: str) -> bool:
    query, document = map(template.find, PLACES)
    return 0 <= query < document and all(template.count(place) == 1 for place in PLACES)

"""Settings of a served model, frozen once built.

A setting is taken from `parameters` of the model's config.pbtxt, else from the environment
(`TRITONLM_` and its name in capitals), else its default. An unknown name raises.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tritonlm.errors import InvalidArgument
from tritonlm.logs import FORMS
from tritonlm.options import MAX_SEQUENCES

ENV_PREFIX = "TRITONLM_"
VERSION_SETTINGS = "settings.json"
"""In the folder of a model's version: its own settings, as an object of texts."""
DEMO_CHECKPOINT = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
DEVICES = ("auto", "cpu", "cuda")
BOOLS = {"true": True, "false": False}
CPU_STEP_TOKENS = 2048
KV_CACHE_DTYPES = ("auto", "fp8")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int4")


@dataclass(frozen=True)
class ModelConfig:
    """What a model's processes need to know: all of them read the same settings."""

    model: str = str(DEMO_CHECKPOINT)
    """A hub id, or the path of a checkpoint folder."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    device: str = "auto"
    """auto, cpu or cuda; auto is cuda where there is one."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is the checkpoint's own, and float32 on a cpu."""
    quantization: str = "none"
    """none or int4: linear layers hold 4-bit weights (NF4); needs tritonlm[quantization]."""
    max_model_len: int | None = None
    """Prompt and output tokens of a request together; unset, what the checkpoint was made for."""
    default_max_tokens: int = 256
    """Output tokens of a request that does not say `max_tokens`."""
    block_size: int = 16
    """Tokens in a block of the KV cache."""
    kv_cache_gib: float | None = None
    """Size of the KV cache; unset, 90 % of what a step leaves of a GPU, at most 1 GiB on a cpu."""
    kv_cache_dtype: str = "auto"
    """auto or fp8; auto is the model's own; fp8 (e4m3, no scales) holds twice as many tokens."""
    max_num_seqs: int = 256
    """Requests in one step of the engine."""
    max_num_batched_tokens: int | None = None
    """Tokens in one step: longer prompts are cut; unset, 2048; on a GPU, 1024 to 8192 by size."""
    max_prefill_chunk: int = 1024
    """Tokens of one prompt in a step that it shares with other requests, which wait for it."""
    compile: bool = True
    """true or false: on a GPU, compile the model and use our kernels: slow start, fast steps."""
    prefix_cache: bool = True
    """true or false: keep what is computed for prompts and outputs, for prompts that begin so."""
    priority_ageing_s: float = 10.0
    """How long a request waits before it moves up a class, and in the end before all but urgent."""
    num_engines: int = 1
    """Copies of the model, each with a process of its own; on GPUs each has a GPU of its own."""
    tensor_parallel: int = 1
    """Processes that share one copy of the model, each with a part of every layer, on its GPU."""
    tensor_parallel_nodes: int = 1
    """Machines that they are on, equally many on each; `tritonlm follow` runs those of another."""
    tensor_parallel_address: str | None = None
    """host:port of this machine, for the processes of other machines to come to."""
    max_waiting_requests: int = 4096
    """Requests that wait in an engine, each of `n` sequences counted; more are unavailable."""
    max_waiting_tokens: int = 4_194_304
    """Prompt tokens of the requests that wait in an engine; more are refused as unavailable."""
    max_prompt_tokens: int | None = None
    """Prompt tokens of a request; unset, what `max_model_len` leaves room for."""
    max_output_tokens: int | None = None
    """What a request may set `max_tokens` to; unset, what its prompt leaves of `max_model_len`."""
    max_sequences: int = 128
    """Sequences that one request may ask for with `n`."""
    max_unfinished_requests: int = 4096
    """Requests in one front end, each of `n` sequences counted; more are refused as unavailable."""
    stream_interval_ms: float = 0.0
    """At least so long between two chunks of a stream, whose tokens then travel together."""
    engine_start_timeout_s: float = 1800.0
    """How long an engine may take to load and be ready."""
    hang_timeout_s: float = 120.0
    """How long one step of an engine may take before the engine is killed and started again."""
    drain_timeout_s: float = 10.0
    """How long requests may go on when the server is told to stop."""
    unload_timeout_s: float = 600.0
    """How long requests may go on when their model, or version of it, is unloaded."""
    server_url: str | None = None
    """The server's own HTTP address, to see that it is told to stop; unset, nobody looks."""
    engines_of: str | None = None
    """The model whose engines this one uses, of its own version; unset, it has engines itself."""
    log_format: str = "text"
    """text or json: lines of log for people, or JSON objects, from all processes."""
    request_log: bool = False
    """true or false: a line of log for each request that ends; without it, for those that fail."""
    run_dir: str | None = None
    """Folder of the sockets; unset, one named after the server's process."""

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        require("device", self.device, self.device in DEVICES, f"one of {', '.join(DEVICES)}")
        require("dtype", self.dtype, self.dtype in DTYPES, f"one of {', '.join(DTYPES)}")
        require("kv_cache_dtype", self.kv_cache_dtype, self.kv_cache_dtype in KV_CACHE_DTYPES,
                 f"one of {', '.join(KV_CACHE_DTYPES)}")
        require("quantization", self.quantization, self.quantization in QUANTIZATIONS,
                 f"one of {', '.join(QUANTIZATIONS)}")
        require("quantization", self.quantization,
                self.tensor_parallel == 1 or self.quantization == "none",
                "none with tensor_parallel")
        require("log_format", self.log_format, self.log_format in FORMS,
                f"one of {', '.join(FORMS)}")
        require("model", self.model, bool(self.model), "a hub id or the path of a checkpoint")
        for name in ("default_max_tokens", "max_num_seqs", "max_prefill_chunk",
                     "priority_ageing_s", "max_unfinished_requests", "num_engines",
                     "tensor_parallel", "tensor_parallel_nodes", "max_waiting_requests",
                     "max_waiting_tokens", "engine_start_timeout_s", "hang_timeout_s"):
            require(name, getattr(self, name), getattr(self, name) > 0, "more than 0")
        require("max_sequences", self.max_sequences, 1 <= self.max_sequences <= MAX_SEQUENCES,
                 f"1 to {MAX_SEQUENCES}")
        self._check_nodes()
        is_power = self.block_size > 0 and self.block_size & (self.block_size - 1) == 0
        require("block_size", self.block_size, is_power, "a power of two")
        budget = self.max_num_batched_tokens
        require("max_num_batched_tokens", budget, budget is None or budget >= self.max_num_seqs,
                 f"at least max_num_seqs, {self.max_num_seqs}")
        for name in ("drain_timeout_s", "unload_timeout_s"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 and more")
        require("stream_interval_ms", self.stream_interval_ms, 0 <= self.stream_interval_ms <= 1e6,
                 "0 to 1,000,000")
        for name in ("max_model_len", "kv_cache_gib", "max_prompt_tokens", "max_output_tokens"):
            value = getattr(self, name)
            require(name, value, value is None or value > 0, "more than 0")

    def _check_nodes(self) -> None:
        nodes, address = self.tensor_parallel_nodes, self.tensor_parallel_address
        require("tensor_parallel_nodes", nodes, self.tensor_parallel % nodes == 0,
                f"what divides tensor_parallel, {self.tensor_parallel}")
        require("num_engines", self.num_engines, self.num_engines == 1 or nodes == 1,
                "1 with tensor_parallel_nodes")
        has_port = address is not None and address.rpartition(":")[2].isdecimal()
        require("tensor_parallel_address", address, has_port == (nodes > 1),
                "host:port with tensor_parallel_nodes, and nothing without")

    @classmethod
    def build(cls, parameters: Mapping[str, str], environ: Mapping[str, str]) -> ModelConfig:
        """Settings from texts: `parameters` first, then `environ`; raises `InvalidArgument`."""
        texts = {field.name: environ[ENV_PREFIX + field.name.upper()]
                 for field in fields(cls) if ENV_PREFIX + field.name.upper() in environ}
        config: ModelConfig = parse_settings(cls, texts | dict(parameters))
        return config

    @classmethod
    def from_triton(cls, args: Mapping[str, str]) -> ModelConfig:
        """Settings of the model whose `initialize` got `args`."""
        return cls.build(triton_parameters(args), os.environ)

    @property
    def step_tokens(self) -> int:
        """Tokens in one step; unset, those of a cpu."""
        return self.max_num_batched_tokens or max(CPU_STEP_TOKENS, self.max_num_seqs)

    def to_parameters(self) -> dict[str, str]:
        """The settings that differ from the defaults, as texts that `build` reads back."""
        return settings_texts(self)


def parse_settings(kind: type[Any], texts: Mapping[str, str]) -> Any:
    """The dataclass `kind` from texts; raises `InvalidArgument` for an unknown name."""
    types = {field.name: str(field.type) for field in fields(kind)}
    for name in sorted(texts.keys() - types.keys()):
        raise InvalidArgument("parameters", name, f"known settings: {', '.join(types)}")
    return kind(**{name: _parse(name, types[name], text) for name, text in texts.items()})


def settings_texts(settings: Any) -> dict[str, str]:
    """What differs from the defaults in a dataclass, as texts for `parse_settings`."""
    return {field.name: _text(getattr(settings, field.name)) for field in fields(settings)
            if getattr(settings, field.name) != field.default}


def triton_parameters(args: Mapping[str, str]) -> dict[str, str]:
    """`parameters` in the config.pbtxt of the model whose `initialize` got `args`.

    What `settings.json` in the folder of its version says goes before.
    """
    parameters = json.loads(args["model_config"]).get("parameters", {})
    own = Path(args.get("model_repository", ""), args.get("model_version", ""), VERSION_SETTINGS)
    return ({name: value["string_value"] for name, value in parameters.items()}
            | (json.loads(own.read_bytes()) if own.exists() else {}))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(name: str, kind: str, text: str) -> Any:
    if kind == "bool":
        require(name, text, text in BOOLS, " or ".join(BOOLS))
        return BOOLS[text]
    number = {"int": int, "float": float}.get(kind.split(" ", maxsplit=1)[0])
    if number is None:
        return text
    try:
        return number(text)
    except ValueError:
        raise InvalidArgument(name, text, f"it must be of type {kind}") from None


def require(name: str, value: Any, is_allowed: bool, allowed: str) -> None:
    """Raise `InvalidArgument` for a setting that is not allowed."""
    if not is_allowed:
        raise InvalidArgument(name, value, f"allowed: {allowed}")

"""The models that are measured, each with the length of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.shapes import SHAPES, checkpoint, random_module
from tritonlm.config import ModelConfig
from tritonlm.engine.device import choose_device
from tritonlm.engine.loading import LoadedModel, adopt_module, load_model
from tritonlm.errors import InvalidArgument

DEMO = "demo"
NAMES = (DEMO, *SHAPES)
Report = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A model, and how many tokens its requests have."""

    name: str
    config: ModelConfig
    load: Callable[[ModelConfig, Report], LoadedModel]
    num_prompt_tokens: int
    num_output_tokens: int


def find_subject(
    name: str, device: torch.device, checkpoints: Path | None, settings: Mapping[str, str]
) -> Subject:
    """The demo checkpoint, or a shape with random weights.

    The weights of a shape are drawn on the device, or read from its checkpoint in the folder
    `checkpoints`. `settings` are the engine's, as texts; raises `InvalidArgument`.
    """
    if name not in NAMES:
        raise InvalidArgument("shape", name, f"allowed: {', '.join(NAMES)}")
    settings = {"prefix_cache": "false", **settings, "device": device.type}
    if name == DEMO:
        config = ModelConfig.build({"max_num_seqs": "32", **settings}, {})
        return Subject(name, config, load_model, num_prompt_tokens=64, num_output_tokens=128)
    settings = {"model": name, "dtype": "bfloat16", "max_model_len": "1024", **settings}
    load: Callable[[ModelConfig, Report], LoadedModel] = load_random
    if checkpoints is not None:
        settings["model"] = str(checkpoint(name, checkpoints, device))
        load = load_model
    return Subject(name, ModelConfig.build(settings, {}), load, num_prompt_tokens=512,
                   num_output_tokens=256)


def load_random(config: ModelConfig, report: Report) -> LoadedModel:
    """The shape that `config.model` names, with random weights."""
    module = random_module(SHAPES[config.model], choose_device(config.device))
    return adopt_module(config, module, report)

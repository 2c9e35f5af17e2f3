"""The models of tasks that are served beside the language model, as the settings ask for them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tritonlm.config import ModelConfig, parse_settings
from tritonlm.encoders.config import CONFIGS, LOG_SETTINGS, TaskConfig
from tritonlm.errors import InvalidArgument, from_code
from tritonlm.server import checkpoint
from tritonlm.server.settings import ServerSettings

SHARED = ("device", *LOG_SETTINGS)


def chosen(settings: ServerSettings, beside: ModelConfig) -> tuple[TaskConfig, ...]:
    """Settings of each task that has a model, its checkpoint found and checked.

    What `SHARED` names is as with the language model `beside` them, unless they say another.
    Raises `InvalidArgument`.
    """
    all_texts = beside.to_parameters()
    shared = {name: all_texts[name] for name in SHARED if name in all_texts}
    tasks = []
    for task in CONFIGS:
        model = getattr(settings, f"{task}_model")
        texts = _texts(f"{task}_settings", getattr(settings, f"{task}_settings"))
        if model is not None:
            tasks.append(_complete(task, shared | texts | {"model": model}))
    return tuple(tasks)


def _complete(task: str, texts: dict[str, str]) -> TaskConfig:
    try:
        config: TaskConfig = parse_settings(CONFIGS[task], texts)
        folder = checkpoint.resolve(config.model, config.revision, task)
    except InvalidArgument as error:
        raise from_code(error.code, f"{task}_{error.message}") from None
    return replace(config, model=str(folder), revision=None)


def _texts(name: str, given: str) -> dict[str, str]:
    """The settings in a JSON object, as config.pbtxt would have them."""
    try:
        values: Any = json.loads(given)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or "model" in values:
        raise InvalidArgument(name, given, "it must be a JSON object without \"model\"")
    return {key: value if isinstance(value, str) else json.dumps(value)
            for key, value in values.items()}

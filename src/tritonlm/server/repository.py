"""The repositories that are served: copies of those in the checkout, with the settings in them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritonlm.config import settings_texts
from tritonlm.encoders.config import TaskConfig
from tritonlm.errors import StartFailure
from tritonlm.server.queue_policy import with_queue_policy
from tritonlm.server.runtime import PROJECT

REPOSITORIES = (PROJECT / "model_repository", PROJECT / "ensembles")
TASK_REPOSITORY = PROJECT / "task_repository"
TASKS = {"embed": ("embed", "embed_tokenize", "embedding"),
         "rerank": ("rerank", "rerank_tokenize", "reranking"), "classify": ("classify",)}
"""The models of each task."""
FRONT_END = "generate"
CONFIG_NAME = "config.pbtxt"


def render(
    sources: tuple[Path, ...], target: Path, settings: Mapping[str, str], front_ends: int,
    has_cache: bool = False,
) -> list[Path]:
    """Copies of `sources` in `target`, whose Python models have `settings` as parameters.

    The front end model gets `front_ends` instances; a server that `has_cache` uses it for the
    models that have a setting for it. Raises `StartFailure` for a source without
    models, or with a model that has no readable config.
    """
    copies = []
    for source in sources:
        models = [folder for folder in sorted(source.glob("*")) if folder.is_dir()]
        if not models:
            raise StartFailure(f"there are no models in {source}")
        for model in models:
            _copy(model, target / source.name / model.name, settings, front_ends, has_cache)
        copies.append(target / source.name)
    return copies


def render_tasks(target: Path, tasks: Sequence[TaskConfig], has_cache: bool = False) -> list[Path]:
    """Copies of the models of `tasks` in `target`, with their settings; nothing without tasks."""
    copy = target / TASK_REPOSITORY.name
    for task in tasks:
        for name in TASKS[task.task]:
            _copy(TASK_REPOSITORY / name, copy / name, settings_texts(task), 1, has_cache)
            if task.queue_policy:
                config = copy / name / CONFIG_NAME
                config.write_text(with_queue_policy(config.read_text()))
    return [copy] if tasks else []


def _copy(
    model: Path, copy: Path, settings: Mapping[str, str], front_ends: int, has_cache: bool
) -> None:
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("__pycache__"))
    config = _read(model / CONFIG_NAME)
    _edit(config, settings, front_ends, has_cache)
    (copy / CONFIG_NAME).write_text(text_format.MessageToString(config))


def _read(path: Path) -> Any:
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise StartFailure(f"{path} cannot be read: {error}") from None


def _edit(config: Any, settings: Mapping[str, str], front_ends: int, has_cache: bool) -> None:
    if config.backend != "python":
        return
    for name, text in settings.items():
        config.parameters[name].string_value = text
    if config.HasField("response_cache"):
        config.response_cache.enable |= has_cache
    if config.name == FRONT_END:
        group = config.instance_group[0] if config.instance_group else config.instance_group.add()
        group.count = front_ends

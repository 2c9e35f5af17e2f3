"""Whether a model can run here, found out before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritonlm.config import ModelConfig, parse_settings
from tritonlm.contract import MODELS, TASK_MODELS
from tritonlm.encoders.config import TaskConfig
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.server import checkpoint
from tritonlm.server.device import choose_device, device_bytes
from tritonlm.server.memory_need import (
    GIB,
    LENGTHS,
    MemoryNeed,
    default_kv_cache_gib,
    estimate,
    longest_request_bytes,
    read_config,
)
from tritonlm.server.model_store import PARTS, SETTINGS, ModelStore
from tritonlm.server.repository import CONFIG_NAME


def complete(
    source: str, revision: str | None, task: str, texts: Mapping[str, str]
) -> ModelConfig | TaskConfig:
    """The settings of a model that can run here, complete; raises `InvalidArgument`.

    `source` is a hub id or a folder, `texts` are the settings that are given.
    """
    if task not in SETTINGS:
        raise InvalidArgument("task", task, f"allowed: {', '.join(SETTINGS)}")
    config: ModelConfig | TaskConfig = parse_settings(SETTINGS[task], {"model": source, **texts})
    folder = checkpoint.resolve(source, revision, task)
    config = replace(config, model=str(folder))
    device = choose_device(config.device)
    if isinstance(config, ModelConfig) and config.kv_cache_gib is None:
        config = replace(config, kv_cache_gib=default_kv_cache_gib(folder, config, device))
    check(config, task)
    return config


def check(config: ModelConfig | TaskConfig, task: str) -> MemoryNeed:
    """What the model of complete settings needs; raises `InvalidArgument` if it cannot run here."""
    folder = Path(config.model)
    if not folder.is_dir():
        raise InvalidArgument("model", config.model, "there is no such folder")
    checkpoint.check(folder, task)
    device = choose_device(config.device)
    if isinstance(config, ModelConfig):
        _check_lengths(config, folder, device)
    need, there = estimate(folder, config, task, device), device_bytes(device)
    if not there:
        raise InvalidArgument("device", config.device, "this machine has no usable CUDA device; "
                                                       "allowed: auto, cpu")
    if need.total > there:
        field = "model" if need.total - need.kv_cache > there else "kv_cache_gib"
        raise InvalidArgument(field, getattr(config, field),
                              f"it needs {need}; the {device} has {there / GIB:.2f} GiB")
    return need


def _check_lengths(config: ModelConfig, folder: Path, device: str) -> None:
    asked, texts = config.max_model_len, read_config(folder)
    made_for = next((texts[name] for name in LENGTHS if texts.get(name)), None)
    if asked is not None and made_for is not None and asked > made_for:
        raise InvalidArgument("max_model_len", asked,
                              f"the checkpoint is made for at most {made_for}")
    longest = longest_request_bytes(folder, config, device)
    if asked is not None and longest > (config.kv_cache_gib or 0) * GIB:
        raise InvalidArgument("kv_cache_gib", config.kv_cache_gib,
                              f"one request of {asked} tokens needs {longest / GIB:.3f} GiB")


def find_problems(store: ModelStore, name: str) -> Iterator[str]:
    """What is amiss with a model of the store."""
    try:
        model = store.read(name)
    except ServingError as error:
        yield error.message
        return
    for version, config in model.versions.items():
        try:
            check(config, model.task)
        except ServingError as error:
            yield f"version {version}: {error.message}"
        for part in model.parts:
            if not (store.folder / part / str(version) / "model.py").exists():
                yield f"version {version}: {part} has no such version"
    for suffix, source in PARTS[model.task].items():
        yield from _config_problems(store.folder / (name + suffix) / CONFIG_NAME, source)


def _config_problems(path: Path, source: str) -> Iterator[str]:
    """Where the config of a part is not what the contract says."""
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        yield f"{path}: {error}"
        return
    contract = {**MODELS, **TASK_MODELS}[source]
    if config.name != path.parent.name:
        yield f"{path}: its name is {config.name!r}"
    for kind, tensors, wanted in (("inputs", config.input, contract.inputs),
                                  ("outputs", config.output, contract.outputs)):
        odd = {tensor.name for tensor in tensors} ^ {tensor.name for tensor in wanted}
        if odd:
            yield f"{path}: its {kind} are not those of this tritonlm: {', '.join(sorted(odd))}"

"""The checkpoint to serve: found in a folder or fetched from the hub, and looked at before loading.

What is wrong with it raises `InvalidArgument` for `model`, in a second and not after a load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tritonlm.encoders.config import misfit
from tritonlm.errors import InvalidArgument

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
READ_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""What is fetched of a hub model beside its weights."""
SAFETENSORS, PICKLES = "*.safetensors", "pytorch_model*.bin"
DUPLICATE_WEIGHTS = ("consolidated*", "original/*", "onnx/*")
CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")


def resolve(name: str, revision: str | None, task: str = "generate") -> Path:
    """The folder of the checkpoint that a folder's path or a hub id names, complete and checked.

    `task` is what its model is to do: generate, embed, rerank or classify.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InvalidArgument("revision", revision, f"{folder} is a folder, and has none")
    else:
        if name.startswith(("/", ".", "~")) or name.count("/") > 1:
            raise InvalidArgument("model", name, "there is no such folder")
        folder = _fetch(name, revision, task)
    check(folder, task)
    return folder.resolve()


def check(folder: Path, task: str = "generate") -> None:
    """`folder` has the config of a model that fits `task`, whole weights, and a tokenizer."""
    config = _read_json(folder, "config.json")
    _check_architecture(folder, config, task)
    weights = sorted(folder.glob(SAFETENSORS))
    if not weights and not any(folder.glob(PICKLES)):
        raise _refused(folder, f"it has no weights, neither {SAFETENSORS} nor {PICKLES}")
    if (folder / "model.safetensors.index.json").exists():
        _check_shards(folder)
    for file in weights:
        _check_weights(folder, file)
    if not any((folder / file).exists() for file in TOKENIZER_FILES):
        raise _refused(folder, f"it has no tokenizer, none of {', '.join(TOKENIZER_FILES)}")


def _fetch(name: str, revision: str | None, task: str) -> Path:
    """The hub model's folder in the local cache, after fetching what of it is missing there."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  not needed for a folder

    try:
        config = snapshot_download(name, revision=revision, allow_patterns=["config.json"])
        if not (Path(config) / "config.json").exists():
            raise InvalidArgument("model", name, "it has no config.json on the hub")
        _check_architecture(name, _read_json(Path(config), "config.json"), task)
        folder = _fetch_weights(name, revision, SAFETENSORS)
        if not any(folder.glob(SAFETENSORS)):
            folder = _fetch_weights(name, revision, PICKLES)
    except InvalidArgument:
        raise
    except Exception as error:  # of the hub, the network or the disk: they share no base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgument("model", name, "there is no such folder, and the hub did not give "
                                             f"it: {reason}") from None
    return folder


def _fetch_weights(name: str, revision: str | None, pattern: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    return Path(snapshot_download(name, revision=revision, allow_patterns=[*READ_FILES, pattern],
                                  ignore_patterns=list(DUPLICATE_WEIGHTS)))


def _check_architecture(where: Path | str, config: dict[str, Any], task: str) -> None:
    names = config.get("architectures") or []
    if task != "generate":
        reason = misfit(task, names)
        if reason:
            raise _refused(where, reason)
        return
    if any(name.endswith(CAUSAL_SUFFIXES) for name in names):
        return  # the usual case, without the seconds that importing transformers takes
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_MODELS,
    )

    kind = config.get("model_type")
    if not (set(names) & set(CAUSAL_MODELS.values()) if names else kind in CAUSAL_MODELS):
        raise _refused(where, f"it is a {', '.join(names) or kind or 'model of unknown type'}, "
                              "not a causal language model")


def _check_shards(folder: Path) -> None:
    index = _read_json(folder, "model.safetensors.index.json")
    shards = sorted(set(index.get("weight_map", {}).values()))
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise _refused(folder, f"{len(missing)} of its {len(shards)} files of weights are missing, "
                               f"{missing[0]} first")


def _check_weights(folder: Path, file: Path) -> None:
    try:
        with safe_open(file, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise _refused(folder, f"{file.name} cannot be read: {error}") from None


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise _refused(folder, f"it has no {name}") from None
    except (OSError, ValueError) as error:
        raise _refused(folder, f"its {name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise _refused(folder, f"its {name} is not a JSON object")
    return value


def _refused(where: Path | str, reason: str) -> InvalidArgument:
    return InvalidArgument("model", str(where), reason)

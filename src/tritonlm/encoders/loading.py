"""Weights of a checkpoint as the module of a task, on its device."""

from __future__ import annotations

from typing import Any

from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.engine.device import choose_device
from tritonlm.errors import first_line

UNUSED_HEAD = "pooler"
"""What base models have and embeddings do without."""


def load_module(checkpoint: Checkpoint, auto_class: Any) -> Any:
    """The module that `auto_class` of transformers makes; raises `InvalidArgument`."""
    settings = checkpoint.settings
    device = choose_device(settings.device)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    try:
        module, report = auto_class.from_pretrained(
            settings.model, revision=settings.revision, config=checkpoint.config, dtype=dtype,
            output_loading_info=True)
    except (OSError, ValueError, KeyError, ImportError, TypeError, RuntimeError) as error:
        raise checkpoint.refused(f"it cannot be loaded: {first_line(error)}") from error
    missing = sorted(name for name in report["missing_keys"] if UNUSED_HEAD not in name)
    if missing:
        raise checkpoint.refused(f"a {checkpoint.architecture} does not have all weights of a "
                                 f"{type(module).__name__}: {missing[0]} is missing")
    module.config.use_cache = False
    return module.requires_grad_(False).eval().to(device)


def pad_id(module: Any, tokenizer: Any) -> int:
    """What to pad with, which some models look for: one that no text ends in."""
    config = module.config.get_text_config()
    known = (config.pad_token_id, tokenizer.pad_token_id, config.vocab_size - 1)
    config.pad_token_id = next(token for token in known if token is not None)
    return int(config.pad_token_id)

"""Weights of a checkpoint as the module of a task, on its device."""

from __future__ import annotations

from typing import Any

import torch

from tritonlm.container import num_usable_cores
from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.encoders.packed_linear import pack_linears
from tritonlm.engine.device import choose_device, is_out_of_memory, take_cores
from tritonlm.errors import first_line

NO_MEMORY = "there is not enough memory for it"
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
        _make_ready(module, device)
    except (OSError, ValueError, KeyError, ImportError, TypeError, RuntimeError,
            MemoryError) as error:
        what = NO_MEMORY if is_out_of_memory(error) else "it cannot be loaded"
        raise checkpoint.refused(f"{what}: {first_line(error)}") from error
    missing = sorted(name for name in report["missing_keys"] if UNUSED_HEAD not in name)
    if missing:
        raise checkpoint.refused(f"a {checkpoint.architecture} does not have all weights of a "
                                 f"{type(module).__name__}: {missing[0]} is missing")
    module.config.use_cache = False
    return module


def _make_ready(module: Any, device: torch.device) -> None:
    """Put it on the device, as it runs fastest there."""
    module.requires_grad_(False).eval().to(device)
    if device.type != "cpu":
        return
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if has_onednn and module.dtype == torch.float32:
        pack_linears(module, module.get_input_embeddings().weight)
    # The threads of a product wait for one another, and all of them for the one whose core
    # tritonserver has at the moment.
    take_cores(num_usable_cores() - 1)


def pad_id(module: Any, tokenizer: Any) -> int:
    """What to pad with, which some models look for: one that no text ends in."""
    config = module.config.get_text_config()
    known = (config.pad_token_id, tokenizer.pad_token_id, config.vocab_size - 1)
    config.pad_token_id = next(token for token in known if token is not None)
    return int(config.pad_token_id)

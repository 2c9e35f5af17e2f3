"""How large a KV cache can be, beside the weights and what a step takes."""

from __future__ import annotations

import psutil
import torch

from tritonlm.config import ModelConfig
from tritonlm.engine.cache import bytes_per_slot
from tritonlm.engine.dry_run import step_bytes
from tritonlm.engine.loading import LoadedModel
from tritonlm.errors import InvalidArgument

GPU_MEMORY_SHARE = 0.9
"""Of what the largest step leaves free; captured graphs and the sampler take some of the rest."""
CPU_CACHE_BYTES = 2**30
MIN_CACHED_TOKENS = 32


def choose_num_blocks(config: ModelConfig, model: LoadedModel) -> int:
    """Blocks that the KV cache gets; raises `InvalidArgument` if not even one fits."""
    block_bytes = bytes_per_slot(model.layers, model.cache_dtype) * config.block_size
    if config.kv_cache_gib is not None:
        available = int(config.kv_cache_gib * 2**30)
    elif model.device.type == "cuda":
        num_logits = config.max_num_seqs + config.max_prefill_chunk  # of prompts that are measured
        taken = step_bytes(model, config.step_tokens, num_logits)
        available = int((_free_bytes(model.device) - taken) * GPU_MEMORY_SHARE)
    else:
        available = min(CPU_CACHE_BYTES, psutil.virtual_memory().available // 2)
    most_useful = config.max_num_seqs * -(-model.max_model_len // config.block_size)
    num_blocks = min(available // block_bytes, most_useful)
    if num_blocks < 2 or num_blocks * config.block_size < MIN_CACHED_TOKENS:
        raise InvalidArgument("kv_cache_gib", f"{max(available, 0) / 2**30:.3g}", f"a block of "
                              f"{config.block_size} tokens takes {block_bytes / 2**30:.3g} GiB, "
                              f"and at least 2 blocks and {MIN_CACHED_TOKENS} tokens are needed")
    return num_blocks


def _free_bytes(device: torch.device) -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]

"""Runs batches with the reference attention, one after the other: on a CPU."""

from __future__ import annotations

import inspect

import numpy as np
import psutil
import torch

from tritonlm.config import ModelConfig
from tritonlm.engine.attention.interface import use_attention
from tritonlm.engine.attention.reference import ReferenceAttention
from tritonlm.engine.batch import Batch
from tritonlm.engine.cache import KVCache, bytes_per_slot
from tritonlm.engine.choosing import choose
from tritonlm.engine.loading import LoadedModel
from tritonlm.engine.step_runner import FinishedStep
from tritonlm.engine.table import RequestTable
from tritonlm.errors import InvalidArgument

GPU_MEMORY_SHARE = 0.85
CPU_CACHE_BYTES = 2**30
MIN_CACHED_TOKENS = 32


class Runner:
    """A model, its cache of `num_blocks` blocks, and one step on them."""

    def __init__(self, model: LoadedModel, num_blocks: int, block_size: int) -> None:
        self._model = model
        self._block_size = block_size
        self._cache = KVCache(model.layers, num_blocks * block_size, model.cache_dtype,
                              model.device)
        if model.device.type == "cpu":
            _lay_out_by_column(model.module)
        parameters = inspect.signature(model.module.forward).parameters
        self._can_choose_logits = "logits_to_keep" in parameters

    @torch.inference_mode()
    def run(self, batch: Batch, table: RequestTable) -> FinishedStep:
        """Compute `batch`, whose requests are those of `table`."""
        if table.sampling.is_plain[batch.rows].all():
            return FinishedStep(self.logits(batch).argmax(dim=-1).int().cpu().numpy())
        logits = self.logits(batch)
        newest = torch.from_numpy(batch.token_ids[batch.last_places]).to(logits.device).long()
        chosen = choose(logits, batch, table, newest)
        return FinishedStep(chosen.token_ids.int().cpu().numpy(), chosen.logprobs)

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        """What the model predicts, float32 [n + m, V].

        After the n tokens `batch.asked`; then after the last token of each of `batch.sampled`.
        """
        model, device = self._model, self._model.device
        attention = ReferenceAttention(batch, self._cache, self._block_size, device)
        wanted = self._wanted(batch)
        can_choose = wanted is not None and wanted.numel() and self._can_choose_logits
        kept = {"logits_to_keep": wanted} if can_choose else {}
        with use_attention(attention):
            logits: torch.Tensor = model.module(
                input_ids=torch.from_numpy(batch.token_ids).long().to(device)[None],
                position_ids=torch.from_numpy(batch.positions).long().to(device)[None],
                use_cache=False,
                **kept,
            ).logits[0]
        return (logits if wanted is None or kept else logits[wanted]).float()

    def _wanted(self, batch: Batch) -> torch.Tensor | None:
        """The tokens whose logits are wanted; None if these are all, in their order."""
        if batch.sampled.size == batch.token_ids.size:
            return None
        wanted = np.concatenate((batch.asked, batch.last_places))
        return torch.from_numpy(wanted).to(self._model.device)


def _lay_out_by_column(module: torch.nn.Module) -> None:
    """Store the float32 matrices of `module` by column, but for those that look up embeddings.

    The product with a single token is up to twice as fast so, with more tokens it is as fast.
    """
    looked_up = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    for linear in [m for m in module.modules() if type(m) is torch.nn.Linear]:
        if linear.weight.dtype == torch.float32 and id(linear.weight) not in looked_up:
            linear.weight.data = linear.weight.data.t().contiguous().t()


def choose_num_blocks(config: ModelConfig, model: LoadedModel) -> int:
    """Blocks that the KV cache gets; raises `InvalidArgument` if not even one fits."""
    block_bytes = bytes_per_slot(model.layers, model.cache_dtype) * config.block_size
    if config.kv_cache_gib is not None:
        available = int(config.kv_cache_gib * 2**30)
    elif model.device.type == "cuda":
        available = int(torch.cuda.mem_get_info(model.device)[0] * GPU_MEMORY_SHARE)
    else:
        available = min(CPU_CACHE_BYTES, psutil.virtual_memory().available // 2)
    most_useful = config.max_num_seqs * -(-model.max_model_len // config.block_size)
    num_blocks = min(available // block_bytes, most_useful)
    if num_blocks < 2 or num_blocks * config.block_size < MIN_CACHED_TOKENS:
        raise InvalidArgument("kv_cache_gib", f"{available / 2**30:.3g}", f"a block of "
                              f"{config.block_size} tokens takes {block_bytes / 2**30:.3g} GiB, "
                              f"and at least 2 blocks and {MIN_CACHED_TOKENS} tokens are needed")
    return num_blocks

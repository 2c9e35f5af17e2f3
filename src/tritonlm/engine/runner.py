"""Runs batches with the reference attention, one after the other: on a CPU."""

from __future__ import annotations

import numpy as np
import torch

from tritonlm.engine.attention.interface import use_attention
from tritonlm.engine.attention.reference import ReferenceAttention
from tritonlm.engine.batch import Batch
from tritonlm.engine.cache import KVCache
from tritonlm.engine.choosing import choose
from tritonlm.engine.loading import LoadedModel
from tritonlm.engine.step_runner import FinishedStep
from tritonlm.engine.table import RequestTable


class Runner:
    """A model, its cache of `num_blocks` blocks, and one step on them."""

    def __init__(self, model: LoadedModel, num_blocks: int, block_size: int) -> None:
        self._model = model
        self._block_size = block_size
        self._cache = KVCache(model.layers, num_blocks * block_size, model.cache_dtype,
                              model.device)
        if model.device.type == "cpu":
            _lay_out_by_column(model.module)

    @torch.inference_mode()
    def run(self, batch: Batch, table: RequestTable) -> FinishedStep:
        """Compute `batch`, whose requests are those of `table`."""
        if table.sampling.is_plain[batch.rows].all():
            return FinishedStep(self.logits(batch).argmax(dim=-1).int().cpu().numpy())
        logits = self.logits(batch)
        newest = torch.from_numpy(batch.token_ids[batch.last_places]).to(logits.device).long()
        num_asked = batch.asked.size
        chosen = choose(logits[:num_asked], logits[num_asked:], batch, table, newest)
        return FinishedStep(chosen.token_ids.int().cpu().numpy(), chosen.logprobs)

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        """What the model predicts, in its type, [n + m, V].

        After the n tokens `batch.asked`; then after the last token of each of `batch.sampled`.
        """
        model, device = self._model, self._model.device
        attention = ReferenceAttention(batch, self._cache, self._block_size, device)
        wanted = self._wanted(batch)
        kept = {}
        if wanted is not None and model.can_choose_logits:
            # Where none are wanted there is one: the logits of all tokens are large.
            kept = {"logits_to_keep": wanted if wanted.numel() else wanted.new_zeros(1)}
        with use_attention(attention):
            logits: torch.Tensor = model.module(
                input_ids=torch.from_numpy(batch.token_ids).long().to(device)[None],
                position_ids=torch.from_numpy(batch.positions).long().to(device)[None],
                use_cache=False,
                **kept,
            ).logits[0]
        if wanted is None:
            return logits
        return logits[: wanted.numel()] if kept else logits[wanted]

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

"""Rows of any lengths through a module, in batches of rows of about one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tritonlm.encoders.batches import cut
from tritonlm.encoders.rows import Row, pad

BATCH_COST = {"cpu": 32, "cuda": 4096}
"""What a batch costs beside its tokens, in tokens: on a GPU, few rows take as long as one."""
PROBE_LENGTHS = (7, 4)
TOLERANCES = {torch.float32: 1e-4}
ROUGH_TOLERANCE = 0.1
"""In 16 bits."""

Inputs: TypeAlias = dict[str, torch.Tensor]
Forward: TypeAlias = Callable[[Inputs], torch.Tensor]
"""From `input_ids`, `attention_mask` and perhaps `token_type_ids` to float32 [rows, width]."""


@dataclass
class Work:
    """What has been computed."""

    num_rows: int = 0
    num_batches: int = 0
    num_tokens: int = 0
    num_padding_tokens: int = 0


class RowRunner:
    """Runs `forward`, a function of `module`, over rows; belongs to one thread."""

    def __init__(
        self, module: Any, forward: Forward, pad_id: int, max_batch_tokens: int,
        has_types: bool = False, is_left: bool = False,
    ) -> None:
        self.work = Work()
        self.batch_cost = BATCH_COST[module.device.type]
        self._module, self._forward = module, forward
        self._pad_id, self._max_batch_tokens = pad_id, max_batch_tokens
        self._has_types, self._is_left = has_types, is_left

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """One vector for each row, float32 [rows, width]."""
        batches = cut([row.ids.size for row in rows], self._max_batch_tokens, self.batch_cost)
        # All are launched before the first is read back.
        results = [self._run_batch([rows[place] for place in batch]) for batch in batches]
        order = torch.from_numpy(np.argsort(np.concatenate(batches)))
        values: NDArray[np.float32] = torch.cat(results).cpu()[order].numpy()
        return values

    @torch.inference_mode()
    def _run_batch(self, rows: Sequence[Row]) -> torch.Tensor:
        padded = pad(rows, self._pad_id, self._is_left)
        inputs = {"input_ids": padded.input_ids, "attention_mask": padded.attention_mask}
        if self._has_types:
            inputs["token_type_ids"] = padded.token_type_ids
        num_tokens = int(padded.attention_mask.sum())
        self.work.num_rows += len(rows)
        self.work.num_batches += 1
        self.work.num_tokens += num_tokens
        self.work.num_padding_tokens += padded.input_ids.size - num_tokens
        return self._forward({name: torch.from_numpy(array).to(self._module.device)
                              for name, array in inputs.items()})

    def probe(self) -> str | None:
        """Why rows cannot be computed together; None if they can."""
        ids = np.setdiff1d(np.arange(2, 12, dtype=np.int32), self._pad_id)
        rows = [Row(ids[:length]) for length in PROBE_LENGTHS]
        together = self._run_batch(rows)
        alone = torch.cat([self._run_batch([row]) for row in rows])
        self.work = Work()
        scale = float(alone.abs().max()) or 1.0
        error = float((together - alone).abs().max()) / scale
        if error <= TOLERANCES.get(self._module.dtype, ROUGH_TOLERANCE):
            return None
        return f"rows that are computed together come out differently, by {error:.1%}"

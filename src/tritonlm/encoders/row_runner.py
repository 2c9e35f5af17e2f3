"""Rows of any lengths through a module, in batches of rows of about one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from tritonlm.encoders.batches import cut
from tritonlm.encoders.captured import (
    CapturedForward,
    Forward,
    Inputs,
    Recorder,
    relative_error,
)
from tritonlm.encoders.rows import Ids, Row, pad, shape_of
from tritonlm.encoders.shapes import Shape, Shapes
from tritonlm.engine.device import put

BATCH_COST = {"cpu": 32, "cuda": 4096}
"""What a batch costs beside its tokens, in tokens: on a GPU, few rows take as long as one."""
CAPTURED_BATCH_COST = 1024
"""On a GPU that is told at once what to compute."""
PROBE_LENGTHS = (7, 4)
PROBE_IDS = np.arange(2, 12, dtype=np.int32)
TOLERANCES = {torch.float32: 1e-4}
ROUGH_TOLERANCE = 0.1
"""In 16 bits."""


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
        self.device: torch.device = module.device
        self.batch_cost = BATCH_COST[self.device.type]
        self._module, self._forward = module, CapturedForward(forward)
        self._pad_id, self._max_batch_tokens = pad_id, max_batch_tokens
        self._has_types, self._is_left = has_types, is_left

    @property
    def num_graphs(self) -> int:
        """Shapes of batches that are replayed."""
        return self._forward.num_graphs

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """One vector for each row, float32 [rows, width]."""
        batches = cut([row.ids.size for row in rows], self._max_batch_tokens, self.batch_cost)
        # All are launched before the first is read back.
        results = [self._run_batch([rows[place] for place in batch]) for batch in batches]
        order = np.argsort(np.concatenate(batches))
        # Put in order by numpy: torch would wake a thread for each core of the machine.
        values: NDArray[np.float32] = torch.cat(results).cpu().numpy()[order]
        return values

    def probe(self) -> str | None:
        """Why rows cannot be computed together; None if they can."""
        ids = self._probe_ids()
        rows = [Row(ids[:length]) for length in PROBE_LENGTHS]
        together = self._run_batch(rows)
        alone = torch.cat([self._run_batch([row]) for row in rows])
        self.work = Work()
        error = relative_error(together, alone)
        if error <= self._max_error:
            return None
        return f"rows that are computed together come out differently, by {error:.1%}"

    @torch.inference_mode()
    def capture(self, max_row_len: int, recorder: Recorder) -> None:
        """Have batches of rows of up to `max_row_len` tokens replayed, where that is faster."""
        random = np.random.default_rng(0)
        self._forward.capture(
            Shapes(max_row_len, self._max_batch_tokens), recorder, partial(self._draw, random),
            self._max_error, partial(tqdm, desc="tritonlm: capturing graphs", unit="graph"))
        if self.num_graphs:
            self.batch_cost = CAPTURED_BATCH_COST

    @torch.inference_mode()
    def _run_batch(self, rows: Sequence[Row]) -> torch.Tensor:
        num_tokens = sum(row.ids.size for row in rows)
        shape = self._forward.padded(shape_of(rows))
        self.work.num_rows += len(rows)
        self.work.num_batches += 1
        self.work.num_tokens += num_tokens
        self.work.num_padding_tokens += shape.num_tokens - num_tokens
        return self._forward(self._inputs(rows, shape))[: len(rows)]

    def _inputs(self, rows: Sequence[Row], shape: Shape) -> Inputs:
        """Of that shape, on the module's device."""
        padded = pad(rows, shape, self._pad_id, self._is_left)
        inputs = {"input_ids": padded.input_ids, "attention_mask": padded.attention_mask}
        if self._has_types:
            inputs["token_type_ids"] = padded.token_type_ids
        return {name: put(array, self.device) for name, array in inputs.items()}

    def _draw(self, random: np.random.Generator, shape: Shape) -> Inputs:
        """Of that shape, with padding in every row."""
        lengths = random.integers(1, max(shape.length, 2), shape.num_rows)
        return self._inputs([Row(random.choice(self._probe_ids(), length))
                             for length in lengths], shape)

    def _probe_ids(self) -> Ids:
        """Some that are in any vocabulary, and are no padding."""
        return np.setdiff1d(PROBE_IDS, self._pad_id)

    @property
    def _max_error(self) -> float:
        """Between results that ought to be the same."""
        return TOLERANCES.get(self._module.dtype, ROUGH_TOLERANCE)

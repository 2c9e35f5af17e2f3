"""The admitted requests as one table: a row each, arrays by column, so that a step has no loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.messages import Submit
from tritonlm.engine.sampling_columns import SamplingColumns

MAX_STOP_IDS = 32
"""Stop ids of a request, those of the model and its own."""


class RequestTable:
    """Columns of `num_rows` requests; a row is free, or in use from admission to its end."""

    def __init__(
        self, num_rows: int, max_model_len: int, block_size: int, eos_ids: NDArray[np.int32]
    ) -> None:
        self.block_size = block_size
        self._eos_ids = eos_ids
        self.token_ids = np.zeros((num_rows, max_model_len), np.int32)
        self.num_prompt = np.zeros(num_rows, np.int32)
        self.num_tokens = np.zeros(num_rows, np.int32)
        self.num_computed = np.zeros(num_rows, np.int32)
        self.max_total = np.zeros(num_rows, np.int32)
        self.block_tables = np.zeros((num_rows, -(-max_model_len // block_size)), np.int32)
        self.num_blocks = np.zeros(num_rows, np.int32)
        self.stop_ids = np.full((num_rows, MAX_STOP_IDS), -1, np.int32)
        self.sampling = SamplingColumns(num_rows)
        self.deadline_s = np.full(num_rows, np.inf)
        self.owner = np.zeros(num_rows, np.int32)
        self.key = np.zeros(num_rows, np.int64)
        self.request_id = [""] * num_rows
        self._free_rows = list(range(num_rows - 1, -1, -1))

    @property
    def has_free_row(self) -> bool:
        """Whether another request can be admitted."""
        return bool(self._free_rows)

    def add(self, owner: int, request: Submit) -> int:
        """Write `request` of front end `owner` into a free row; return the row."""
        row = self._free_rows.pop()
        prompt = request.prompt()
        self.token_ids[row, : prompt.size] = prompt
        self.num_prompt[row] = self.num_tokens[row] = prompt.size
        self.num_computed[row] = self.num_blocks[row] = 0
        self.max_total[row] = prompt.size + request.max_tokens
        eos_ids = self._eos_ids[:0] if request.ignore_eos else self._eos_ids
        stop_ids = np.append(eos_ids, request.stop_token_ids)
        self.stop_ids[row] = -1
        self.stop_ids[row, : stop_ids.size] = stop_ids
        self.sampling.write(row, request)
        self.deadline_s[row] = request.deadline_s
        self.key[row] = request.key
        self.owner[row] = owner
        self.request_id[row] = request.request_id
        return row

    def remove(self, row: int) -> None:
        """Free `row`; its blocks have been given back."""
        self._free_rows.append(row)

    def blocks_of(self, row: int) -> NDArray[np.int32]:
        """The blocks of `row` in the order of its tokens, int32 [n]."""
        return self.block_tables[row, : self.num_blocks[row]]

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

"""The admitted requests as one table: a row each, arrays by column, so that a step has no loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.grammar import Grammar
from tritonlm.engine.messages import Submit
from tritonlm.engine.request import Request
from tritonlm.engine.sampling_columns import SamplingColumns

MAX_STOP_IDS = 32
"""Stop ids of a request, those of the model and its own."""


Rows = NDArray[np.intp]
"""Numbers of rows: those that arrays are indexed with fastest."""


class RequestTable:
    """Columns of `num_rows` requests.

    A row is in use from admission until its request is over and no launched step has it.
    """

    def __init__(
        self, num_rows: int, max_model_len: int, block_size: int, eos_ids: NDArray[np.int32]
    ) -> None:
        self.num_rows = num_rows
        self.block_size = block_size
        self._eos_ids = eos_ids
        self.requests: list[Request | None] = [None] * num_rows
        self.is_live = np.zeros(num_rows, np.bool_)
        """Whether the row's request is not over."""
        self.num_in_flight = np.zeros(num_rows, np.int32)
        """Steps that have the row and are not read back."""
        self.token_ids = np.zeros((num_rows, max_model_len), np.int32)
        self.num_prompt = np.zeros(num_rows, np.int32)
        self.num_tokens = np.zeros(num_rows, np.int32)
        """All tokens, those that launched steps sample included."""
        self.num_pending = np.zeros(num_rows, np.int32)
        """The last tokens, which launched steps sample: their ids are not known yet."""
        self.num_computed = np.zeros(num_rows, np.int32)
        """Tokens in the KV cache once all launched steps have run."""
        self.num_cached = np.zeros(num_rows, np.int32)
        """Tokens that were there at admission."""
        self.max_total = np.zeros(num_rows, np.int32)
        self.block_tables = np.zeros((num_rows, -(-max_model_len // block_size)), np.int32)
        self.num_blocks = np.zeros(num_rows, np.int32)
        self.num_published = np.zeros(num_rows, np.int32)
        """Blocks whose content is known to be there, and can be found by others."""
        self.stop_ids = np.full((num_rows, MAX_STOP_IDS), -1, np.int32)
        self.sampling = SamplingColumns(num_rows)
        self.owner = np.zeros(num_rows, np.int32)
        self.key = np.zeros(num_rows, np.int64)
        self.user = np.zeros(num_rows, np.int32)
        self.priority = np.zeros(num_rows, np.int32)
        """The class that the request had when it was admitted."""
        self.arrival = np.zeros(num_rows, np.int64)
        self.admitted_s = np.zeros(num_rows)
        self._free_rows = list(range(num_rows - 1, -1, -1))

    @property
    def num_live(self) -> int:
        """Requests that are not over."""
        return int(np.count_nonzero(self.is_live))

    def runnable(self) -> Rows:
        """Rows of the requests that have tokens left to compute, [n]."""
        return (self.is_live & (self.num_tokens < self.max_total)).nonzero()[0]

    def ready(self) -> Rows:
        """Those of `runnable` that the next step can take.

        One that a grammar holds sits out until its last token is known.
        """
        rows = self.runnable()
        is_guided = self.sampling.is_guided[rows]
        if not np.count_nonzero(is_guided):
            return rows
        ready: Rows = rows[~is_guided | (self.num_pending[rows] == 0)]
        return ready

    def most_urgent_first(
        self, rows: Rows, num_classes_up: NDArray[np.float64] | int = 0
    ) -> Rows:
        """`rows` by class, each `num_classes_up` higher than at admission, then by arrival."""
        classes = np.maximum(self.priority[rows] - num_classes_up, 0)
        ordered: Rows = rows[np.lexsort((self.arrival[rows], classes))]
        return ordered

    def admit(self, request: Request, now_s: float) -> int:
        """Write `request` into a free row, with what it has generated before; return the row."""
        row, num_tokens = self.add(request.owner, request.submit), request.num_tokens
        self.token_ids[row, :num_tokens] = request.token_ids
        self.num_tokens[row] = num_tokens
        self.requests[row] = request
        for name in ("user", "priority", "arrival"):
            getattr(self, name)[row] = getattr(request, name)
        self.admitted_s[row] = now_s
        return row

    def add(self, owner: int, submit: Submit) -> int:
        """Write what front end `owner` has submitted into a free row; return the row."""
        assert self._free_rows, "the table has too few rows for the steps in flight"
        row = self._free_rows.pop()
        prompt = submit.prompt()
        self.is_live[row] = True
        self.token_ids[row, : prompt.size] = prompt
        self.num_prompt[row] = self.num_tokens[row] = prompt.size
        self.num_pending[row] = self.num_computed[row] = 0
        self.num_blocks[row] = self.num_published[row] = 0
        self.max_total[row] = prompt.size + submit.max_tokens
        eos_ids = self._eos_ids[:0] if submit.ignore_eos else self._eos_ids
        stop_ids = np.append(eos_ids, submit.stop_token_ids)
        self.stop_ids[row] = -1
        self.stop_ids[row, : stop_ids.size] = stop_ids
        self.sampling.write(row, submit)
        self.owner[row] = owner
        self.key[row] = submit.key
        return row

    def grammars(self, rows: Rows) -> list[Grammar]:
        """What holds each of `rows`, which are guided."""
        requests = (self.requests[row] for row in rows.tolist())
        return [request.grammar for request in requests if request and request.grammar]

    def append_pending(self, rows: Rows) -> None:
        """A step that samples a token for each of `rows` is launched."""
        self.num_tokens[rows] += 1
        self.num_pending[rows] += 1

    def fill_in(self, rows: Rows, token_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The first pending token of each of `rows` is that of `token_ids`, both [n].

        Returns how many tokens of each are known now, int32 [n].
        """
        num_known = self.num_tokens[rows] - self.num_pending[rows]
        self.token_ids[rows, num_known] = token_ids
        self.num_pending[rows] -= 1
        return num_known + 1

    def known_tokens(self, row: int) -> NDArray[np.int32]:
        """The tokens of `row` whose ids are known, int32 [n]."""
        return self.token_ids[row, : self.num_tokens[row] - self.num_pending[row]]

    def remove(self, row: int) -> None:
        """The request of `row` is over; its blocks have been given back."""
        self.is_live[row] = False
        self.requests[row] = None
        if self.num_in_flight[row] == 0:
            self._free_rows.append(row)

    def take_off(self, rows: Rows) -> None:
        """A step with `rows` is handed out."""
        self.num_in_flight[rows] += 1

    def land(self, rows: Rows) -> None:
        """The step with `rows` is over; the rows that only waited for that are free."""
        self.num_in_flight[rows] -= 1
        over = rows[~self.is_live[rows]]
        if over.size:
            self._free_rows += over[self.num_in_flight[over] == 0].tolist()

    def blocks_of(self, row: int) -> NDArray[np.int32]:
        """The blocks of `row` in the order of its tokens, int32 [n]."""
        return self.block_tables[row, : self.num_blocks[row]]

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def block_contents(
        self, rows: Rows, places: NDArray[np.int64]
    ) -> list[bytes]:
        """The token ids of the blocks number `places` of `rows`, both [n], as bytes."""
        starts = places[:, None] * self.block_size
        ids = self.token_ids[rows[:, None], starts + np.arange(self.block_size)]
        contents: list[bytes] = ids.view(f"V{self.block_size * ids.itemsize}").ravel().tolist()
        return contents

"""An engine that gives every request a token a step, on a clock of its own."""

from __future__ import annotations

from collections import deque

import numpy as np

from tritonlm.engine.engine import News
from tritonlm.engine.messages import Submit

LENGTH_CODE = 2


class FakeEngine:
    """`num_places` requests run at a time; a step takes `step_s` of `clock`."""

    def __init__(self, num_places: int = 1000, step_s: float = 0.5) -> None:
        self.now_s = 0.0
        self.most_unfinished = 0
        self.failure = ""
        self._num_places = num_places
        self._step_s = step_s
        self._waiting: deque[Submit] = deque()
        self._num_left: dict[int, int] = {}

    def clock(self) -> float:
        return self.now_s

    def submit(self, owner: int, request: Submit) -> None:
        if request.priority == 0:
            self._waiting.appendleft(request)
        else:
            self._waiting.append(request)
        self.most_unfinished = max(self.most_unfinished, len(self._waiting) + len(self._num_left))

    def step(self) -> list[News]:
        self.now_s += self._step_s
        while self._waiting and len(self._num_left) < self._num_places:
            request = self._waiting.popleft()
            self._num_left[request.key] = request.max_tokens
        keys = np.array([*self._num_left], np.int64)
        self._num_left = {key: left - 1 for key, left in self._num_left.items() if left > 1}
        reasons = np.array([0 if key in self._num_left else LENGTH_CODE for key in keys], np.uint8)
        ids = np.zeros(keys.size, np.int32)
        return [News(ids, keys, ids, reasons, failure=self.failure)]

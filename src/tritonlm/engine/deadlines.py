"""When requests run out of time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

from tritonlm.engine.request import Request

Name = tuple[int, int]
"""Owner and key of a request."""
NUM_SPARE = 64
"""Entries of requests that are over, beside as many as there are others."""


class Deadlines:
    """Those of the requests in a mapping by name, which others take out of it."""

    def __init__(self, requests: Mapping[Name, Request]) -> None:
        self._requests = requests
        self._due: list[tuple[float, Name]] = []
        """A heap, with entries of requests that are over."""

    def __len__(self) -> int:
        return len(self._due)

    def add(self, name: Name) -> None:
        """Watch the request called `name`."""
        deadline_s = self._requests[name].submit.deadline_s
        if deadline_s == math.inf:
            return
        if len(self._due) >= 2 * len(self._requests) + NUM_SPARE:
            self._due = [entry for entry in self._due if self._is_watched(*entry)]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (deadline_s, name))

    def pass_by(self, now_s: float) -> list[Name]:
        """The requests whose deadline has passed, and that are not over; each is named once."""
        late = []
        while self._due and self._due[0][0] <= now_s:
            entry = heapq.heappop(self._due)
            if self._is_watched(*entry):
                late.append(entry[1])
        return late

    def _is_watched(self, deadline_s: float, name: Name) -> bool:
        """A name may be that of a later request."""
        request = self._requests.get(name)
        return request is not None and request.submit.deadline_s == deadline_s

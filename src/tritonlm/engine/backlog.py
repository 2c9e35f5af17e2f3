"""How much may wait for the engine, and how long it takes to go down."""

from __future__ import annotations

import math

from tritonlm.config import ModelConfig
from tritonlm.engine.messages import Submit
from tritonlm.engine.queue import WaitingQueue

RATE_INTERVAL_S = 1.0
MIN_RETRY_S, MAX_RETRY_S = 1, 60


class QueueFull(Exception):
    """There is no room now; the message says what is full, and when to retry."""


class Backlog:
    """The bounds of a queue: on its requests and on their prompts' tokens."""

    def __init__(self, queue: WaitingQueue, config: ModelConfig) -> None:
        self._queue = queue
        self._config = config
        self._num_spare_rows = config.max_num_seqs
        self._rate_per_s: float | None = None
        """Requests that left the queue, when requests waited last; None until that is known."""
        self._waited_since_s: float | None = None
        self._num_left = 0

    def check_room(self, submit: Submit) -> None:
        """Raise `QueueFull` if `submit` has to wait and there is no room to.

        What the next step can take in at once does not have to wait; a prompt that is longer than
        the bound on tokens may wait alone.
        """
        queue, config = self._queue, self._config
        if len(queue) < self._num_spare_rows:
            return
        if len(queue) - self._num_spare_rows >= config.max_waiting_requests:
            self._refuse(f"{len(queue)} requests wait, the most that max_waiting_requests allows")
        num_tokens = queue.num_prompt_tokens + submit.num_prompt_tokens
        if queue and num_tokens > config.max_waiting_tokens:
            self._refuse(f"prompts of {queue.num_prompt_tokens} tokens wait, and with this one "
                         f"more than max_waiting_tokens allows, {config.max_waiting_tokens}")

    def observe(self, num_idle_rows: int, now_s: float) -> None:
        """Take note of how things are after requests were let in."""
        queue = self._queue
        # Who is parked waits for something else than a row.
        self._num_spare_rows = 0 if queue.has_next else num_idle_rows
        if self._waited_since_s is not None:
            elapsed_s = now_s - self._waited_since_s
            if queue and elapsed_s < RATE_INTERVAL_S:
                return
            if elapsed_s >= RATE_INTERVAL_S:
                self._rate_per_s = (queue.num_left - self._num_left) / elapsed_s
        self._waited_since_s, self._num_left = now_s if queue else None, queue.num_left

    def _refuse(self, reason: str) -> None:
        """The hint is when those who wait will have been let in, at the rate of late."""
        retry_s = float(MIN_RETRY_S)
        if self._rate_per_s is not None:
            retry_s = len(self._queue) / max(self._rate_per_s, 1 / MAX_RETRY_S)
        retry_s = min(max(math.ceil(retry_s), MIN_RETRY_S), MAX_RETRY_S)
        raise QueueFull(f"{reason}; retry in {retry_s} s")

"""The sending thread of a front end: the only one that talks to the engine and answers Triton.

Tritonserver 24.10 crashes when several threads of a stub send. While this thread is busy sending,
the engine's news pile up; the next round takes them all, so that the tokens of a stream that is
behind travel together.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Sequence

from tritonlm.backend.arrivals import Cancellation, Refusal
from tritonlm.backend.endings import Endings
from tritonlm.backend.engines import EngineLost, EngineResources, Engines, EngineStats, Event
from tritonlm.backend.epilogue import Epilogue
from tritonlm.backend.generation import Generation
from tritonlm.backend.hang_ups import HangUps
from tritonlm.backend.keeper import EngineKeeper
from tritonlm.backend.metrics import FrontEndMetrics
from tritonlm.backend.outbox import Outbox
from tritonlm.backend.unfinished import Unfinished
from tritonlm.backend.vital import vital_thread
from tritonlm.config import ModelConfig
from tritonlm.engine import messages
from tritonlm.engine.endpoint import Endpoint
from tritonlm.errors import InvalidArgument, ServingError, Unavailable

SWEEP_INTERVAL_S = 0.1
"""How often deadlines are looked at."""
OVERDUE_S = 0.5
"""The engine ends requests at their deadline; one that has not by then may be hanging."""
IDLE_WAIT_MS = 500
DELIVERIES = 16
"""Requests whose news are sent before others are looked for that should go first."""
STOPPING = "the server is stopping, or is unloading this model; another may take the request"


class Session:
    """A thread that brings requests to the engines and their tokens back."""

    def __init__(
        self, config: ModelConfig, endpoint: Endpoint, keepers: Sequence[EngineKeeper],
        metrics: FrontEndMetrics, epilogue: Epilogue,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._epilogue = epilogue
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._engines = Engines(config, endpoint, self._wake_fd, keepers)
        self._inbox: deque[Generation | Refusal | Cancellation] = deque()
        self._unfinished = Unfinished()
        self._endings = Endings(epilogue)
        self._cancellations: dict[int, Cancellation] = {}
        self._num_keys = 0
        self._sweep_due_s = 0.0
        self._drain_due_s = math.inf
        self._hang_ups = HangUps()
        self._outbox = Outbox(config.stream_interval_ms / 1000)
        self._is_stopping = False
        self._has_started = threading.Event()
        self._thread = vital_thread(self._run, "sending thread")
        self.limits = messages.Ready(0, 0)

    def start(self) -> None:
        """Return when all engines are ready; raises `Unavailable` with the reason if one cannot."""
        self._thread.start()
        due_s = time.monotonic() + self._config.engine_start_timeout_s
        while not self._has_started.wait(0.05):
            failures = self._engines.failures()
            if failures:
                raise Unavailable(failures[0])
            if time.monotonic() > due_s:
                raise Unavailable("an engine was not ready within engine_start_timeout_s, "
                                  f"{self._config.engine_start_timeout_s:g} s")

    def put(self, item: Generation | Refusal | Cancellation) -> None:
        """Hand over a request; may be called from any thread."""
        if isinstance(item, Generation) and self._drain_due_s < math.inf:
            item = Refusal(item.answer, Unavailable(STOPPING))
        elif isinstance(item, Generation) and self._is_full():
            item = Refusal(item.answer, Unavailable(
                f"{self._config.max_unfinished_requests} requests are unfinished here, the most "
                "that max_unfinished_requests allows; retry in 1 s"))
        self._inbox.append(item)
        os.eventfd_write(self._wake_fd, 1)

    def drain(self, is_unload: bool) -> None:
        """Take no more requests, and end what is unfinished when its time is up.

        That is `unload_timeout_s` if it `is_unload`, and `drain_timeout_s` if the server stops.
        """
        config = self._config
        timeout_s = config.unload_timeout_s if is_unload else config.drain_timeout_s
        self._drain_due_s = min(self._drain_due_s, time.monotonic() + timeout_s)

    def stop(self) -> None:
        """End what is unfinished with an error, and the thread."""
        self._engines.await_idle(min(self._drain_due_s,
                                     time.monotonic() + self._config.drain_timeout_s))
        self._is_stopping = True
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        os.close(self._wake_fd)

    def _is_full(self) -> bool:
        return len(self._unfinished) + len(self._inbox) >= self._config.max_unfinished_requests

    def _run(self) -> None:
        self._engines.connect()
        while not self._is_stopping:
            self._engines.wait(self._wait_ms())
            self._drain_wake()
            self._take_inbox()
            self._receive()
            self._sweep()
            self._end_abandoned()
            self._engines.flush()
            self._metrics.show_unfinished(len(self._unfinished))
            self._metrics.flush()
        self._fail_all(Unavailable(STOPPING))
        self._take_inbox()
        self._fail_all(Unavailable(STOPPING))
        self._endings.retry()
        self._engines.close()
        self._epilogue.close()
        self._metrics.close()

    def _wait_ms(self) -> int:
        if not self._unfinished:
            return IDLE_WAIT_MS
        due_s = min(self._hang_ups.due_s, self._outbox.due_s) - time.monotonic()
        return math.ceil(1000 * min(max(due_s, 0), SWEEP_INTERVAL_S))

    def _drain_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass

    def _take_inbox(self) -> None:
        """Pass on what `put` has brought."""
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, Refusal):
                self._endings.fail(item.answer, item.error, is_refusal=True)
            elif isinstance(item, Generation):
                self._enter(item)
            elif self._engines.num_ready:
                self._num_keys += 1
                self._cancellations[self._num_keys] = item
                self._engines.cancel_by_id(self._num_keys, item.request_id)
            else:
                self._cancel_waiting(item)
        self._engines.flush()

    def _enter(self, generation: Generation) -> None:
        generation.enter(self._num_keys + 1)
        self._num_keys += len(generation.keys)
        self._unfinished.add(generation)
        if self._engines.num_ready:
            self._engines.submit(generation.submissions())

    def _receive(self) -> None:
        """Take all that the engines have said; then send what makes responses."""
        for event in self._engines.receive():
            if isinstance(event, messages.Tokens):
                self._outbox.take(event, self._unfinished.by_key)
            elif isinstance(event, EngineLost):
                self._deliver(len(self._unfinished))
                self._lose(event)
            else:
                self._handle(event)
        self._deliver()

    def _deliver(self, most: int = DELIVERIES) -> None:
        """Send what is due, but not all at once: first tokens may come in meanwhile."""
        for generation in self._outbox.take_due(most):
            self._guard(generation)

    def _guard(self, generation: Generation) -> None:
        """Deliver; a request whose response cannot be made fails alone."""
        try:
            self._engines.cancel(generation.deliver(self._metrics))
        except Exception as error:
            if not generation.answer.is_finished:
                self._fail(generation, error)
                return
        if generation.answer.is_finished:
            self._forget(generation)
            self._epilogue.tell(generation.answer, "finished", generation.finish_reason, generation)

    def _forget(self, generation: Generation) -> None:
        self._engines.forget(generation.keys)
        self._outbox.discard(generation)
        self._unfinished.remove(generation)

    def _handle(self, event: Event) -> None:
        if isinstance(event, messages.Ready):
            self._gain_engine(event)
        elif isinstance(event, messages.Failed):
            error = event.error()
            self._fail_keys(event.request_keys(), error, isinstance(error, InvalidArgument))
        elif isinstance(event, messages.Refused):
            self._fail_keys([event.key], Unavailable(event.message), is_refusal=True)
        elif isinstance(event, messages.CancelReply) and event.key in self._cancellations:
            self._endings.reply(self._cancellations.pop(event.key), event.num_cancelled)
        elif isinstance(event, EngineStats):
            self._metrics.show_engine(event)
        elif isinstance(event, EngineResources):
            self._metrics.show_resources(event)

    def _gain_engine(self, limits: messages.Ready) -> None:
        """An engine is ready: give it what has waited for one."""
        self.limits = limits
        for generation in self._unfinished:
            if not generation.is_submitted:
                self._engines.submit(generation.submissions())
        if self._engines.num_ready == self._config.num_engines:
            self._has_started.set()

    def _lose(self, lost: EngineLost) -> None:
        """What was in flight there is over; what comes from now on goes to another engine."""
        self._fail_keys(lost.keys, Unavailable("the engine was lost while it worked on this "
                                               "request; another is being started, retry"))

    def _fail_keys(
        self, keys: Sequence[int], error: ServingError, is_refusal: bool = False
    ) -> None:
        for key in keys:
            generation = self._unfinished.by_key.get(key)
            if generation is not None:
                self._fail(generation, error, is_refusal)

    def _fail_all(self, error: ServingError) -> None:
        for generation in self._unfinished:
            self._fail(generation, error)
        for cancellation in self._cancellations.values():
            self._endings.fail(cancellation.answer, error, is_refusal=False)
        self._cancellations.clear()

    def _fail(self, generation: Generation, error: Exception, is_refusal: bool = False) -> None:
        self._engines.cancel(generation.keys)
        self._forget(generation)
        self._endings.fail(generation.answer, error, is_refusal, generation)

    def _sweep(self) -> None:
        """Look after requests that no engine will end: it is not there, or it hangs."""
        now_s = time.monotonic()
        if now_s < self._sweep_due_s:
            return
        self._sweep_due_s = now_s + SWEEP_INTERVAL_S
        self._endings.retry()
        if now_s > self._drain_due_s:
            self._fail_all(Unavailable(STOPPING))
        failures = [] if self._engines.num_ready else self._engines.failures()
        if len(failures) == self._config.num_engines:
            self._fail_all(Unavailable(f"the engine cannot be started: {failures[0]}"))
        for generation in self._unfinished:
            if generation.deadline_s + OVERDUE_S * generation.is_submitted <= now_s:
                self._end_early(generation, "deadline")

    def _end_abandoned(self) -> None:
        """End the requests whose clients have hung up."""
        for generation in self._hang_ups.find(self._unfinished):
            self._end_early(generation, "cancelled")

    def _end_early(self, generation: Generation, reason: str) -> None:
        """End a request with what there is, without the engine's word for it."""
        self._engines.cancel(generation.keys)
        generation.end(reason)
        self._guard(generation)

    def _cancel_waiting(self, cancellation: Cancellation) -> None:
        """Cancel among the requests that wait for an engine."""
        meant = [generation for generation in self._unfinished
                 if generation.options.request_id == cancellation.request_id]
        for generation in meant:
            self._end_early(generation, "cancelled")
        self._endings.reply(cancellation, len(meant))

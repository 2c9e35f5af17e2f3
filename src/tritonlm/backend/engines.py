"""All engines of a model, as one front end has them: it sends each prompt to one of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import zmq

from tritonlm.backend.keeper import EngineKeeper
from tritonlm.backend.link import EngineLink
from tritonlm.backend.routing import Load, Router
from tritonlm.config import ModelConfig
from tritonlm.engine import messages
from tritonlm.engine.endpoint import Endpoint

IDLE_POLL_S = 0.05


@dataclass(frozen=True)
class EngineStats:
    """The gauges of an engine, and how often this front end has started it."""

    engine: int
    stats: messages.Stats
    num_starts: int


@dataclass(frozen=True)
class EngineResources:
    """What an engine that this front end has started uses."""

    engine: int
    resources: messages.Resources


@dataclass(frozen=True)
class EngineLost:
    """An engine is gone, and with it the requests `keys`; another is being started."""

    engine: int
    keys: list[int]


Event = messages.ToFrontEnd | EngineStats | EngineResources | EngineLost


class _Engine:
    """What a front end knows of one engine."""

    def __init__(self, endpoint: Endpoint, keeper: EngineKeeper, poller: zmq.Poller) -> None:
        self.endpoint, self.keeper = endpoint, keeper
        self.link = EngineLink(endpoint.address, poller)
        self.is_ready = False
        self.lost_s = time.time()
        self.outgoing: list[messages.ToEngine] = []
        self.num_own = 0
        """Requests of this front end; each sequence is one to an engine."""
        self.num_unfinished = 0
        """Requests of all front ends, as the engine said last, and what was sent since."""

    def flush(self) -> None:
        if self.is_ready:
            self.link.send(self.outgoing)
        self.outgoing.clear()

    def lose(self) -> None:
        self.is_ready = False
        self.lost_s = time.time()
        self.num_unfinished = 0
        self.outgoing.clear()
        self.link.connect()


@dataclass
class _Poll:
    """A CancelById that was put to all engines."""

    waiting_for: set[int]
    num_cancelled: int = 0


@dataclass
class Engines:
    """Connections to all engines, and which of them works for which request.

    Belongs to one thread, but for `failures`, `num_ready` and `await_idle`.
    """

    config: ModelConfig
    endpoint: Endpoint
    wake_fd: int
    """`wait` returns when it is readable."""
    keepers: Sequence[EngineKeeper]
    _places: dict[int, int] = field(default_factory=dict)
    """The engine of each request, by key."""
    _polls: dict[int, _Poll] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._poller = zmq.Poller()
        self._poller.register(self.wake_fd, zmq.POLLIN)
        self._router = Router(self.config.block_size)
        self._engines = [_Engine(self.endpoint.engine(index), keeper, self._poller)
                         for index, keeper in enumerate(self.keepers)]

    @property
    def num_ready(self) -> int:
        """Engines that take requests now."""
        return sum(engine.is_ready for engine in self._engines)

    def await_idle(self, due_s: float) -> None:
        """Return when the engines that this front end keeps have no requests, at most at `due_s`.

        Triton unloads a front end whose own requests are over while others still have some. Any
        thread but the one that receives may wait.
        """
        while time.monotonic() < due_s and any(
                engine.is_ready and engine.keeper.num_starts and engine.num_unfinished
                for engine in self._engines):
            time.sleep(IDLE_POLL_S)

    def failures(self) -> list[str]:
        """Why engines that are not ready could not be started, one reason for each of these."""
        reasons = (engine.endpoint.read_failure(engine.lost_s) for engine in self._engines
                   if not engine.is_ready)
        return [reason for reason in reasons if reason is not None]

    def connect(self) -> None:
        """Greet the engines, those that run and those to come."""
        for engine in self._engines:
            engine.link.connect()

    def close(self) -> None:
        """Drop all connections."""
        for engine in self._engines:
            engine.link.close()

    def wait(self, timeout_ms: int) -> None:
        """Sleep until something has arrived, the wake descriptor is readable, or time is up."""
        self._poller.poll(timeout_ms)

    def submit(self, submits: Sequence[messages.Submit]) -> None:
        """Give requests with the same prompt to an engine; one at least is ready."""
        loads = {index: Load(engine.num_own, engine.num_unfinished)
                 for index, engine in enumerate(self._engines) if engine.is_ready}
        chosen = self._router.choose(submits[0].token_ids, loads)
        self._engines[chosen].outgoing += submits
        self._engines[chosen].num_own += len(submits)
        self._engines[chosen].num_unfinished += len(submits)
        self._places |= dict.fromkeys((submit.key for submit in submits), chosen)

    def cancel(self, keys: Iterable[int]) -> None:
        """No more is wanted of these requests."""
        for key in keys:
            if key in self._places:
                self._engines[self._places[key]].outgoing.append(messages.Cancel(key))

    def cancel_by_id(self, key: int, request_id: str) -> None:
        """Cancel a request wherever it runs; one CancelReply to `key` says how many there were."""
        ready = {index for index, engine in enumerate(self._engines) if engine.is_ready}
        self._polls[key] = _Poll(ready)
        for index in ready:
            self._engines[index].outgoing.append(messages.CancelById(key, request_id))

    def forget(self, keys: Iterable[int]) -> None:
        """These requests are over."""
        for key in keys:
            if key in self._places:
                self._engines[self._places.pop(key)].num_own -= 1

    def flush(self) -> None:
        """Send what has come together, one message to each engine."""
        for engine in self._engines:
            engine.flush()

    def receive(self) -> Iterator[Event]:
        """All that the engines have said, and which of them are lost."""
        for index, engine in enumerate(self._engines):
            try:
                for message in engine.link.receive():
                    yield from self._take(index, engine, message)
            except ConnectionError:
                yield from self._lose(index, engine)

    def _take(self, index: int, engine: _Engine, message: messages.ToFrontEnd) -> Iterator[Event]:
        if isinstance(message, messages.Stats):
            engine.num_unfinished = message.num_running + message.num_waiting
            yield from self._show(index, engine, message)
        elif isinstance(message, messages.Resources):
            if engine.keeper.num_starts:
                yield EngineResources(index, message)
        elif isinstance(message, messages.CancelReply):
            yield from self._count_vote(message.key, index, message.num_cancelled)
        elif isinstance(message, messages.Goodbye):
            engine.keeper.note_goodbye()
        else:
            if isinstance(message, messages.Ready):
                engine.is_ready = True
                engine.keeper.note_ready()
            yield message

    def _lose(self, index: int, engine: _Engine) -> Iterator[Event]:
        engine.lose()
        yield from self._show(index, engine, messages.Stats(0, 0, 0, 0))
        for key in [key for key, poll in self._polls.items() if index in poll.waiting_for]:
            yield from self._count_vote(key, index, 0)
        yield EngineLost(index, [key for key, place in self._places.items() if place == index])

    def _show(self, index: int, engine: _Engine, stats: messages.Stats) -> Iterator[Event]:
        """Of the front ends, the one that has started the engine tells of it."""
        if engine.keeper.num_starts:
            yield EngineStats(index, stats, engine.keeper.num_starts)

    def _count_vote(self, key: int, index: int, num_cancelled: int) -> Iterator[Event]:
        poll = self._polls[key]
        poll.waiting_for.discard(index)
        poll.num_cancelled += num_cancelled
        if not poll.waiting_for:
            del self._polls[key]
            yield messages.CancelReply(key, poll.num_cancelled)

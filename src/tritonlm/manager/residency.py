"""Decides which models are loaded: who waits, who is in use, what makes room for what.

Without input and output: the caller tells what has happened, and does what `plan` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tritonlm.errors import InvalidArgument, NotFound, ServingError, Unavailable
from tritonlm.manager.limits import Limits
from tritonlm.manager.resident import Resident, State

FAILURE_KEPT_S = 10.0
"""Who asks within this time for a model that could not be loaded gets the same answer."""


class Action(NamedTuple):
    """Load or unload a model, and say when that is done."""

    name: str
    is_load: bool


class Residency:
    """All models of a server. Never more is loaded than the limits allow, also while it changes."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._residents: dict[str, Resident] = {}
        self._num_leases = 0
        self._owners: dict[int, Resident] = {}
        self._settled: list[tuple[int, ServingError | None]] = []

    @property
    def residents(self) -> tuple[Resident, ...]:
        """All models, by name."""
        return tuple(self._residents[name] for name in sorted(self._residents))

    @property
    def memory_bytes(self) -> int:
        """What all that is loaded, or not yet unloaded, needs."""
        return sum(resident.memory_bytes for resident in self._taking())

    def declare(self, name: str, memory_bytes: int) -> None:
        """There is a model of that name, which needs so much once it is loaded anew."""
        resident = self._residents.setdefault(name, Resident(name, memory_bytes))
        resident.declared_bytes = memory_bytes
        if not resident.takes_memory:
            resident.memory_bytes = memory_bytes

    def forget(self, name: str) -> None:
        """There is no such model any more; one that is loaded or waited for stays."""
        resident = self._residents.get(name)
        if resident is not None and not (resident.takes_memory or resident.waiting):
            del self._residents[name]

    def ask(self, name: str) -> int:
        """A lease that is settled once the model is ready, or cannot be; raises `ServingError`."""
        resident = self.find(name)
        if not resident.takes_memory:
            self._check_can_load(resident)
        self._num_leases += 1
        lease = self._num_leases
        self._owners[lease] = resident
        resident.num_requests += 1
        resident.waiting[lease] = self._now()
        if resident.state == State.READY:
            self._grant(resident)
        return lease

    def release(self, lease: int) -> None:
        """The lease, granted or not, is over."""
        resident = self._owners.pop(lease, None)
        if resident is None:
            return
        if lease in resident.leases:
            resident.last_used_s = self._now()
        resident.leases.discard(lease)
        resident.waiting.pop(lease, None)

    def note_loaded(self, name: str) -> None:
        """The load that `plan` asked for is done."""
        resident = self._residents[name]
        resident.load_s = self._now() - resident.changed_s
        resident.num_loads += 1
        resident.failure = ""
        resident.last_used_s = self._now()
        resident.enter(State.READY, self._now())
        self._grant(resident)

    def note_failed(self, name: str, reason: str) -> None:
        """The load failed, and left nothing behind: whoever waits is told why."""
        resident = self._residents[name]
        resident.failure = reason
        resident.enter(State.UNLOADED, self._now())
        self._refuse(resident, list(resident.waiting), _cannot_load(resident))

    def note_unloaded(self, name: str) -> None:
        """The unload that `plan` or `unload` asked for is done."""
        self._residents[name].enter(State.UNLOADED, self._now())

    def pin(self, name: str) -> None:
        """Never unload that model, whether it is loaded now or later; raises `ServingError`."""
        resident = self.find(name)
        others = [other for other in self.residents if other.is_pinned and other is not resident]
        self._check_room(resident, others)
        resident.is_pinned = True

    def unpin(self, name: str) -> None:
        """Treat it as any other model again."""
        self.find(name).is_pinned = False

    def unload(self, name: str) -> bool:
        """Mark a model that nobody uses as being unloaded; False if it is not loaded.

        Raises `Unavailable` if it is in use, and `InvalidArgument` if it is pinned.
        """
        resident = self.find(name)
        if resident.is_pinned:
            raise InvalidArgument("model", name, "it is pinned; unpin it first")
        if resident.state in {State.UNLOADED, State.UNLOADING}:
            return False
        if not resident.is_idle:
            raise Unavailable(f"the model {name} is {resident.state.value}, and "
                              f"{len(resident.leases) + len(resident.waiting)} requests use it")
        resident.enter(State.UNLOADING, self._now())
        return True

    def resize(self, name: str, memory_bytes: int) -> None:
        """A loaded model comes to need so much; raises `Unavailable` if there is no room."""
        resident = self._residents[name]
        grown = self.memory_bytes - resident.memory_bytes + memory_bytes
        if grown > max(self._limits.memory_bytes, self.memory_bytes):
            raise Unavailable(
                f"with the new version the loaded models need {_gib(grown)}, more than the budget "
                f"of {_gib(self._limits.memory_bytes)}; unload others first")
        resident.memory_bytes = memory_bytes

    def plan(self) -> list[Action]:
        """What is to be done now; it is taken to have begun."""
        self._end_waits()
        actions = [Action(resident.name, False) for resident in self._expired()]
        for resident in self._wanted():
            victims = self._victims(resident)
            if victims is None:
                break  # what waits longest goes first, however small the others are
            actions += [Action(victim.name, False) for victim in victims]
            for victim in victims:
                victim.enter(State.UNLOADING, self._now())
            if self._shortage(resident, self._taking()) > 0:
                break
            resident.enter(State.LOADING, self._now())
            actions.append(Action(resident.name, True))
        return actions

    def take_settled(self) -> list[tuple[int, ServingError | None]]:
        """Leases that were granted, or refused with an error, since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def due_s(self) -> float:
        """When `plan` is to be called if nothing happens until then."""
        waits = [since_s + self._limits.room_timeout_s for resident in self.residents
                 if resident.state != State.LOADING for since_s in resident.waiting.values()]
        ttl_s = self._limits.idle_ttl_s
        ends = [] if ttl_s is None else [
            resident.last_used_s + ttl_s for resident in self.residents
            if resident.is_idle and not resident.is_pinned]
        return min(waits + ends, default=math.inf)

    def find(self, name: str) -> Resident:
        """The model of that name; raises `NotFound`."""
        if name not in self._residents:
            raise NotFound(f"the model {name!r} does not exist; there are: "
                           f"{', '.join(sorted(self._residents)) or 'none'}")
        return self._residents[name]

    def _taking(self) -> list[Resident]:
        return [resident for resident in self._residents.values() if resident.takes_memory]

    def _grant(self, resident: Resident) -> None:
        for lease in resident.waiting:
            resident.leases.add(lease)
            self._settled.append((lease, None))
        resident.waiting.clear()

    def _refuse(self, resident: Resident, leases: list[int], error: ServingError) -> None:
        for lease in leases:
            del resident.waiting[lease], self._owners[lease]
            self._settled.append((lease, error))

    def _check_can_load(self, resident: Resident) -> None:
        if resident.failure and self._now() - resident.changed_s < FAILURE_KEPT_S:
            raise _cannot_load(resident)
        self._check_room(resident, [other for other in self.residents
                                    if other.is_pinned and other is not resident])

    def _check_room(self, resident: Resident, pinned: list[Resident]) -> None:
        """Raise `Unavailable` if there is never room beside those that are pinned."""
        if self._shortage(resident, pinned) <= 0:
            return
        beside = f" beside the pinned {', '.join(other.name for other in pinned)}" if pinned else ""
        count = self._limits.max_models
        raise Unavailable(
            f"the model {resident.name} needs {_gib(resident.memory_bytes)}: there is no room for "
            f"it{beside} in the budget of {_gib(self._limits.memory_bytes)}"
            + (f" and of {count} model{'s' * (count > 1)}" if count else ""))

    def _shortage(self, resident: Resident, beside: list[Resident]) -> float:
        """Bytes that are lacking for it beside those others; inf if their number is the reason."""
        if self._limits.max_models is not None and len(beside) >= self._limits.max_models:
            return math.inf
        used = sum(other.memory_bytes for other in beside)
        return used + resident.memory_bytes - self._limits.memory_bytes

    def _victims(self, resident: Resident) -> list[Resident] | None:
        """Idle models to unload for it, the least recently used first; None if they are too few."""
        staying = [other for other in self._taking() if other.state != State.UNLOADING]
        candidates = iter(sorted((other for other in staying if other.is_idle
                                  and not other.is_pinned), key=lambda other: other.last_used_s))
        victims = []
        while self._shortage(resident, staying) > 0:
            victim = next(candidates, None)
            if victim is None:
                return None
            victims.append(victim)
            staying.remove(victim)
        return victims

    def _wanted(self) -> list[Resident]:
        """Models that are to be loaded, the one that is waited for longest first."""
        wanted = [resident for resident in self.residents
                  if resident.state == State.UNLOADED and resident.waiting]
        return sorted(wanted, key=lambda resident: min(resident.waiting.values()))

    def _expired(self) -> Iterator[Resident]:
        ttl_s = self._limits.idle_ttl_s
        for resident in self.residents:
            if (ttl_s is not None and resident.is_idle and not resident.is_pinned
                    and self._now() >= resident.last_used_s + ttl_s):
                resident.enter(State.UNLOADING, self._now())
                yield resident

    def _end_waits(self) -> None:
        """Refuse those who have waited for room for too long."""
        for resident in self.residents:
            if resident.state == State.LOADING:
                continue
            late = [lease for lease, since_s in resident.waiting.items()
                    if self._now() >= since_s + self._limits.room_timeout_s]
            busy = ", ".join(other.name for other in self._taking() if not other.is_idle
                             or other.is_pinned)
            self._refuse(resident, late, Unavailable(
                f"there was no room for the model {resident.name} within "
                f"{self._limits.room_timeout_s:g} s; in use: {busy or 'none'}; retry later"))


def _cannot_load(resident: Resident) -> Unavailable:
    return Unavailable(f"the model {resident.name} cannot be loaded: {resident.failure}")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"

"""What a manager and its clients say to each other: lines of JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_LINE_BYTES = 1 << 22
Verb = Literal["lease", "release", "status", "load", "unload", "pin", "unpin", "reload"]


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client asks for; to release a lease is a call with the lease's id, and no answer."""

    id: int
    verb: Verb
    model: str = ""
    request_id: str = ""
    """Of the request that a lease is for."""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the repository, loaded or not."""

    name: str
    task: str
    identity: str
    """Changes with what its answers depend on."""
    versions: tuple[int, ...]
    state: str
    is_pinned: bool
    num_leases: int
    """Requests that use it now."""
    num_waiting: int
    """Requests that wait for it to be loaded."""
    needed_bytes: int
    """By the estimate that the budget counts."""
    resident_bytes: int
    """Host memory of its processes, as the system counts it."""
    progress: str
    """How far its load is; empty if it is not being loaded."""
    load_s: float | None
    """How long its last load took."""
    idle_s: float | None
    """Since its last use; None while it is in use, or if it never was."""
    num_loads: int
    num_requests: int
    failure: str
    """Why its last load failed; empty if it did not."""


class ManagerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All models, and what they may take together."""

    models: tuple[ModelStatus, ...]
    needed_bytes: int
    budget_bytes: int | None
    max_models: int | None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes of the call of that id."""

    id: int
    error: str = ""
    """`CODE: message`; empty if it was done."""
    status: ManagerStatus | None = None

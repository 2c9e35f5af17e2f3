"""Requests that the engine has no work with."""

from __future__ import annotations

from dataclasses import dataclass

from tritonlm.backend.generation import Answer


@dataclass(frozen=True)
class Refusal:
    """A request that is answered with an error alone."""

    answer: Answer
    error: Exception


@dataclass(frozen=True)
class Cancellation:
    """A request to cancel others."""

    answer: Answer
    request_id: str

"""Which requests may be answered from a cache, and under which key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest

FORMAT = 2
"""Of what is kept; another one is another key."""
URGENCY = frozenset({"priority", "timeout_ms"})
SAME_ANSWER = URGENCY | {"request_id", "user"}
"""Inputs that change when an answer comes, and not what it is."""


def generation_key(requests: Sequence[ModelInferRequest], identity: Sequence[str]) -> str | None:
    """The key of what a model of that `identity` answers; None if it may answer otherwise."""
    return request_key(requests, identity) if all(map(_is_deterministic, requests)) else None


def urgency(requests: Sequence[ModelInferRequest]) -> tuple[tuple[str, bytes], ...]:
    """Equal for requests that may share work: none waits longer, or is cut short, for another."""
    return tuple(sorted((tensor.name, raw) for request in requests for tensor, raw
                        in zip(request.inputs, request.raw_input_contents, strict=True)
                        if tensor.name in URGENCY))


def request_key(requests: Sequence[ModelInferRequest], identity: Sequence[str]) -> str:
    """The same for the same inputs, in whatever order, and the same requested outputs."""
    asked = [(request.model_name, _inputs(request), sorted(out.name for out in request.outputs))
             for request in requests]
    return hashlib.sha256(msgspec.msgpack.encode((FORMAT, identity, asked))).hexdigest()


def _inputs(request: ModelInferRequest) -> list[tuple[str, str, list[int], bytes]]:
    return sorted((tensor.name, tensor.datatype, list(tensor.shape), raw) for tensor, raw
                  in zip(request.inputs, request.raw_input_contents, strict=True)
                  if tensor.name not in SAME_ANSWER)


def _is_deterministic(request: ModelInferRequest) -> bool:
    """Whether nothing is left to chance: it is greedy, or has a seed."""
    raw = {tensor.name: value for tensor, value
           in zip(request.inputs, request.raw_input_contents, strict=True)}
    return "seed" in raw or ("temperature" in raw
                             and not np.frombuffer(raw["temperature"], "<f4").any())

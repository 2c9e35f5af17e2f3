"""What the stub of the Python backend offers under this name, as far as `tritonlm.backend` uses it.

Put `tests/fakes` on the path (pytest does) to import backend modules outside a stub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED = range(6)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        message.encode()  # as the caster of pybind11 does
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class TritonModelException(Exception):
    pass


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class InferenceResponse:
    def __init__(
        self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None
    ) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class ResponseSender:
    """Keeps what was sent; `cancel` is what a client that hangs up does."""

    def __init__(self) -> None:
        self.sent: list[InferenceResponse] = []
        self.is_final = False
        self._is_cancelled = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self.is_final, "sent after the final flag"
        if response is not None:
            self.sent.append(response)
        self.is_final = bool(flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def cancel(self) -> None:
        self._is_cancelled = True

    def is_cancelled(self) -> bool:
        assert not self.is_final, "asked after the final flag: a crash on tritonserver 24.10"
        return self._is_cancelled


class Metric:
    """A counter or a gauge, among those of its family."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = dict(labels)
        self.value = 0.0

    def increment(self, amount: float) -> None:
        assert amount >= 0, "a counter does not fall"
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value


class MetricFamily:
    """All families are in `families`, by name."""

    COUNTER, GAUGE = range(2)
    families: ClassVar[dict[str, MetricFamily]] = {}

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.name, self.description, self.kind = name, description, kind
        self.metrics: list[Metric] = []
        self.families[name] = self

    def Metric(self, labels: Mapping[str, str]) -> Metric:
        self.metrics.append(Metric(labels))
        return self.metrics[-1]


class InferenceRequest:
    def __init__(
        self,
        tensors: Mapping[str, NDArray[Any]],
        parameters: Mapping[str, Any] | bytes | None = None,
        outputs: Sequence[str] = (),
        request_id: str | bytes = "",
    ) -> None:
        self._tensors, self._outputs, self._request_id = tensors, outputs, request_id
        self._parameters = (parameters if isinstance(parameters, bytes)
                            else json.dumps(parameters or {}))
        self.sender = ResponseSender()

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, np.asarray(values)) for name, values in self._tensors.items()]

    def parameters(self) -> str:
        return _text(self._parameters)

    def requested_output_names(self) -> list[str]:
        return list(self._outputs)

    def request_id(self) -> str:
        return _text(self._request_id)

    def get_response_sender(self) -> ResponseSender:
        return self.sender


def _text(value: str | bytes) -> str:
    """As pybind11 makes it of what a client has sent; raises `UnicodeDecodeError`."""
    return value.decode() if isinstance(value, bytes) else value

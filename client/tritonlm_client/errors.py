"""From what a server or a connection reports to the error classes of `tritonlm.errors`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from tritonlm.errors import ServingError, Unavailable, from_code

CODED_MESSAGE = re.compile(
    r"(?:in ensemble '[^']*', )*(INVALID_ARG|NOT_FOUND|UNAVAILABLE|INTERNAL): (.*)", re.DOTALL)
"""What a model answers (`ServingError.coded_message`), as ensembles pass it on."""

TRITON_MESSAGES = (
    (re.compile(r"unknown model: '[^']*' is not found"), "NOT_FOUND"),
    (re.compile(r"not at ready state|is stopping|stopped accepting|not healthy|Exceeds maximum"),
     "UNAVAILABLE"),
    (re.compile(r"unexpected (inference (in|out)put|shape|datatype)|expected \d+ inputs"),
     "INVALID_ARG"),
)
"""What Triton itself answers on a stream: a text without a code."""

STATUS_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_ARG",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.CANCELLED: "UNAVAILABLE",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "UNAVAILABLE",
    grpc.StatusCode.INTERNAL: "INTERNAL",
}
UNKNOWN_CODE = ""
"""That of the base class, `ServingError`."""


class DeadlineExceeded(Unavailable):
    """The answer was not there within the `timeout_s` of the call; it is not tried again."""


def from_message(text: str) -> ServingError:
    """The error that a response on a stream carries as `text`."""
    coded = CODED_MESSAGE.fullmatch(text)
    if coded:
        return from_code(coded[1], coded[2])
    codes = (code for known, code in TRITON_MESSAGES if known.search(text))
    return from_code(next(codes, UNKNOWN_CODE), text)


def from_rpc(url: str, error: grpc.RpcError) -> ServingError:
    """The error of a call to `url` that gRPC ended without success."""
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{url}: {error.details()}")
    if CODED_MESSAGE.fullmatch(error.details() or ""):  # a model's own answer
        return from_message(error.details())
    return from_code(STATUS_CODES.get(error.code(), UNKNOWN_CODE), f"{url}: {error.details()}")


@contextmanager
def rpc_errors(url: str) -> Iterator[None]:
    """Raises `grpc.RpcError` of calls to `url` as `ServingError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(url, error) from None

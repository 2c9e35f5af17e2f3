"""Errors as OpenAI's API has them: a status, and {"error": {message, type, param, code}}."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from tritonlm.errors import (
    EngineFailure,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    from_code,
)
from tritonlm.logs import fields

LOG = logging.getLogger(__name__)

RETRY_AFTER_S = 1
"""Where nobody knows better."""
CLIENT_GONE_STATUS = 499
"""What nginx logs for a client that hung up; nobody gets it."""
FIELD = re.compile(r"([\w.\[\]]+): ")
TOO_LONG = re.compile(r"\w+: '\d+ tokens' is not allowed")
"""What a server says of a prompt that the model has no room for."""


class Unauthorized(ServingError):
    """No key, or one that is not known."""

    code = "UNAUTHENTICATED"


class Forbidden(ServingError):
    """A page of an origin that may not call."""

    code = "PERMISSION_DENIED"


class ModelNotFound(NotFound):
    """No server has a model of that name for that task."""


class TooManyRequests(ServingError):
    """A key has reached one of its limits; raised with the seconds to wait."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BodyTooLarge(ServingError):
    """A body of more bytes than the settings allow."""

    code = "INVALID_ARG"


class ClientGone(ServingError):
    """The client hung up before it was answered."""

    code = "CANCELLED"


class SlowReader(ServingError):
    """The client has not read what was sent to it, so the rest was cancelled."""

    code = "CANCELLED"


@dataclass(frozen=True)
class Failure:
    """How a class of errors is told."""

    status: int
    type: str
    code: str | None = None


FAILURES: dict[type[ServingError], Failure] = {
    InvalidArgument: Failure(HTTPStatus.BAD_REQUEST, "invalid_request_error"),
    Unauthorized: Failure(HTTPStatus.UNAUTHORIZED, "invalid_request_error", "invalid_api_key"),
    Forbidden: Failure(HTTPStatus.FORBIDDEN, "invalid_request_error", "forbidden"),
    NotFound: Failure(HTTPStatus.NOT_FOUND, "invalid_request_error", "not_found"),
    ModelNotFound: Failure(HTTPStatus.NOT_FOUND, "invalid_request_error", "model_not_found"),
    BodyTooLarge: Failure(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "invalid_request_error",
                          "body_too_large"),
    TooManyRequests: Failure(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error",
                             "rate_limit_exceeded"),
    Unavailable: Failure(HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "unavailable"),
    ClientGone: Failure(CLIENT_GONE_STATUS, "server_error", "client_gone"),
    SlowReader: Failure(HTTPStatus.REQUEST_TIMEOUT, "invalid_request_error", "slow_reader"),
    ServingError: Failure(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error"),
}


def failure_of(error: ServingError) -> Failure:
    """How `error` is told."""
    return next(FAILURES[kind] for kind in type(error).__mro__ if kind in FAILURES)


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Have errors call fields by the names in `names`, under which the client has given them."""
    try:
        yield
    except InvalidArgument as error:
        if error.field not in names:
            raise
        rest = error.message.removeprefix(error.field)
        raise from_code(error.code, names[error.field] + rest) from None


def told(error: Exception, request_id: str) -> ServingError:
    """What a client hears of `error`; of a bug only the log has more."""
    if isinstance(error, ServingError):
        return error
    LOG.error("the gateway failed", exc_info=error, extra=fields(request_id=request_id))
    return EngineFailure("the gateway failed")


def error_body(error: ServingError) -> dict[str, Any]:
    """The JSON that tells of `error`."""
    failure = failure_of(error)
    param, code = None, failure.code
    if isinstance(error, InvalidArgument):
        field = FIELD.match(error.message)
        param = field[1] if field else None
        code = "context_length_exceeded" if TOO_LONG.match(error.message) else None
    return {"error": {"message": error.message, "type": failure.type, "param": param,
                      "code": code}}


def error_response(error: ServingError) -> Response:
    """The response that tells of `error`; to a WebSocket, one that denies it."""
    return Response(msgspec.json.encode(error_body(error)), failure_of(error).status,
                    error_headers(error), media_type="application/json")


def error_headers(error: ServingError) -> dict[str, str]:
    """When to try again, for errors that pass."""
    if not isinstance(error, TooManyRequests | Unavailable):
        return {}
    return {"retry-after": str(max(1, math.ceil(error.retry_after_s or RETRY_AFTER_S)))}

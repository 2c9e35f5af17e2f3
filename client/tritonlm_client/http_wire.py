"""Requests and responses as Triton's HTTP has them: paths, JSON, server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from tritonlm import contract
from tritonlm.errors import EngineFailure, ServingError, Unavailable, from_code
from tritonlm_client.connection import CALL_TIMEOUT_S
from tritonlm_client.errors import DeadlineExceeded, from_message
from tritonlm_client.requests import DTYPES, Request
from tritonlm_client.responses import Outputs, chunks_of, tensor_of
from tritonlm_client.results import Chunk, ModelInfo
from tritonlm_client.transport import Tensors

LIVE, READY, INDEX = "/v2/health/live", "/v2/health/ready", "/v2/repository/index"
EVENT = "data: "
STATUS_CODES = {400: "INVALID_ARG", 404: "NOT_FOUND", 429: "UNAVAILABLE", 502: "UNAVAILABLE",
                503: "UNAVAILABLE", 504: "UNAVAILABLE"}


def model_path(model: str, what: str) -> str:
    """The path of a model's `generate_stream`, `infer`, `ready` or `config`."""
    return f"/v2/models/{model}/{what}"


def timeout(timeout_s: float | None) -> httpx2.Timeout:
    """Of a call; without `timeout_s`, a server that is there is waited for."""
    return httpx2.Timeout(timeout_s, connect=min(timeout_s or CALL_TIMEOUT_S, CALL_TIMEOUT_S))


def text_body(request: Request) -> dict[str, Any]:
    """What `generate_stream` takes."""
    tensors = {name: values.reshape(-1) for name, values in request.tensors.items()}
    plain = {name: [_plain(value) for value in values] for name, values in tensors.items()}
    return {"request_id": request.id,
            **{name: values[0] if len(values) == 1 else values for name, values in plain.items()}}


def infer_body(request: Request) -> dict[str, Any]:
    """What `infer` takes."""
    inputs = [{"name": name, "datatype": DTYPES[name], "shape": values.shape,
               "data": [_plain(value) for value in values.reshape(-1)]}
              for name, values in request.tensors.items()]
    return {"id": request.id, "inputs": inputs,
            "outputs": [{"name": name} for name in request.outputs]}


def infer_tensors(text: str) -> Tensors:
    """What `infer` answers."""
    return {output["name"]: tensor_of(output["datatype"], output["shape"], output["data"])
            for output in json.loads(text)["outputs"]}


def event_chunks(line: str) -> list[Chunk]:
    """The chunks of a line of `generate_stream`; raises the error that it carries."""
    if not line.startswith(EVENT):
        return []
    event = json.loads(line.removeprefix(EVENT))
    if "error" in event:
        raise from_message(event["error"])
    return chunks_of(_outputs(event))


class Answer:
    """Reads the body of `generate_stream`, whose end does not say which sequences are over."""

    def __init__(self, request: Request) -> None:
        """Of one that is not told why its sequences end, none is waited for."""
        number, is_told = (request.tensors.get(name) for name in ("n", "return_finish_reason"))
        self._open = set(range(1 if number is None else int(number.item())))
        if is_told is not None and not is_told.item():
            self._open.clear()
        self._line = b""

    def read(self, piece: bytes) -> list[Chunk]:
        """The chunks in the next bytes; raises the error that they carry."""
        # At \n alone: in a text may be what else ends a line, such as U+2028.
        *lines, self._line = (self._line + piece).split(b"\n")
        chunks = [chunk for line in lines for chunk in event_chunks(line.decode())]
        self._open -= {chunk.sequence_index for chunk in chunks if chunk.finish_reason}
        return chunks

    def end(self) -> None:
        """Nothing more will come; raises `Unavailable` if something should have."""
        if self._open:
            raise Unavailable("the answer ended before it was whole")


def text_of(url: str, response: httpx2.Response) -> str:
    """The text of an answer that was read; raises the error that it is if its status is not 200."""
    if response.status_code != httpx2.codes.OK:
        raise failure(url, response.status_code, response.text)
    return response.text


def failure(url: str, status: int, text: str) -> ServingError:
    """The error of an answer whose status is not 200."""
    try:
        told = json.loads(text.removeprefix(EVENT))["error"]
    except (ValueError, TypeError, KeyError):
        told = None
    if not isinstance(told, str):  # not of Triton, but of something before it
        return from_code(STATUS_CODES.get(status, ""), f"{url}: status {status}: {text[:200]}")
    error = from_message(told)
    return error if type(error) is not ServingError else from_code(
        STATUS_CODES.get(status, ""), told)


@contextmanager
def http_errors(url: str) -> Iterator[None]:
    """Raises what goes wrong on the way to `url` as `ServingError`."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise Unavailable(f"{url}: no connection in time ({error})") from None
    except httpx2.TimeoutException:
        raise DeadlineExceeded(f"{url}: Deadline exceeded") from None
    except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
        raise Unavailable(f"{url}: {error or type(error).__name__}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EngineFailure(f"{url}: it does not answer as Triton does: {error}") from None


def model_infos(text: str, configs: Mapping[str, Mapping[str, Any]]) -> list[ModelInfo]:
    """The models of a repository index, with what the configs of those that are loaded say."""
    return [_model_info(entry, configs.get(entry["name"])) for entry in json.loads(text)]


def ready_models(text: str) -> list[str]:
    """Those of a repository index that have a config to ask for."""
    return [entry["name"] for entry in json.loads(text) if entry.get("state") == "READY"]


def _model_info(entry: Mapping[str, Any], config: Mapping[str, Any] | None) -> ModelInfo:
    told = (entry["name"], entry.get("version", ""), entry.get("state", ""),
            entry.get("reason", ""))
    if config is None:
        return ModelInfo(*told)
    return ModelInfo(
        *told, is_decoupled=config.get("model_transaction_policy", {}).get("decoupled", False),
        inputs=tuple(map(_tensor, config["input"])), outputs=tuple(map(_tensor, config["output"])))


def _tensor(told: Mapping[str, Any]) -> contract.Tensor:
    dtype = told["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    return contract.Tensor(told["name"], dtype, tuple(map(int, told["dims"])),
                           told.get("optional", False))


def _outputs(event: Mapping[str, Any]) -> Outputs:
    """Triton writes one value without a list."""
    return {name: value if isinstance(value, list) else [value] for name, value in event.items()}


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else (
        value.item() if hasattr(value, "item") else value)

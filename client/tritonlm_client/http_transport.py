"""HTTP, for code without asyncio."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2

from tritonlm.errors import ServingError
from tritonlm_client import http_wire as wire
from tritonlm_client.address import Address
from tritonlm_client.connection import CALL_TIMEOUT_S, HANG_UP_TIMEOUT_S
from tritonlm_client.requests import CANCEL_MODELS, Request, cancel_request, may_run_on
from tritonlm_client.results import Chunk, ModelInfo
from tritonlm_client.transport import Tensors


class HttpCall:
    """An answer that is coming; it is asked for by the first step of the iteration."""

    def __init__(
        self, transport: HttpTransport, request: Request, timeout_s: float | None
    ) -> None:
        self._transport = transport
        self._request = request
        self._timeout_s = timeout_s
        self._response: httpx2.Response | None = None
        self._is_sent = False
        self._is_over = False
        self._is_cancelled = False

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks; raises `ServingError`."""
        try:
            with wire.http_errors(self._transport.url):
                yield from self._chunks()
            self._is_over = True
        except ServingError as error:
            if not self._is_cancelled:
                self._is_over = not may_run_on(self._request, error)
                raise

    def cancel(self) -> None:
        """Hang up; where the running request does not hear of that, cancel it by its id."""
        if self._is_cancelled or self._is_over:
            return
        self._is_cancelled = True
        if self._response is not None:
            with suppress(OSError):  # a thread that reads wakes up
                self._response.extensions["network_stream"].get_extra_info("socket").shutdown(
                    socket.SHUT_RDWR)
        if self._is_sent and (self._response is None or self._request.model in CANCEL_MODELS):
            with suppress(ServingError):
                self._transport.cancel(self._request.model, self._request.id,
                                       HANG_UP_TIMEOUT_S)

    def _chunks(self) -> Iterator[Chunk]:
        if self._is_cancelled:
            return
        self._is_sent = True
        path = wire.model_path(self._request.model, "generate_stream")
        with self._transport.http.stream(
                "POST", path, json=wire.text_body(self._request),
                timeout=wire.timeout(self._timeout_s)) as response:
            self._response = response
            if self._is_cancelled:
                return
            if response.status_code != httpx2.codes.OK:
                response.read()
                raise wire.failure(self._transport.url, response.status_code, response.text)
            answer = wire.Answer(self._request)
            for piece in response.iter_bytes():
                yield from answer.read(piece)
            answer.end()


class HttpTransport:
    """Connections to one server, made as they are needed; threads may share it."""

    def __init__(self, address: Address, num_connections: int) -> None:
        """`num_connections` are kept while nothing goes over them."""
        self.url = address.url
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=num_connections)
        self.http = httpx2.Client(base_url=f"{address.scheme}://{address.target}", limits=limits,
                                  trust_env=False, timeout=CALL_TIMEOUT_S)

    def stream(self, request: Request, timeout_s: float | None) -> HttpCall:
        """The answer of a model of texts."""
        return HttpCall(self, request, timeout_s)

    def infer(self, request: Request, timeout_s: float | None) -> Tensors:
        """The answer of a model that answers once; raises `ServingError`."""
        return wire.infer_tensors(self._post(wire.model_path(request.model, "infer"),
                                             wire.infer_body(request), timeout_s))

    def cancel(
        self, model: str, request_id: str, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """End a request; raises `NotFound` if nothing of that id runs."""
        for _ in self.stream(cancel_request(model, request_id), timeout_s):
            pass

    def models(self) -> list[ModelInfo]:
        """The models of the server's repositories; raises `Unavailable`."""
        index = self._post(wire.INDEX, {}, CALL_TIMEOUT_S)
        configs = {name: json.loads(self._get(wire.model_path(name, "config")))
                   for name in wire.ready_models(index)}
        return wire.model_infos(index, configs)

    def is_live(self) -> bool:
        """Whether the server answers."""
        return self._is_ok(wire.LIVE)

    def is_ready(self, model: str) -> bool:
        """Whether the server and the model take requests."""
        return self._is_ok(wire.READY) and self._is_ok(wire.model_path(model, "ready"))

    def close(self) -> None:
        """End what still runs, and the connections."""
        self.http.close()

    def _post(self, path: str, body: Any, timeout_s: float | None) -> str:
        with wire.http_errors(self.url):
            response = self.http.post(path, json=body, timeout=wire.timeout(timeout_s))
            return wire.text_of(self.url, response)

    def _get(self, path: str) -> str:
        with wire.http_errors(self.url):
            return wire.text_of(self.url, self.http.get(path))

    def _is_ok(self, path: str) -> bool:
        try:
            self._get(path)
        except ServingError:
            return False
        return True

"""The gateway as an ASGI application: paths, and what lives as long as a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tritonlm.errors import NotFound, ServingError, from_code
from tritonlm.gateway import tokens
from tritonlm.gateway.body import json_object, read_body, read_call
from tritonlm.gateway.connection import TritonConnection
from tritonlm.gateway.events import open_events
from tritonlm.gateway.failures import error_body, error_headers, failure_of
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.generation import GenerateBody, GenerateScript, streamed_request
from tritonlm.gateway.openai.call import Call, answer
from tritonlm.gateway.openai.chat import ChatBody, chat_call
from tritonlm.gateway.openai.completions import CompletionBody, completion_call
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.gateway.websocket import Sockets

B = TypeVar("B", bound=msgspec.Struct)


class Gateway:
    """What the endpoints of a worker share."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Connections to the servers, from before the first request until after the last one."""
        settings = self.settings
        connections = [TritonConnection(address, settings.streams)
                       for address in settings.addresses]
        self.fleet = Fleet(connections, settings.aliases)
        self.sockets = Sockets(self.fleet, can_resume=settings.workers == 1)
        await self.fleet.start()
        yield
        await self.fleet.close()

    async def live(self, _: Request) -> Response:
        """Whether the gateway runs."""
        return json_response({"status": "live"})

    async def ready(self, _: Request) -> Response:
        """Whether a server is there with a model; 503 if not."""
        models = self.fleet.models
        return json_response({"status": "ready" if models else "no model is ready",
                              "models": models}, 200 if models else 503)

    async def models(self, request: Request) -> Response:
        """The models that are ready, or the one in the path."""
        entries = [{"id": name, "object": "model", "created": 0, "owned_by": "tritonlm"}
                   for name in self.fleet.models]
        if "model" not in request.path_params:
            return json_response({"object": "list", "data": entries})
        name = request.path_params["model"]
        self.fleet.resolve(name)
        return json_response(next(entry for entry in entries if entry["id"] == name))

    def call(self, kind: type[B], read: Callable[[B, dict[str, Any]], Call]) -> Any:
        """The endpoint whose bodies are of `kind` and say what `read` makes of them."""
        async def endpoint(request: Request) -> Response:
            call = read(*read_call(json_object(await request.body()), kind))
            return await answer(request, self.fleet, call)
        return endpoint

    async def generate_stream(self, request: Request) -> Response:
        """Server-sent events under the contract's own names."""
        body, options = read_call(json_object(await request.body()), GenerateBody)
        upstream = streamed_request(body, options, self.fleet.resolve(body.model))
        return await open_events(request, self.fleet.open([upstream]), GenerateScript())

    async def websocket(self, socket: WebSocket) -> None:
        """Many requests at once on one socket."""
        await self.sockets.serve(socket)

    async def tokenize(self, request: Request) -> Response:
        """The ids of a prompt."""
        body = read_body(await request.body(), tokens.TokenizeBody)
        return json_response(await tokens.tokenize(self.fleet, body))

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        body = read_body(await request.body(), tokens.DetokenizeBody)
        return json_response(await tokens.detokenize(self.fleet, body))


def create_app(settings: GatewaySettings) -> Starlette:
    """The application of one worker."""
    gateway = Gateway(settings)
    chat, completions = (gateway.call(ChatBody, chat_call),
                         gateway.call(CompletionBody, completion_call))
    routes = [
        Route("/health/live", gateway.live), Route("/health/ready", gateway.ready),
        Route("/v1/models", gateway.models), Route("/v1/models/{model:path}", gateway.models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/generate_stream", gateway.generate_stream, methods=["POST"]),
        WebSocketRoute("/ws", gateway.websocket),
        Route("/tokenize", gateway.tokenize, methods=["POST"]),
        Route("/detokenize", gateway.detokenize, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=gateway.lifespan, exception_handlers={
        ServingError: _tell, HTTPException: _tell_http, Exception: _tell_bug})


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _tell(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    return Response(msgspec.json.encode(error_body(error)), failure_of(error).status,
                    error_headers(error), media_type="application/json")


async def _tell_http(request: Request, error: Exception) -> Response:
    """A path or method that does not exist."""
    assert isinstance(error, HTTPException)
    body = error_body(NotFound(f"{request.method} {request.url.path}: {error.detail}"))
    return Response(msgspec.json.encode(body), error.status_code, error.headers,
                    media_type="application/json")


async def _tell_bug(request: Request, _: Exception) -> Response:
    """What went wrong is in the log, and not for clients."""
    return await _tell(request, from_code("INTERNAL", "the gateway failed"))

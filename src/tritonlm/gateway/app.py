"""The gateway as an ASGI application: paths, and what lives as long as a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from tritonlm import locked_folder
from tritonlm.caching.response_cache import ResponseCache
from tritonlm.errors import InvalidArgument, NotFound, ServingError, Unavailable, from_code
from tritonlm.gateway import logs, metrics, tokens
from tritonlm.gateway.access import Access
from tritonlm.gateway.body import json_object, read_body, read_call, read_fields
from tritonlm.gateway.cached_answers import HEADER as CACHE_HEADER
from tritonlm.gateway.cached_answers import AnswerCache, note_wish
from tritonlm.gateway.cached_bodies import task_response
from tritonlm.gateway.classify import ClassifyBody, classify
from tritonlm.gateway.connection import GENERATE
from tritonlm.gateway.draining import Draining
from tritonlm.gateway.events import open_events
from tritonlm.gateway.failures import error_body, error_response
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.generation import GenerateBody, GenerateScript, streamed_request
from tritonlm.gateway.journal import Journal
from tritonlm.gateway.keys import KeyRing
from tritonlm.gateway.limits import Limits
from tritonlm.gateway.managed_connection import connect
from tritonlm.gateway.openai.call import Call, answer
from tritonlm.gateway.openai.chat import ChatBody, chat_call
from tritonlm.gateway.openai.completions import CompletionBody, completion_call
from tritonlm.gateway.openai.embeddings import EmbeddingsBody, embeddings
from tritonlm.gateway.openai.responses import ResponsesBody, responses_call
from tritonlm.gateway.relay import Relay
from tritonlm.gateway.rerank import RerankBody, rerank
from tritonlm.gateway.roster import Roster
from tritonlm.gateway.server import Server
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.gateway.task_rows import TaskBody
from tritonlm.gateway.usage import Usage
from tritonlm.gateway.websocket import LABEL as ON_SOCKETS
from tritonlm.gateway.websocket import Sockets
from tritonlm.options import Options
from tritonlm.tracing import from_environment

NORMAL = Options.priority
PAGE = Path(__file__).with_name("page")
PAGE_HEADERS = {"content-security-policy": "default-src 'self'; img-src data:",
                "cache-control": "no-cache"}
B = TypeVar("B", bound=msgspec.Struct)
TB = TypeVar("TB", bound=TaskBody)


class Gateway:
    """What the endpoints of a worker share."""

    def __init__(self, settings: GatewaySettings, shared: Path, journal: Journal) -> None:
        self.settings = settings
        self._shared = shared
        self._journal = journal

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[dict[str, Any]]:
        """Connections to the servers, from before the first request until after the last one."""
        with locked_folder.held(self._shared):
            async with self._connected() as state:
                yield state

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[dict[str, Any]]:
        settings = self.settings
        roster = Roster(settings.addresses,
                        lambda address: Server(connect(address, settings)))
        self.fleet = Fleet(roster, settings.aliases)
        self.sockets = Sockets(self.fleet, self._journal, settings.slow_reader_timeout_s)
        self.relay = Relay(self._shared, self.sockets.serve)
        self.draining = Draining(lambda: self.sockets.num_requests + self.relay.num_passed,
                                 settings.drain_timeout_s)
        self.draining.start()
        if settings.workers > 1:
            await self.relay.start()
        await self.fleet.start()
        cache = (AnswerCache(ResponseCache(settings.cache.open(), settings.cache_ttl_s))
                 if settings.cache.is_on else None)
        try:
            yield {"cache": cache, "slow_reader_timeout_s": settings.slow_reader_timeout_s}
        finally:
            if cache is not None:
                await cache.close()
            await self.relay.close()
            await self.fleet.close()
            metrics.forget_worker()

    async def live(self, _: Request) -> Response:
        """Whether the gateway runs."""
        return json_response({"status": "live"})

    async def ready(self, _: Request) -> Response:
        """Whether a server is there with a model; 503 if not, or if the gateway is to stop."""
        models = [] if self.draining.has_begun else list(self.fleet.models)
        return json_response({"status": "ready" if models else "no model is ready",
                              "models": models}, 200 if models else 503)

    async def models(self, request: Request) -> Response:
        """The models that are ready, or the one in the path."""
        entries = [{"id": name, "object": "model", "created": 0, "owned_by": "tritonlm",
                    "task": task} for name, task in self.fleet.models.items()]
        if "model" not in request.path_params:
            return json_response({"object": "list", "data": entries})
        name = request.path_params["model"]
        self.fleet.resolve(name, self.fleet.models.get(name, GENERATE))
        return json_response(next(entry for entry in entries if entry["id"] == name))

    def call(self, kind: type[B], read: Callable[[B, dict[str, Any]], Call]) -> Any:
        """The endpoint whose bodies are of `kind` and say what `read` makes of them."""
        async def endpoint(request: Request) -> Response:
            given = json_object(await request.body())
            note_wish(request, given)
            body, options = read_call(given, kind)
            call = read(body, request.state.caller.applied_to(options))
            return await answer(request, self.fleet, call)
        return endpoint

    def task(
        self, kind: type[TB], compute: Callable[[Fleet, TB, Usage], Coroutine[Any, Any, Any]]
    ) -> Any:
        """The endpoint whose bodies are of `kind` and are answered with what is computed."""
        async def endpoint(request: Request) -> Response:
            given = json_object(await request.body())
            note_wish(request, given)
            caller = {name: given[name] for name in ("priority", "user") if name in given}
            body = read_fields(given | request.state.caller.applied_to(caller), kind)
            record = request.state.record
            record.model = body.model
            if given.get("priority", NORMAL) != NORMAL and not self.fleet.has_levels(body.model):
                raise InvalidArgument("priority", given["priority"], f"allowed: {NORMAL}, since "
                                      "the queue of this model has no levels (queue_policy)")
            return await task_response(
                request, self.fleet, body, partial(compute, self.fleet, body, record.usage),
                record.usage)
        return endpoint

    async def generate_stream(self, request: Request) -> Response:
        """Server-sent events under the contract's own names."""
        body, options = read_call(json_object(await request.body()), GenerateBody)
        options = request.state.caller.applied_to(options)
        upstream = streamed_request(body, options, self.fleet.resolve(body.model))
        record = request.state.record
        record.model = body.model
        answers = self.fleet.open([upstream], str(options.get("priority", "")))
        return await open_events(request, answers, GenerateScript(record.usage))

    async def websocket(self, socket: WebSocket) -> None:
        """Many requests at once on one socket; none that begins when the worker is to stop."""
        if self.draining.has_begun:
            await error_response(Unavailable("the gateway is stopping; retry later"))(
                socket.scope, socket.receive, socket.send)
            return
        token = socket.query_params.get("session", "")
        if self.relay.leads_to(token):
            await self.relay.pass_on(socket, token)
        else:
            await self.sockets.serve(socket)

    async def metrics(self, _: Request) -> Response:
        """What Prometheus reads."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    async def tokenize(self, request: Request) -> Response:
        """The ids of a prompt."""
        body = read_body(await request.body(), tokens.TokenizeBody)
        return json_response(await tokens.tokenize(self.fleet, body))

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        body = read_body(await request.body(), tokens.DetokenizeBody)
        return json_response(await tokens.detokenize(self.fleet, body))


def create_app(settings: GatewaySettings, shared: Path) -> Starlette:
    """The application of one worker; `shared` is a folder that all workers have."""
    logs.configure(settings.log_format)
    journal = Journal(settings.access_log, from_environment("tritonlm-gateway"))
    gateway = Gateway(settings, shared, journal)
    read_chat = partial(chat_call, tool_parser=settings.tool_parser)
    chat, completions = (gateway.call(ChatBody, read_chat),
                         gateway.call(CompletionBody, completion_call))
    routes = [
        Route("/", _index), Mount("/page", StaticFiles(directory=PAGE)),
        Route("/health/live", gateway.live), Route("/health/ready", gateway.ready),
        Route("/metrics", gateway.metrics),
        Route("/v1/models", gateway.models), Route("/v1/models/{model:path}", gateway.models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/responses", gateway.call(ResponsesBody, responses_call), methods=["POST"]),
        Route("/v1/embeddings", gateway.task(EmbeddingsBody, embeddings), methods=["POST"]),
        *(Route(path, gateway.task(RerankBody, rerank), methods=["POST"])
          for path in ("/v1/rerank", "/v2/rerank")),
        Route("/v1/classify", gateway.task(ClassifyBody, classify), methods=["POST"]),
        Route("/generate_stream", gateway.generate_stream, methods=["POST"]),
        WebSocketRoute("/ws", gateway.websocket),
        Route("/tokenize", gateway.tokenize, methods=["POST"]),
        Route("/detokenize", gateway.detokenize, methods=["POST"]),
    ]
    for path in (ON_SOCKETS, *(route.path for route in routes if isinstance(route, Route)
                               and "POST" in (route.methods or ()))):
        metrics.begin_path(path)
    return Starlette(
        routes=routes, lifespan=gateway.lifespan,
        middleware=_middleware(settings, shared, journal),
        exception_handlers={ServingError: _tell, HTTPException: _tell_http,
                            Exception: _tell_bug})


def _middleware(settings: GatewaySettings, shared: Path, journal: Journal) -> list[Middleware]:
    keys = limits = None
    if settings.keys_file is not None:
        keys = KeyRing.load(settings.keys_file)
        limits = Limits(keys.keys, shared / "limits")
    cors = Middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"],
                      allow_headers=["*"],
                      expose_headers=["x-request-id", "retry-after", CACHE_HEADER])
    access = Middleware(Access, keys, limits, settings.max_body_bytes, journal)
    return [cors, access] if settings.origins else [access]


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _index(_: Request) -> Response:
    """The page with a chat."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


async def _tell(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    return error_response(error)


async def _tell_http(request: Request, error: Exception) -> Response:
    """A path or method that does not exist."""
    assert isinstance(error, HTTPException)
    body = error_body(NotFound(f"{request.method} {request.url.path}: {error.detail}"))
    return Response(msgspec.json.encode(body), error.status_code, error.headers,
                    media_type="application/json")


async def _tell_bug(request: Request, _: Exception) -> Response:
    """What went wrong is in the log, and not for clients."""
    return await _tell(request, from_code("INTERNAL", "the gateway failed"))

"""What a worker of the gateway answers, path by path, and what lives as long as the worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from tritonlm import locked_folder
from tritonlm.caching.response_cache import ResponseCache
from tritonlm.errors import InvalidArgument
from tritonlm.gateway import metrics, tokens
from tritonlm.gateway.body import json_object, read_body, read_call, read_fields
from tritonlm.gateway.cached_answers import AnswerCache, note_wish
from tritonlm.gateway.cached_bodies import task_response
from tritonlm.gateway.connection import GENERATE
from tritonlm.gateway.draining import Draining, stopping
from tritonlm.gateway.events import open_events
from tritonlm.gateway.failures import Forbidden, error_response, renamed
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.generation import GenerateBody, GenerateScript, streamed_request
from tritonlm.gateway.journal import Journal
from tritonlm.gateway.managed_connection import connect
from tritonlm.gateway.openai.call import Call, answer
from tritonlm.gateway.relay import Relay
from tritonlm.gateway.roster import Roster
from tritonlm.gateway.server import Server
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.gateway.task_rows import TaskBody
from tritonlm.gateway.usage import Usage
from tritonlm.gateway.websocket import Sockets
from tritonlm.options import Options

NORMAL = Options.priority
B = TypeVar("B", bound=msgspec.Struct)
TB = TypeVar("TB", bound=TaskBody)


class Gateway:
    """What the endpoints of a worker share."""

    def __init__(
        self, settings: GatewaySettings, shared: Path, journal: Journal, draining: Draining
    ) -> None:
        self.settings = settings
        self._shared = shared
        self._journal = journal
        self._draining = draining

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
        self._draining.start(lambda: self.sockets.num_requests + self.relay.num_passed)
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
        return _json({"status": "live"})

    async def ready(self, _: Request) -> Response:
        """Whether a server is there with a model; 503 if not, or if the gateway is to stop."""
        models = [] if self._draining.has_begun else list(self.fleet.models)
        return _json({"status": "ready" if models else "no model is ready", "models": models},
                     200 if models else 503)

    async def models(self, request: Request) -> Response:
        """The models that are ready, or the one in the path."""
        entries = [{"id": name, "object": "model", "created": 0, "owned_by": "tritonlm",
                    "task": task} for name, task in self.fleet.models.items()]
        if "model" not in request.path_params:
            return _json({"object": "list", "data": entries})
        name = request.path_params["model"]
        self.fleet.resolve(name, self.fleet.models.get(name, GENERATE))
        return _json(next(entry for entry in entries if entry["id"] == name))

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
            with renamed(kind.NAMES):
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
        if self._draining.has_begun:
            await error_response(stopping())(socket.scope, socket.receive, socket.send)
            return
        if not self._may_connect(socket.headers):
            await error_response(Forbidden("pages of this origin may not call; --cors-origins "
                                           "names those that may"))(
                socket.scope, socket.receive, socket.send)
            return
        token = socket.query_params.get("session", "")
        if self.relay.leads_to(token):
            await self.relay.pass_on(socket, token)
        else:
            await self.sockets.serve(socket)

    def _may_connect(self, headers: Headers) -> bool:
        """Whether it is no page of another origin, which browsers let open any WebSocket."""
        origin = headers.get("origin")
        is_own = origin is None or origin.partition("://")[2] == headers.get("host")
        return is_own or bool({"*", origin} & {*self.settings.origins})

    async def metrics(self, _: Request) -> Response:
        """What Prometheus reads."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    async def tokenize(self, request: Request) -> Response:
        """The ids of a prompt."""
        body = read_body(await request.body(), tokens.TokenizeBody)
        return _json(await tokens.tokenize(self.fleet, body))

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        body = read_body(await request.body(), tokens.DetokenizeBody)
        return _json(await tokens.detokenize(self.fleet, body))


def _json(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")

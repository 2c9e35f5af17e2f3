"""The gateway as an ASGI application: its paths, and what stands before and after them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from tritonlm.errors import NotFound, ServingError, from_code
from tritonlm.gateway import logs, metrics
from tritonlm.gateway.access import Access
from tritonlm.gateway.cached_answers import HEADER as CACHE_HEADER
from tritonlm.gateway.classify import ClassifyBody, classify
from tritonlm.gateway.draining import Draining
from tritonlm.gateway.endpoints import Gateway
from tritonlm.gateway.failures import ClientGone, error_body, error_response
from tritonlm.gateway.journal import Journal
from tritonlm.gateway.keys import KeyRing
from tritonlm.gateway.limits import Limits
from tritonlm.gateway.openai.chat import ChatBody, chat_call
from tritonlm.gateway.openai.completions import CompletionBody, completion_call
from tritonlm.gateway.openai.embeddings import EmbeddingsBody, embeddings
from tritonlm.gateway.openai.responses import ResponsesBody, responses_call
from tritonlm.gateway.rerank import RerankBody, rerank
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.gateway.websocket import LABEL as ON_SOCKETS
from tritonlm.tracing import from_environment

PAGE = Path(__file__).with_name("page")
PAGE_HEADERS = {"content-security-policy": "default-src 'self'; img-src data:",
                "cache-control": "no-cache"}


def create_app(settings: GatewaySettings, shared: Path) -> Starlette:
    """The application of one worker; `shared` is a folder that all workers have."""
    logs.configure(settings.log_format)
    journal = Journal(settings.access_log, from_environment("tritonlm-gateway"))
    draining = Draining(settings.drain_timeout_s)
    gateway = Gateway(settings, shared, journal, draining)
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
        middleware=_middleware(settings, shared, journal, draining),
        exception_handlers={ServingError: _tell, HTTPException: _tell_http,
                            ClientDisconnect: _tell_nobody, Exception: _tell_bug})


def _middleware(
    settings: GatewaySettings, shared: Path, journal: Journal, draining: Draining
) -> list[Middleware]:
    keys = limits = None
    if settings.keys_file is not None:
        keys = KeyRing.load(settings.keys_file)
        limits = Limits(keys.keys, shared / "limits")
    cors = Middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"],
                      allow_headers=["*"],
                      expose_headers=["x-request-id", "retry-after", CACHE_HEADER])
    access = Middleware(Access, keys, limits, settings.max_body_bytes, journal,
                        draining)
    return [cors, access] if settings.origins else [access]


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


async def _tell_nobody(request: Request, _: Exception) -> Response:
    """The client hung up amid its body: the log says so."""
    return await _tell(request, ClientGone("the client hung up"))


async def _tell_bug(request: Request, _: Exception) -> Response:
    """What went wrong is in the log, and not for clients."""
    return await _tell(request, from_code("INTERNAL", "the gateway failed"))

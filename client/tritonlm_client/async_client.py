"""The client for asyncio: as `tritonlm_client.client`, one to an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, Literal, overload

from tenacity import AsyncRetrying

from tritonlm.errors import NotFound, ServingError, Unavailable
from tritonlm_client import tasks
from tritonlm_client.address import Address, addresses_of
from tritonlm_client.async_batch import batch
from tritonlm_client.async_grpc_transport import AsyncGrpcTransport
from tritonlm_client.async_http_transport import AsyncHttpTransport
from tritonlm_client.async_stream import AsyncStream
from tritonlm_client.attempts import Attempts
from tritonlm_client.chat import AsyncChat
from tritonlm_client.deadline import Deadline
from tritonlm_client.load_watch import LoadWatch
from tritonlm_client.requests import Prompt, Request, text_request
from tritonlm_client.results import Completion, ModelInfo
from tritonlm_client.retry import Retry
from tritonlm_client.servers import Servers, check_policy
from tritonlm_client.transport import AsyncTransport, Tensors


class AsyncClient:
    """As `Client`; the connections are made by the first call."""

    def __init__(
        self, servers: str | Sequence[str] = "localhost:8001", model: str = "generate", *,
        policy: str = "normal", retry: Retry = Retry(),  # noqa: B008 - it is frozen
        fallback_model: str | None = None, connections: int = 1,
    ) -> None:
        self.model = model
        self._models = [model] if fallback_model is None else [model, fallback_model]
        self._retry = retry
        self._policy = policy
        self._connections = connections
        self._addresses = addresses_of(servers, connections)
        check_policy(policy)

    async def generate(
        self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any
    ) -> Completion:
        """The whole answer to `prompt`: see `Client.generate`."""
        async with self._open(prompt, options, timeout_s, False) as stream:
            chunks = [chunk async for chunk in stream]
            return Completion.join(stream.request_id, chunks, stream.model)

    def stream(
        self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any
    ) -> AsyncStream:
        """The answer to `prompt` in chunks as they come; needs a running event loop."""
        return self._open(prompt, options, timeout_s, True)

    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, concurrency: int = 16, progress: bool = False,
        keep_errors: Literal[False] = False, timeout_s: float | None = None, **options: Any,
    ) -> AsyncGenerator[Completion, None]: ...

    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, concurrency: int = 16, progress: bool = False,
        keep_errors: bool, timeout_s: float | None = None, **options: Any,
    ) -> AsyncGenerator[Completion | ServingError, None]: ...

    def batch(
        self, prompts: Iterable[Prompt], *, concurrency: int = 16, progress: bool = False,
        keep_errors: bool = False, timeout_s: float | None = None, **options: Any,
    ) -> AsyncGenerator[Completion | ServingError, None]:
        """The answers to `prompts` in their order: see `Client.batch`."""
        generate = partial(self.generate, timeout_s=timeout_s, **options)
        return batch(generate, prompts, concurrency, progress, keep_errors)

    def chat(self, system: str | None = None) -> AsyncChat:
        """A chat that remembers what was said; `system` says what the model is to be."""
        return AsyncChat(self.stream, system)

    async def embed(
        self, texts: Sequence[str], *, model: str = "embed", dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> tasks.Embeddings:
        """The vectors of `texts`, cut to `dimensions` if that is given; raises `ServingError`."""
        requests = tasks.embed_requests(model, texts, dimensions)
        return tasks.embeddings(await self._infer(requests, timeout_s))

    async def rerank(
        self, query: str, documents: Sequence[str], *, model: str = "rerank",
        timeout_s: float | None = None,
    ) -> list[tasks.RankedDocument]:
        """`documents` by how well they answer `query`, the best first; raises `ServingError`."""
        requests = tasks.rerank_requests(model, query, documents)
        return tasks.ranking(documents, await self._infer(requests, timeout_s))

    async def classify(
        self, texts: Sequence[str], *, model: str = "classify", timeout_s: float | None = None
    ) -> list[tuple[tasks.Label, ...]]:
        """Each text's labels, the likeliest first; raises `ServingError`."""
        requests = tasks.classify_requests(model, texts)
        return tasks.classifications(await self._infer(requests, timeout_s))

    async def cancel(self, request_id: str) -> bool:
        """End the request of that id, whoever made it; False if nothing of that id runs."""
        is_cancelled, error = False, None
        for transport in self._transports:
            try:
                await transport.cancel(self.model, request_id)
                is_cancelled = True
            except NotFound:
                pass
            except Unavailable as failure:
                error = failure
        if error is not None and not is_cancelled:
            raise error
        return is_cancelled

    async def models(self) -> list[ModelInfo]:
        """The models of the first server that answers; raises `Unavailable` without one."""
        *others, last = self._transports
        for transport in others:
            try:
                return await transport.models()
            except Unavailable:
                pass
        return await last.models()

    async def is_live(self) -> bool:
        """Whether a server answers."""
        return any([await transport.is_live() for transport in self._transports])

    async def is_ready(self) -> bool:
        """Whether a server says that it and the model are ready."""
        return any([await transport.is_ready(self.model) for transport in self._transports])

    async def close(self) -> None:
        """End what still runs, and the connections."""
        self._servers.close()
        self._watch.close()
        for transport in self._servers.transports.values():
            await transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @cached_property
    def _servers(self) -> Servers[AsyncTransport]:
        """Made late, because connections belong to the event loop that runs."""
        def connect(address: Address) -> AsyncTransport:
            kind = AsyncHttpTransport if address.is_http else AsyncGrpcTransport
            return kind(address, self._connections)
        servers = Servers(self._addresses, connect, self._policy)
        self._watch = LoadWatch(servers)
        return servers

    @property
    def _transports(self) -> list[AsyncTransport]:
        self._servers.check_open()
        return list(self._servers.transports.values())

    def _open(
        self, prompt: Prompt, options: dict[str, Any], timeout_s: float | None, is_stream: bool
    ) -> AsyncStream:
        request = text_request(self.model, prompt, options, is_stream)
        attempts = Attempts(self._servers, request, Deadline(timeout_s))
        return AsyncStream(attempts, self._models, self._retry)

    async def _infer(self, requests: Sequence[Request], timeout_s: float | None) -> list[Tensors]:
        """The answers to requests to one model."""
        deadline = Deadline(timeout_s)
        retrying = AsyncRetrying(**self._retry.rules(deadline, lambda: True))
        running: list[asyncio.Task[Tensors]] = [asyncio.create_task(
            retrying(_infer_once, Attempts(self._servers, request, deadline)))
            for request in requests]
        try:
            return await asyncio.gather(*running)
        finally:
            for task in running:  # when one has failed, nobody waits for the others
                task.cancel()


async def _infer_once(attempts: Attempts[AsyncTransport]) -> Tensors:
    for attempt in attempts.round(attempts.request.model):
        with attempt:
            tensors = await attempt.transport.infer(attempt.request, attempt.timeout_s)
            attempt.end()
            return tensors
    raise AssertionError("a round ends with an answer or an error")

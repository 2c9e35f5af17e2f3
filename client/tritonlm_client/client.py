"""The client for code without asyncio; threads may share one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, overload

from tenacity import Retrying

from tritonlm.errors import NotFound, ServingError, Unavailable
from tritonlm_client import tasks
from tritonlm_client.address import Address, addresses_of
from tritonlm_client.attempts import Attempts
from tritonlm_client.batch import Batch
from tritonlm_client.chat import Chat
from tritonlm_client.deadline import Deadline
from tritonlm_client.grpc_transport import GrpcTransport
from tritonlm_client.http_transport import HttpTransport
from tritonlm_client.load_watch import LoadWatch
from tritonlm_client.requests import Prompt, Request, text_request
from tritonlm_client.results import Completion, ModelInfo
from tritonlm_client.retry import Retry
from tritonlm_client.servers import Servers
from tritonlm_client.stream import Stream
from tritonlm_client.transport import Tensors, Transport


class Client:
    """Talks to one or several servers: `Client("localhost:8001")`, `Client(["a:8001", "b:8001"])`.

    `http://HOST:PORT` is a server's HTTP port. `model` answers, or the `fallback_model` if that one
    cannot be had. Of several servers one takes a request by `policy`: normal, urgent or batch.
    """

    def __init__(
        self, servers: str | Sequence[str] = "localhost:8001", model: str = "generate", *,
        policy: str = "normal", retry: Retry = Retry(),  # noqa: B008 - it is frozen
        fallback_model: str | None = None, connections: int = 1,
    ) -> None:
        """`connections` go to each server; each carries many requests at once."""
        self.model = model
        self._models = [model] if fallback_model is None else [model, fallback_model]
        self._retry = retry

        def connect(address: Address) -> Transport:
            kind = HttpTransport if address.is_http else GrpcTransport
            return kind(address, connections)

        self._servers = Servers(addresses_of(servers, connections), connect, policy)
        self._watch = LoadWatch(self._servers)

    @property
    def url(self) -> str:
        """Where the servers are."""
        return self._servers.url

    def generate(
        self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any
    ) -> Completion:
        """The whole answer to `prompt`; `options` are those of `tritonlm.options.Options`.

        Raises `InvalidArgument` for a value that is not allowed (before anything is sent where
        that can be seen), and `DeadlineExceeded` if no answer has come after `timeout_s`, all
        tries together.
        """
        with self._open(prompt, options, timeout_s, False) as stream:
            return Completion.join(stream.request_id, list(stream), stream.model)

    def stream(self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any) -> Stream:
        """The answer to `prompt` in chunks as they come; arguments and errors as for `generate`."""
        return self._open(prompt, options, timeout_s, True)

    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, concurrency: int = 16, progress: bool = False,
        keep_errors: Literal[False] = False, timeout_s: float | None = None, **options: Any,
    ) -> Iterator[Completion]: ...

    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, concurrency: int = 16, progress: bool = False,
        keep_errors: bool, timeout_s: float | None = None, **options: Any,
    ) -> Iterator[Completion | ServingError]: ...

    def batch(
        self, prompts: Iterable[Prompt], *, concurrency: int = 16, progress: bool = False,
        keep_errors: bool = False, timeout_s: float | None = None, **options: Any,
    ) -> Iterator[Completion | ServingError]:
        """The answers to `prompts` in their order, `concurrency` of them at work at once.

        An error is raised; with `keep_errors` it stands in its answer's place. `timeout_s` is that
        of each prompt, and `progress` shows a bar.
        """
        return iter(Batch(lambda prompt: self._open(prompt, options, timeout_s, False), prompts,
                          concurrency, progress, keep_errors))

    def chat(self, system: str | None = None) -> Chat:
        """A chat that remembers what was said; `system` says what the model is to be."""
        return Chat(self.stream, system)

    def embed(
        self, texts: Sequence[str], *, model: str = "embed", dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> tasks.Embeddings:
        """The vectors of `texts`, cut to `dimensions` if that is given; raises `ServingError`."""
        requests = tasks.embed_requests(model, texts, dimensions)
        return tasks.embeddings(self._infer(requests, timeout_s))

    def rerank(
        self, query: str, documents: Sequence[str], *, model: str = "rerank",
        timeout_s: float | None = None,
    ) -> list[tasks.RankedDocument]:
        """`documents` by how well they answer `query`, the best first; raises `ServingError`."""
        requests = tasks.rerank_requests(model, query, documents)
        return tasks.ranking(documents, self._infer(requests, timeout_s))

    def classify(
        self, texts: Sequence[str], *, model: str = "classify", timeout_s: float | None = None
    ) -> list[tuple[tasks.Label, ...]]:
        """Each text's labels, the likeliest first; raises `ServingError`."""
        requests = tasks.classify_requests(model, texts)
        return tasks.classifications(self._infer(requests, timeout_s))

    def cancel(self, request_id: str) -> bool:
        """End the request of that id, whoever made it; False if nothing of that id runs."""
        is_cancelled, error = False, None
        for transport in self._transports:
            try:
                transport.cancel(self.model, request_id)
                is_cancelled = True
            except NotFound:
                pass
            except Unavailable as failure:
                error = failure
        if error is not None and not is_cancelled:
            raise error
        return is_cancelled

    def models(self) -> list[ModelInfo]:
        """The models of the first server that answers; raises `Unavailable` without one."""
        *others, last = self._transports
        for transport in others:
            try:
                return transport.models()
            except Unavailable:
                pass
        return last.models()

    def is_live(self) -> bool:
        """Whether a server answers."""
        return any(transport.is_live() for transport in self._transports)

    def is_ready(self) -> bool:
        """Whether a server says that it and the model are ready."""
        return any(transport.is_ready(self.model) for transport in self._transports)

    def close(self) -> None:
        """End what still runs, and the connections."""
        self._watch.close()
        self._servers.close()
        for transport in self._servers.transports.values():
            transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _transports(self) -> list[Transport]:
        self._servers.check_open()
        return list(self._servers.transports.values())

    def _open(
        self, prompt: Prompt, options: dict[str, Any], timeout_s: float | None, is_stream: bool
    ) -> Stream:
        request = text_request(self.model, prompt, options, is_stream)
        attempts = Attempts(self._servers, request, Deadline(timeout_s))
        return Stream(attempts, self._models, self._retry)

    def _infer(self, requests: Sequence[Request], timeout_s: float | None) -> list[Tensors]:
        """The answers to requests to one model."""
        deadline = Deadline(timeout_s)
        retrying = Retrying(**self._retry.rules(deadline, lambda: True))
        return [retrying(_infer_once, Attempts(self._servers, request, deadline))
                for request in requests]


def _infer_once(attempts: Attempts[Transport]) -> Tensors:
    for attempt in attempts.round(attempts.request.model):
        with attempt:
            tensors = attempt.transport.infer(attempt.request, attempt.timeout_s)
            attempt.end()
            return tensors
    raise AssertionError("a round ends with an answer or an error")

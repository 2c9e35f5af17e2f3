"""What a client can do with one server, whatever protocol it speaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from tritonlm_client.requests import Request
from tritonlm_client.results import Chunk, ModelInfo

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""The outputs of a model that answers once."""


class Call(Protocol):
    """An answer that is coming from one server; to be iterated over once."""

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks; raises `ServingError`."""

    def cancel(self) -> None:
        """Have the server stop; the iteration ends. Any thread may do it."""


class Transport(Protocol):
    """A connection to a server; threads may share it."""

    def stream(self, request: Request, timeout_s: float | None) -> Call:
        """The answer of a model of texts; nothing blocks before the iteration."""

    def infer(self, request: Request, timeout_s: float | None) -> Tensors:
        """The answer of a model that answers once; raises `ServingError`."""

    def cancel(self, model: str, request_id: str, timeout_s: float = ...) -> None:
        """End a request; raises `NotFound` if nothing of that id runs."""

    def models(self) -> list[ModelInfo]:
        """The models of the server's repositories; raises `Unavailable`."""

    def is_live(self) -> bool:
        """Whether the server answers."""

    def is_ready(self, model: str) -> bool:
        """Whether the server and the model take requests."""

    def close(self) -> None:
        """End what still runs, and the connection."""


class AsyncCall(Protocol):
    """As `Call`, for asyncio."""

    def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        """The chunks; raises `ServingError`."""

    async def cancel(self) -> None:
        """Have the server stop; the iteration ends."""


class AsyncTransport(Protocol):
    """As `Transport`, for one event loop."""

    def stream(self, request: Request, timeout_s: float | None) -> AsyncCall:
        """The answer of a model of texts."""

    async def infer(self, request: Request, timeout_s: float | None) -> Tensors:
        """The answer of a model that answers once; raises `ServingError`."""

    async def cancel(self, model: str, request_id: str, timeout_s: float = ...) -> None:
        """End a request; raises `NotFound` if nothing of that id runs."""

    async def models(self) -> list[ModelInfo]:
        """The models of the server's repositories; raises `Unavailable`."""

    async def is_live(self) -> bool:
        """Whether the server answers."""

    async def is_ready(self, model: str) -> bool:
        """Whether the server and the model take requests."""

    async def close(self) -> None:
        """End what still runs, and the connection."""

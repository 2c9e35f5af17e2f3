"""Calls of models that have one response, to be read as the streams of gRPC are.

On a stream tritonserver 24.10 loses an answer that it puts into its response cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse

MODELS = frozenset({"complete"})


class OneResponse:
    """A call without asyncio."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.cancel = call.cancel

    def __iter__(self) -> Iterator[ModelStreamInferResponse]:
        try:
            yield _streamed(self._call.result())
        except grpc.FutureCancelledError:
            raise self._call from None


class AsyncOneResponse:
    """A call for asyncio."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.cancel = call.cancel

    async def __aiter__(self) -> AsyncIterator[ModelStreamInferResponse]:
        yield _streamed(await self._call)


def _streamed(response: ModelInferResponse) -> ModelStreamInferResponse:
    response.parameters["triton_final_response"].bool_param = True
    return ModelStreamInferResponse(infer_response=response)

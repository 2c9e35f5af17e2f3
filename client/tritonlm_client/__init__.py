"""Client of a tritonlm server: text and tokens as they come, over gRPC; needs no torch."""

from tritonlm.errors import EngineFailure, InvalidArgument, NotFound, ServingError, Unavailable
from tritonlm_client.async_client import AsyncClient, AsyncStream
from tritonlm_client.client import Client, Stream
from tritonlm_client.requests import Prompt
from tritonlm_client.results import Chunk, Completion, Logprobs, ModelInfo, TokenLogprob

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Chunk",
    "Client",
    "Completion",
    "EngineFailure",
    "InvalidArgument",
    "Logprobs",
    "ModelInfo",
    "NotFound",
    "Prompt",
    "ServingError",
    "Stream",
    "TokenLogprob",
    "Unavailable",
]

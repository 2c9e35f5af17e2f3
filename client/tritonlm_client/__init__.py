"""Client of tritonlm servers: text and tokens as they come, over gRPC or HTTP; needs no torch."""

from tritonlm.errors import EngineFailure, InvalidArgument, NotFound, ServingError, Unavailable
from tritonlm_client.async_client import AsyncClient
from tritonlm_client.async_stream import AsyncStream
from tritonlm_client.chat import AsyncChat, Chat
from tritonlm_client.client import Client
from tritonlm_client.errors import DeadlineExceeded
from tritonlm_client.requests import Prompt
from tritonlm_client.results import Chunk, Completion, Logprobs, ModelInfo, TokenLogprob
from tritonlm_client.retry import Retry
from tritonlm_client.stream import Stream
from tritonlm_client.tasks import Embeddings, Label, RankedDocument

__all__ = [
    "AsyncChat",
    "AsyncClient",
    "AsyncStream",
    "Chat",
    "Chunk",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "Embeddings",
    "EngineFailure",
    "InvalidArgument",
    "Label",
    "Logprobs",
    "ModelInfo",
    "NotFound",
    "Prompt",
    "RankedDocument",
    "Retry",
    "ServingError",
    "Stream",
    "TokenLogprob",
    "Unavailable",
]

"""Streams over gRPC with tritonclient, straight to Triton."""

from __future__ import annotations

import functools
import queue
import time
from typing import Any
from uuid import uuid4

import numpy as np
from grpc.experimental import gevent as grpc_gevent
from tritonclient import grpc as triton

from loadtests.users.conduct import Conduct
from loadtests.users.language_user import ANSWER_TIMEOUT_S, LanguageUser, RequestFailed
from loadtests.users.pool import Pool

OUTPUTS = ("text_output", "finish_reason", "num_output_tokens")
DTYPES = {str: ("BYTES", np.object_), int: ("INT32", np.int32), bool: ("BOOL", np.bool_)}


class GrpcStreamUser(LanguageUser):
    """Asks `generate`, or the ensemble."""

    kind = "grpc"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        _prepare_grpc()
        self._pool = Pool(lambda: GrpcConnection(self.settings.grpc_url))

    def ask(self, conduct: Conduct) -> None:
        """One request on a stream of its own."""
        with self._pool.lend() as connection:
            connection.ask(self.settings.model, conduct)

    def close(self) -> None:
        """Close the streams."""
        self._pool.close()


class GrpcConnection:
    """A stream that carries one request after the other."""

    def __init__(self, url: str) -> None:
        self._client = triton.InferenceServerClient(url)
        self._answers: queue.SimpleQueue[tuple[float, Any, Any]] = queue.SimpleQueue()
        self._conduct: Conduct | None = None
        self._client.start_stream(self._take)

    def ask(self, model: str, conduct: Conduct) -> None:
        """Send what `conduct` says and read the answer to its end."""
        self._conduct = conduct
        self._client.async_stream_infer(
            model, _inputs(conduct), request_id=uuid4().hex,
            outputs=[triton.InferRequestedOutput(name) for name in OUTPUTS])
        is_over = False
        while not is_over:
            at_s, result, error = self._answers.get(timeout=ANSWER_TIMEOUT_S)
            if error is not None:
                raise RequestFailed(error.message())
            conduct.chunk(int(result.as_numpy("num_output_tokens").item()), at_s)
            is_over = bool(result.as_numpy("finish_reason").item())

    def close(self) -> None:
        """Hang up: what runs is cancelled."""
        self._conduct = None
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def _take(self, result: Any, error: Any) -> None:
        """Called by the thread that reads the stream: while it pauses, nothing is read."""
        self._answers.put((time.monotonic(), result, error))
        if self._conduct is not None:
            self._conduct.pause()


def _inputs(conduct: Conduct) -> list[Any]:
    values = {"text_input": conduct.prompt, "max_tokens": conduct.max_tokens,
              "priority": conduct.priority, "ignore_eos": True, "stream": True}
    inputs = []
    for name, value in values.items():
        datatype, dtype = DTYPES[type(value)]
        tensor = triton.InferInput(name, [1, 1], datatype)
        tensor.set_data_from_numpy(np.array([[value]], dtype))
        inputs.append(tensor)
    return inputs


@functools.cache
def _prepare_grpc() -> None:
    """Let gRPC wait in gevent's way; once, and not before Locust has forked its processes."""
    grpc_gevent.init_gevent()

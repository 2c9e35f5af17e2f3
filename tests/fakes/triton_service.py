"""Triton's gRPC service in this process: a test scripts what it answers, and sees what it got."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from tritonclient.utils import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from tritonlm.contract import ANSWER

Response = messages.ModelStreamInferResponse
Script = Callable[[messages.ModelInferRequest, grpc.ServicerContext], Iterator[Response]]
MAX_STREAMS = 64
HOST = "127.0.0.1"
ALONE = (("grpc.so_reuseport", 0),)
"""Else gRPC lets servers of several processes, as of tests side by side, share a port by chance."""
DTYPES = {tensor.name: tensor.dtype for tensor in ANSWER}


class FakeTriton(GRPCInferenceServiceServicer):
    """Answers every stream by `script`; a stream that ends before its script was hung up."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[messages.ModelInferRequest] = []
        self.asked_once: list[str] = []
        """Models that were not asked on a stream."""
        self.hung_up: queue.Queue[str] = queue.Queue()
        self.models: dict[tuple[str, str], messages.ModelConfigResponse] = {}
        self.url = ""
        self.stop: Callable[[], object] = lambda: None

    def ModelStreamInfer(self, request_iterator, context):
        for request in request_iterator:
            yield from self._answer(request, context)

    def ModelInfer(self, request, context):
        self.asked_once.append(request.model_name)
        [one] = self._answer(request, context)
        if one.error_message:
            context.abort(grpc.StatusCode.INTERNAL, one.error_message)
        return one.infer_response

    def _answer(self, request, context):
        self.requests.append(request)
        played: list[bool] = []
        context.add_callback(lambda: played or self.hung_up.put(request.id))
        yield from self.script(request, context)
        played.append(True)

    def ServerLive(self, request, context):
        return messages.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return messages.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):
        if not any(name == request.name for name, _ in self.models):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: '{request.name}'")
        return messages.ModelReadyResponse(ready=self.models.get((request.name, "READY"))
                                           is not None)

    def RepositoryIndex(self, request, context):
        index = messages.RepositoryIndexResponse()
        for name, state in self.models:
            index.models.add(name=name, version="1", state=state)
        return index

    def ModelConfig(self, request, context):
        return self.models[request.name, "READY"]


@contextmanager
def serve(script: Script, url: str = f"{HOST}:0") -> Iterator[FakeTriton]:
    """A `FakeTriton` that listens at its `url` until `stop` or the end of the block."""
    server = grpc.server(ThreadPoolExecutor(MAX_STREAMS), options=ALONE)
    service = FakeTriton(script)
    add_GRPCInferenceServiceServicer_to_server(service, server)
    service.url = f"{HOST}:{server.add_insecure_port(url)}"
    service.stop = lambda: server.stop(grace=None).wait()
    server.start()
    try:
        yield service
    finally:
        service.stop()


def chunk(
    text: str, ids: tuple[int, ...] = (), index: int = 0, finish_reason: str = "",
    num_input_tokens: tuple[int, ...] = (1,), num_output_tokens: tuple[int, ...] = (1,),
    is_final: bool = False, sequence_index: int = 0, logprobs: tuple[str, ...] = (),
) -> Response:
    """A response of one sequence with all outputs of the contract's answer."""
    return response(
        is_final, text_output=[text], output_ids=ids, chunk_index=[index],
        finish_reason=[finish_reason], num_input_tokens=num_input_tokens,
        num_output_tokens=num_output_tokens, sequence_index=[sequence_index], logprobs=logprobs)


def response(is_final: bool, **outputs: Sequence[Any]) -> Response:
    """A response with these outputs."""
    made = Response()
    result = made.infer_response
    result.parameters["triton_final_response"].bool_param = is_final
    for name, values in outputs.items():
        is_text = DTYPES[name] == "BYTES"
        array = np.array([[value.encode() for value in values]], np.object_) if is_text else (
            np.array([values], np.int32))
        result.outputs.add(name=name, datatype=DTYPES[name], shape=array.shape)
        raw = serialize_byte_tensor(array).item() if array.size and is_text else array.tobytes()
        result.raw_output_contents.append(raw)
    return made


def empty_final() -> Response:
    """A response that only says that it is the last."""
    response = Response()
    response.infer_response.parameters["triton_final_response"].bool_param = True
    return response


def failure(message: str) -> Response:
    """A response that carries an error."""
    return Response(error_message=message)


def tensors(request: messages.ModelInferRequest) -> dict[str, list]:
    """A request's inputs, each as nested lists, by name."""
    found = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        values = (deserialize_bytes_tensor(raw) if tensor.datatype == "BYTES"
                  else np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)))
        found[tensor.name] = values.reshape(tensor.shape).tolist()
    return found

"""Streams over gRPC: raw stubs, of whose responses only what counts is decoded."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonlm.bench.asks import Ask
from tritonlm.bench.client import CONNECT_TIMEOUT_S
from tritonlm.bench.load import Load
from tritonlm.bench.seen import Seen, Watch
from tritonlm.errors import Unavailable

OUTPUTS = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")
STREAMS_PER_CHANNEL = 16
LENGTH_BYTES = 4
"""In front of a text."""
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


class GrpcClient:
    """Asks `load.model` itself."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._channels: list[Any] = []
        self._num_streams = 0

    def request(self, ask: Ask) -> Any:
        """A `ModelInferRequest`."""
        return inference_request(self._load, ask)

    def connection(self) -> Stream:
        """A stream; some share a channel."""
        if self._num_streams % STREAMS_PER_CHANNEL == 0:
            self._channels.append(grpc.aio.insecure_channel(self._load.address, CHANNEL_OPTIONS))
        self._num_streams += 1
        return Stream(self._channels[-1], self._load.address)

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels))


class Stream:
    """A bidirectional stream that carries one request after the other."""

    def __init__(self, channel: Any, address: str) -> None:
        self._channel = channel
        self._address = address
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._call: Any = None

    async def open(self) -> None:
        """Wait for the channel; raises `Unavailable`."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), CONNECT_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise Unavailable(f"no server answers at {self._address}") from None

    async def run(self, request: Any) -> Seen:
        """Send `request` and read its responses to the last one."""
        watch = ResponseWatch(time.monotonic())
        try:
            if self._call is None:
                self._call = self._stub.ModelStreamInfer()
            await self._call.write(request)
            while not watch.is_over:
                watch.take(await self._call.read())
        except grpc.RpcError as error:
            watch.error, self._call = f"{error.code().name}: {error.details()}", None
        except KeyError as error:
            watch.error, self._call = f"a response has no output {error}", None
        except asyncio.InvalidStateError as error:
            watch.error, self._call = str(error), None
        return watch.seen()

    async def close(self) -> None:
        """End the stream."""
        if self._call is not None:
            await self._call.done_writing()
            await self._call.read()
            self._call = None


class ResponseWatch(Watch):
    """Reads the responses of a stream."""

    is_over = False

    def take(self, response: Any) -> None:
        """The next message of the stream."""
        if response is grpc.aio.EOF or response.error_message:
            self.is_over = True
            self.error = "the stream ended" if response is grpc.aio.EOF else response.error_message
            return
        self.chunks_s.append(time.monotonic())
        answer = response.infer_response
        raw = {output.name: value for output, value in zip(
            answer.outputs, answer.raw_output_contents, strict=True)}
        self.num_output_tokens = int.from_bytes(raw["num_output_tokens"], "little")
        self.num_input_tokens = int.from_bytes(raw["num_input_tokens"], "little")
        self.is_over = len(raw["finish_reason"]) > LENGTH_BYTES


def inference_request(load: Load, ask: Ask) -> Any:
    """A `ModelInferRequest` of a stream."""
    request = service_pb2.ModelInferRequest(model_name=load.model)
    if isinstance(ask.prompt, str):
        text = ask.prompt.encode()
        _add(request, "text_input", "BYTES", np.frombuffer(
            len(text).to_bytes(LENGTH_BYTES, "little") + text, np.uint8), size=1)
    else:
        _add(request, "input_ids", "INT32", np.array(ask.prompt, np.int32))
    if ask.cut_to is not None:
        _add(request, "truncate_prompt_tokens", "INT32", np.array([ask.cut_to], np.int32))
    _add(request, "max_tokens", "INT32", np.array([ask.max_tokens], np.int32))
    _add(request, "temperature", "FP32", np.array([load.temperature], np.float32))
    _add(request, "ignore_eos", "BOOL", np.array([load.ignore_eos]))
    _add(request, "stream", "BOOL", np.array([True]))
    for name in OUTPUTS:
        request.outputs.add(name=name)
    return request


def _add(
    request: Any, name: str, datatype: str, values: NDArray[Any], size: int | None = None
) -> None:
    """Add an input of shape [1, n]."""
    request.inputs.add(name=name, datatype=datatype, shape=[1, size or values.size])
    request.raw_input_contents.append(values.tobytes())

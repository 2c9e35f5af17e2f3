"""One client process of a load: a closed loop of token streams over gRPC.

`python -m benchmarks.grpc_load` reads a `Load` as JSON from its standard input, says `ready`, waits
for a line, and writes what it has seen as JSON. It uses raw stubs and decodes only what it counts,
so that it measures the server and not itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import string
import sys
import time
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

OUTPUTS = ("text_output", "finish_reason", "num_output_tokens")
STREAMS_PER_CONNECTION = 16
LENGTH_BYTES = 4
"""In front of a text."""
CHARS_PER_TOKEN = 6
"""At least, of a random text; the prompt is cut to its length."""
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True)
class Load:
    """What one process asks for."""

    address: str
    model: str
    concurrency: int
    """Requests at a time."""
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int
    vocab_size: int
    """Prompts are random ids below it; 0: random texts, cut to as many tokens."""
    seed: int
    has_stream_each: bool = False
    """A stream for each request; else one for each place of the loop."""


@dataclass(frozen=True)
class Seen:
    """What became of a request; times on the monotonic clock, which processes share."""

    started_s: float
    first_s: float
    last_s: float
    num_tokens: int
    num_chunks: int
    num_first_tokens: int
    """Tokens of the first chunk."""
    error: str = ""


def inference_request(load: Load, random: np.random.Generator) -> Any:
    """A greedy stream of a random prompt that does not stop before its last token."""
    request = service_pb2.ModelInferRequest(model_name=load.model)
    if load.vocab_size:
        ids = random.integers(0, load.vocab_size, load.num_prompt_tokens, np.int32)
        _add(request, "input_ids", "INT32", ids)
    else:
        letters = np.array([*string.ascii_lowercase, " ", " "])
        text = "".join(random.choice(letters, CHARS_PER_TOKEN * load.num_prompt_tokens)).encode()
        _add(request, "text_input", "BYTES", np.frombuffer(
            len(text).to_bytes(4, "little") + text, np.uint8), size=1)
        length = np.array([load.num_prompt_tokens], np.int32)
        _add(request, "truncate_prompt_tokens", "INT32", length)
    _add(request, "max_tokens", "INT32", np.array([load.num_output_tokens], np.int32))
    _add(request, "temperature", "FP32", np.array([0], np.float32))
    for name in ("ignore_eos", "stream"):
        _add(request, name, "BOOL", np.array([True]))
    for name in OUTPUTS:
        request.outputs.add(name=name)
    return request


class Stream:
    """A bidirectional stream that carries one request after the other."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._call: Any = None

    async def run(self, request: Any) -> Seen:
        """Send `request` and read its responses to the last one."""
        watch = Watch(time.monotonic())
        try:
            if self._call is None:
                self._call = self._stub.ModelStreamInfer()
            await self._call.write(request)
            while not watch.is_over:
                watch.take(await self._call.read())
        except grpc.RpcError as error:
            watch.error, self._call = str(error), None
        return watch.seen()

    async def close(self) -> None:
        """End the stream in order."""
        if self._call is not None:
            await self._call.done_writing()
            await self._call.read()
            self._call = None


@dataclass
class Watch:
    """What has been seen of a request so far."""

    started_s: float
    first_s: float = math.nan
    last_s: float = math.nan
    num_tokens: int = 0
    num_chunks: int = 0
    num_first_tokens: int = 0
    error: str = ""
    is_over: bool = False

    def take(self, response: Any) -> None:
        """The next message of the stream."""
        if response is grpc.aio.EOF or response.error_message:
            self.is_over = True
            self.error = "the stream ended" if response is grpc.aio.EOF else response.error_message
            return
        self.last_s = time.monotonic()
        answer = response.infer_response
        raw = {output.name: value for output, value in zip(
            answer.outputs, answer.raw_output_contents, strict=True)}
        self.num_tokens = int.from_bytes(raw["num_output_tokens"], "little")
        self.is_over = len(raw["finish_reason"]) > LENGTH_BYTES
        if not self.num_chunks:
            self.first_s, self.num_first_tokens = self.last_s, self.num_tokens
        self.num_chunks += 1

    def seen(self) -> Seen:
        """All of it."""
        return Seen(self.started_s, self.first_s, self.last_s, self.num_tokens, self.num_chunks,
                    self.num_first_tokens, self.error)


async def run(load: Load, requests: list[Any]) -> list[Seen]:
    """Keep `load.concurrency` of `requests` under way until all are over."""
    queue, seen = iter(requests), []
    num_connections = -(-load.concurrency // STREAMS_PER_CONNECTION)
    channels = [grpc.aio.insecure_channel(load.address, CHANNEL_OPTIONS)
                for _ in range(num_connections)]
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))

    async def slot(number: int) -> None:
        stream = Stream(stubs[number % num_connections])
        for request in queue:
            seen.append(await stream.run(request))
            if load.has_stream_each:
                await stream.close()
        await stream.close()

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(slot(number) for number in range(load.concurrency)))
    await asyncio.gather(*(channel.close() for channel in channels))
    return seen


def _add(
    request: Any, name: str, datatype: str, values: NDArray[Any], size: int | None = None
) -> None:
    """Add an input of shape [1, n]."""
    request.inputs.add(name=name, datatype=datatype, shape=[1, size or values.size])
    request.raw_input_contents.append(values.tobytes())


def main() -> None:
    """Run the load that standard input describes."""
    load = Load(**json.loads(sys.stdin.readline()))
    random = np.random.default_rng(load.seed)
    requests = [inference_request(load, random) for _ in range(load.num_requests)]
    seen = asyncio.run(run(load, requests))
    print(json.dumps([dataclasses.astuple(one) for one in seen]), flush=True)


if __name__ == "__main__":
    main()

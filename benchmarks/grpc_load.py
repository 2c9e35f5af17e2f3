"""One client process of a load: a closed loop of token streams over gRPC.

`python -m benchmarks.grpc_load` reads a `Load` as JSON from its standard input, says `ready`, waits
for a line, and writes what it has seen as JSON. It uses raw stubs and decodes only what it counts,
so that it measures the server and not itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
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
CHARS_PER_TOKEN = 6
"""At least, of a random text; the prompt is cut to its length."""
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True)
class Load:
    """What one process asks for."""

    address: str
    model: str
    concurrency: int
    """Requests at a time, each on a stream of its own."""
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int
    vocab_size: int
    """Prompts are random ids below it; 0: random texts, cut to as many tokens."""
    seed: int


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


async def run_one(stub: Any, request: Any) -> Seen:
    """Send `request` and read its stream to the end."""
    started_s = time.monotonic()
    first_s = last_s = float("nan")
    num_tokens = num_chunks = num_first_tokens = place = 0
    try:
        call = stub.ModelStreamInfer()
        await call.write(request)
        await call.done_writing()
        while (response := await call.read()) is not grpc.aio.EOF:
            if response.error_message:
                return Seen(started_s, first_s, last_s, num_tokens, num_chunks, num_first_tokens,
                            response.error_message)
            last_s = time.monotonic()
            answer = response.infer_response
            if not num_chunks:
                place = [output.name for output in answer.outputs].index("num_output_tokens")
            num_tokens = int.from_bytes(answer.raw_output_contents[place], "little")
            if not num_chunks:
                first_s, num_first_tokens = last_s, num_tokens
            num_chunks += 1
    except grpc.RpcError as error:
        return Seen(started_s, first_s, last_s, num_tokens, num_chunks, num_first_tokens,
                    str(error))
    return Seen(started_s, first_s, last_s, num_tokens, num_chunks, num_first_tokens)


async def run(load: Load, requests: list[Any]) -> list[Seen]:
    """Keep `load.concurrency` of `requests` under way until all are over."""
    queue, seen = iter(requests), []
    num_connections = -(-load.concurrency // STREAMS_PER_CONNECTION)
    channels = [grpc.aio.insecure_channel(load.address, CHANNEL_OPTIONS)
                for _ in range(num_connections)]
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))

    async def slot(number: int) -> None:
        for request in queue:
            seen.append(await run_one(stubs[number % num_connections], request))

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

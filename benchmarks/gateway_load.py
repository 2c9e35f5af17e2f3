"""One client process of a load through the gateway: `/v1/completions`, streamed.

`python -m benchmarks.gateway_load` is to the gateway what `benchmarks.grpc_load` is to a server,
with the same messages on its standard streams. It reads bytes and counts events after the end, so
that it measures the gateway and not itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time

import numpy as np
import uvloop

from benchmarks.grpc_load import Load, Seen

READ_BYTES = 1 << 16
END_OF_BODY = b"\r\n0\r\n\r\n"
EVENT = b"data: "
NAN = float("nan")


def http_request(load: Load, random: np.random.Generator) -> bytes:
    """A greedy stream of a random prompt that does not stop before its last token."""
    ids = random.integers(0, load.vocab_size, load.num_prompt_tokens).tolist()
    body = json.dumps({
        "model": load.model, "prompt": ids, "max_tokens": load.num_output_tokens,
        "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True}}).encode()
    head = (f"POST /v1/completions HTTP/1.1\r\nhost: {load.address}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    return head.encode() + body


async def run_one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> Seen:
    """Send `request` and read its answer to the end."""
    started_s = time.monotonic()
    writer.write(request)
    first_s: float | None = None
    pieces: list[bytes] = []
    end = b""
    while end != END_OF_BODY:
        piece = await reader.read(READ_BYTES)
        if not piece or not (pieces or piece.startswith(b"HTTP/1.1 200")):
            error = piece.decode(errors="replace") or "the connection was closed"
            return Seen(started_s, NAN, NAN, 0, 0, 0, error)
        if first_s is None and EVENT in piece:
            first_s = time.monotonic()
        pieces.append(piece)
        end = (end + piece)[-len(END_OF_BODY):]
    return _seen(started_s, first_s or NAN, time.monotonic(), b"".join(pieces))


def _seen(started_s: float, first_s: float, last_s: float, answer: bytes) -> Seen:
    """What a whole answer says; its last events are the usage and the end."""
    events = [line for line in answer.split(b"\n") if line.startswith(EVENT)]
    usage = json.loads(events[-2].removeprefix(EVENT)).get("usage")
    if not usage:
        return Seen(started_s, first_s, last_s, 0, 0, 0, events[-2].decode(errors="replace"))
    return Seen(started_s, first_s, last_s, usage["completion_tokens"], len(events) - 2, 1)


async def run(load: Load, requests: list[bytes]) -> list[Seen]:
    """Keep `load.concurrency` of `requests` under way until all are over."""
    queue, seen = iter(requests), []
    host, port = load.address.rsplit(":", 1)
    connections = [await asyncio.open_connection(host, int(port))
                   for _ in range(load.concurrency)]

    async def slot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for request in queue:
            seen.append(await run_one(reader, writer, request))
        writer.close()

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(slot(*connection) for connection in connections))
    return seen


def main() -> None:
    """Run the load that standard input describes."""
    load = Load(**json.loads(sys.stdin.readline()))
    random = np.random.default_rng(load.seed)
    seen = uvloop.run(run(load, [http_request(load, random) for _ in range(load.num_requests)]))
    print(json.dumps([dataclasses.astuple(one) for one in seen]), flush=True)


if __name__ == "__main__":
    main()

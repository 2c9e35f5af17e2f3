"""One client process of a load: `python -m tritonlm.bench.client_process`.

It reads a `Load` as JSON from its standard input, sends the warm-up requests, says `ready`, and
waits for a line. Then it says now and then how many requests are over, and in the end what it has
seen of them, as JSON; the end of its input ends the load. `error` and a text say that it cannot be
done.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import uvloop

from tritonlm.bench import asks
from tritonlm.bench.arrivals import arrival_times_s
from tritonlm.bench.client import Client, Connection
from tritonlm.bench.grpc_client import GrpcClient
from tritonlm.bench.http_client import HttpClient
from tritonlm.bench.load import Load
from tritonlm.bench.seen import Seen
from tritonlm.errors import ServingError, Unavailable

REPORT_INTERVAL_S = 0.25
WARM_UP_CONCURRENCY = 16


class Sender:
    """Sends requests when they are due, over as few connections as it takes."""

    def __init__(self, client: Client, load: Load) -> None:
        self._client = client
        self._load = load
        self._idle: list[Connection] = []
        self.seen: list[Seen] = []

    async def connect(self, num_connections: int) -> None:
        """Have so many connections open; raises `Unavailable`."""
        while len(self._idle) < num_connections:
            connection = self._client.connection()
            await connection.open()
            self._idle.append(connection)

    async def send(
        self, requests: Sequence[Any], due_s: Sequence[float], max_concurrency: int
    ) -> None:
        """Send each of `requests` so many seconds after now, or when a place is free."""
        places, start_s = asyncio.Semaphore(max_concurrency), time.monotonic()
        running: list[asyncio.Task[None]] = []
        try:
            for request, at_s in zip(requests, due_s, strict=True):
                await asyncio.sleep(max(0.0, start_s + at_s - time.monotonic()))
                await places.acquire()
                late_s = time.monotonic() - start_s - at_s if self._load.request_rate else 0.0
                running.append(asyncio.create_task(
                    self._send_one(request, late_s, places.release)))
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()

    async def _send_one(
        self, request: Any, late_s: float, leave: Callable[[], None]
    ) -> None:
        connection = self._idle.pop() if self._idle else self._client.connection()
        try:
            seen = await connection.run(request)
        finally:
            leave()
        self.seen.append(dataclasses.replace(seen, late_s=late_s))
        if self._load.has_stream_each:
            await connection.close()
        self._idle.append(connection)

    async def close(self) -> None:
        """Close all connections, none of which is in use."""
        await asyncio.gather(*(connection.close() for connection in self._idle))
        await self._client.close()


async def run(load: Load) -> list[Seen]:
    """All of this process's share of `load`; raises `ServingError`."""
    client: Client = GrpcClient(load) if load.backend == "grpc" else HttpClient(load)
    requests = [client.request(ask) for ask in asks.measured(load)]
    due_s = arrival_times_s(load.num_prompts, load.request_rate, load.burstiness,
                            load.seed)[load.place :: load.num_processes].tolist()
    limit = load.share(load.max_concurrency or load.num_prompts)
    sender = Sender(client, load)
    await sender.connect(limit if load.max_concurrency else 1)
    await _warm_up(sender, [client.request(ask) for ask in asks.warm_ups(load)],
                   limit if load.max_concurrency else WARM_UP_CONCURRENCY)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    reporting = asyncio.create_task(_report(sender.seen))
    sending = asyncio.create_task(sender.send(requests, due_s, limit))
    asyncio.get_running_loop().add_reader(sys.stdin, sending.cancel)
    with suppress(asyncio.CancelledError):
        await sending
    asyncio.get_running_loop().remove_reader(sys.stdin)
    reporting.cancel()
    await sender.close()
    return sender.seen


async def _warm_up(sender: Sender, requests: Sequence[Any], max_concurrency: int) -> None:
    await sender.send(requests, [0.0] * len(requests), max_concurrency)
    errors = [one.error for one in sender.seen if one.error]
    if requests and len(errors) == len(requests):
        raise Unavailable(f"all warm-up requests failed: {errors[0]}")
    sender.seen.clear()


async def _report(seen: Sequence[Seen]) -> None:
    while True:
        await asyncio.sleep(REPORT_INTERVAL_S)
        say(str(len(seen)))


async def _tell(load: Load) -> None:
    """Say what was seen, before the end of the loop and of gRPC's threads."""
    say(msgspec.json.encode(await run(load)).decode())


def say(line: str) -> None:
    """Tell the process that started this one."""
    print(line, flush=True)


def main() -> None:
    """Run the load that standard input describes."""
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    try:
        uvloop.run(_tell(load))
    except ServingError as error:
        say(f"error {error.message}")


if __name__ == "__main__":
    main()

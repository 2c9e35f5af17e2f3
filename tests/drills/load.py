"""Load on a server, of which every request is accounted for: clients that stream, over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from tests import metrics
from tests.drills.waiting import until

STREAM = {"text_input": "ROMEO:\n", "max_tokens": 40, "ignore_eos": True, "stream": True}
REQUEST_TIMEOUT_S = 60
"""A request without an end by then hangs: nothing that is drilled may take so long."""
PAUSE_S = 0.05
"""Of a client that was turned away."""
FINISHED = frozenset({"stop", "length", "cancelled", "deadline"})


@dataclass
class Tally:
    """How requests ended, each exactly once."""

    num_sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """By finish reason, by the code of an error, or `disconnected` or `hung`."""
    first_text_s: list[float] = field(default_factory=list, repr=False)

    @property
    def num_finished(self) -> int:
        return sum(self.outcomes[name] for name in FINISHED)

    @property
    def num_errors(self) -> int:
        """Refused or failed, with an answer of the server that says so."""
        return sum(number for name, number in self.outcomes.items()
                   if name not in FINISHED and name not in ("disconnected", "hung"))

    @property
    def is_complete(self) -> bool:
        return self.num_sent == self.outcomes.total() and not self.outcomes["hung"]


async def run_stream(
    session: aiohttp.ClientSession, url: str, tally: Tally, body: Mapping[str, Any] = STREAM,
    model: str = "generate",
) -> str:
    """One request to its end, which is counted and returned."""
    tally.num_sent += 1
    try:
        outcome = await asyncio.wait_for(_outcome(session, url, tally, body, model),
                                         REQUEST_TIMEOUT_S)
    except asyncio.TimeoutError:
        outcome = "hung"
    except (aiohttp.ClientError, ConnectionError):
        outcome = "disconnected"
    tally.outcomes[outcome] += 1
    return outcome


async def _outcome(
    session: aiohttp.ClientSession, url: str, tally: Tally, body: Mapping[str, Any], model: str
) -> str:
    began_s, outcome = time.monotonic(), "disconnected"
    async with session.post(f"{url}/v2/models/{model}/generate_stream", json=body) as answer:
        async for line in answer.content:
            if answer.status == 200 and not line.startswith(b"data: "):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                return _code(event["error"])
            if outcome == "disconnected":
                tally.first_text_s.append(time.monotonic() - began_s)
            reason = event["finish_reason"]  # a list where one response has several sequences
            outcome = (reason[0] if isinstance(reason, list) else reason) or "unfinished"
    return "disconnected" if outcome == "unfinished" else outcome


def _code(error: str) -> str:
    """The code that our errors begin with, an ensemble's name before it; Triton's have none."""
    code = re.match(r"(?:in ensemble '\w+', )?([A-Z_]+): ", error)
    return code[1].lower() if code else f"triton: {error}"


@asynccontextmanager
async def connect():
    """Any number of connections at once, none of them used twice."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=2**23) as session:
        yield session


@asynccontextmanager
async def load(url: str, num_clients: int, **body: Any):
    """Clients that send one request after the other; the tally is complete after the context."""
    tally, is_over = Tally(), asyncio.Event()

    async def client(session: aiohttp.ClientSession) -> None:
        while not is_over.is_set():
            if await run_stream(session, url, tally, STREAM | body) not in FINISHED:
                await asyncio.sleep(PAUSE_S)

    async with connect() as session:
        clients = [asyncio.create_task(client(session)) for _ in range(num_clients)]
        try:
            yield tally
        finally:
            is_over.set()
            await asyncio.gather(*clients)


def counted(metrics_url: str) -> Counter[str]:
    """How requests ended since the start, as the server counts: by finish reason or code."""
    totals: Counter[str] = Counter()
    for labels, value in metrics.samples(metrics_url, "tritonlm_requests_total"):
        totals[labels["reason"]] += int(value)
    return totals


async def settled(metrics_url: str) -> Counter[str]:
    """What is counted, once it changes no more."""
    return await metrics.settled(lambda: counted(metrics_url))


async def assert_both_sides_agree(metrics_url: str, before: Counter[str], tally: Tally) -> None:
    """What clients saw is what the server has counted since `before`, request by request."""
    assert tally.is_complete, tally
    assert tally.outcomes["disconnected"] == 0, tally
    await until(lambda: counted(metrics_url) - before == tally.outcomes,
                lambda: f"server: {counted(metrics_url) - before}, clients: {tally}")

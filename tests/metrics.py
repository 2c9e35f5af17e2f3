"""The page of metrics of a server, read as Prometheus does."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
QUIET_S = 1.5
"""Three times as long as a front end waits at most before it tells what it has counted."""
LIMIT_S = 30


def samples(metrics_url: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each sample of a metric; none if there is no such metric."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [(dict(re.findall(r'(\w+)="([^"]*)"', line)), float(line.rsplit(" ", 1)[1]))
            for line in lines if line.startswith(name + "{")]


def total(metrics_url: str, name: str) -> float:
    """The sum over a metric's samples."""
    return sum(value for _, value in samples(metrics_url, name))


async def settled(read: Callable[[], Value]) -> Value:
    """What `read` gives once that has not changed for a while: metrics are sent now and then."""
    began_s = since_s = time.monotonic()
    value = read()
    while (now_s := time.monotonic()) - since_s < QUIET_S:
        assert now_s - began_s < LIMIT_S, f"it does not settle: {value}"
        await asyncio.sleep(0.2)
        if (newer := read()) != value:
            value, since_s = newer, now_s
    return value

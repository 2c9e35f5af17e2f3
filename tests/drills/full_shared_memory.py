"""Strike a server by filling /dev/shm: `python -m tests.drills.full_shared_memory`.

Run it in a mount namespace of its own, where it puts a small /dev/shm. It prints how requests ended
as JSON: while it is full, and after.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from tests.drills.load import STREAM, Tally, connect, run_stream, settled
from tests.fakes.echo_server import echo_server

from tritonlm.server.settings import ServerSettings

SHARED_MEMORY = Path("/dev/shm")
SIZE = b"size=16m"
NUM_STREAMS, NUM_HUGE, NUM_LARGE, NUM_WHOLE = 600, 4, 2, 2
HUGE = "word " * 200_000
"""A prompt that does not fit what a model's process has of shared memory."""

LARGE = {"text_input": "a long word and many more " * 100, "max_tokens": 2000, "n": 64,
         "stream": False}
"""A request whose answer does not."""


def mount_small() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"drill", os.fsencode(SHARED_MEMORY), b"tmpfs", 0, SIZE):
        raise OSError(ctypes.get_errno(), "mount")


@contextmanager
def filled():
    """Not a byte is free."""
    filler = SHARED_MEMORY / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    yield
    filler.unlink()


async def strike(server) -> dict[str, dict[str, int]]:
    """Streams with long answers, and a few huge prompts among them."""
    tally, before = Tally(), await settled(server.metrics_url)
    async with connect() as session:
        await asyncio.gather(
            *(run_stream(session, server.http_url, tally, STREAM | {"max_tokens": 300, "n": 2})
              for _ in range(NUM_STREAMS)),
            *(run_stream(session, server.http_url, tally, STREAM | {"text_input": HUGE})
              for _ in range(NUM_HUGE)),
            *(run_stream(session, server.http_url, tally, STREAM | LARGE)
              for _ in range(NUM_LARGE)),
            *(run_whole(session, server.http_url, tally) for _ in range(NUM_WHOLE)))
    assert tally.is_complete, tally
    outcomes: Counter[str] = Counter()
    for name, number in tally.outcomes.items():
        outcomes[name.partition(":")[0]] += number
    return {"clients": outcomes, "server": await settled(server.metrics_url) - before}


async def run_whole(session, url: str, tally: Tally) -> None:
    """One request to `complete`, whose one response does not fit."""
    tally.num_sent += 1
    async with session.post(f"{url}/v2/models/complete/generate", json=LARGE) as answer:
        body = await answer.json()
    tally.outcomes[f"triton: {body['error']}" if "error" in body else "length"] += 1


async def drill(server) -> dict[str, dict[str, dict[str, int]]]:
    with filled():
        full = await strike(server)
    return {"full": full, "after": await strike(server)}


def main() -> None:
    mount_small()
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=2,
                              front_ends=1)
    with echo_server(settings, 2) as server:
        found = asyncio.run(drill(server))
    found["left"] = [path.name for path in SHARED_MEMORY.iterdir()]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

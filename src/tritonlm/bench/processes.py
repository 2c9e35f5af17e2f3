"""A load spread over several client processes, so that no client is its limit."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from tritonlm.bench.load import Load
from tritonlm.bench.seen import Seen
from tritonlm.errors import EngineFailure, Unavailable

COMMAND = (sys.executable, "-m", "tritonlm.bench.client_process")
MAX_LINE_BYTES = 2**31


class Interrupted(KeyboardInterrupt):
    """Ctrl-C amid a load, with what was `seen` of the requests that were over by then."""

    def __init__(self, seen: list[Seen]) -> None:
        super().__init__()
        self.seen = seen


def measure(
    load: Load, num_processes: int = 1, on_progress: Callable[[int], None] = lambda _: None
) -> list[Seen]:
    """What `num_processes` at most, which begin together, see of `load`.

    `on_progress` is told how many requests are over. Raises `Interrupted` on Ctrl-C, and
    `ServingError` if nothing can be measured.
    """
    most = min(load.num_prompts, load.max_concurrency or load.num_prompts)
    num_processes = min(num_processes, most)
    shares = [dataclasses.replace(load, place=place, num_processes=num_processes)
              for place in range(num_processes)]
    seen = asyncio.run(_run(shares, on_progress))
    if len(seen) < load.num_prompts:
        raise Interrupted(seen)
    return seen


async def _run(shares: Sequence[Load], on_progress: Callable[[int], None]) -> list[Seen]:
    progress = [0] * len(shares)

    def note(place: int, num_over: int) -> None:
        progress[place] = num_over
        on_progress(sum(progress))

    clients = [ClientProcess(share, note) for share in shares]
    try:
        await asyncio.gather(*(client.start() for client in clients))
        for client in clients:
            client.go()
        with _interrupts(clients):
            seen = await asyncio.gather(*(client.result() for client in clients))
    finally:
        await asyncio.gather(*(client.end() for client in clients))
    return [one for several in seen for one in several]


@contextmanager
def _interrupts(clients: Sequence[ClientProcess]) -> Iterator[None]:
    """The first Ctrl-C stops `clients`; a second one is as ever."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        for client in clients:
            client.stop()

    if threading.current_thread() is not threading.main_thread():  # signals are not for others
        yield
        return
    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class ClientProcess:
    """A client process and what it says."""

    def __init__(self, load: Load, on_progress: Callable[[int, int], None]) -> None:
        self._load = load
        self._on_progress = on_progress
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when it is ready; raises `ServingError`."""
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES, start_new_session=True)  # Ctrl-C is for this process to hear
        self._write(msgspec.json.encode(self._load))
        line = await self._read_line()
        if line != b"ready":
            raise EngineFailure(f"a client process said {line!r}")

    def go(self) -> None:
        """Let it begin."""
        self._write(b"")

    def stop(self) -> None:
        """Have it tell what it has seen by now."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def result(self) -> list[Seen]:
        """What it has seen, once all is over; raises `ServingError`."""
        while not (line := await self._read_line()).startswith(b"["):
            self._on_progress(self._load.place, int(line))
        seen = msgspec.json.decode(line, type=list[Seen])
        self._on_progress(self._load.place, len(seen))
        return seen

    async def end(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    async def _read_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            status = await self._process.wait()
            raise EngineFailure(f"a client process of the load has ended, with status {status}")
        line = line.rstrip()
        if line.startswith(b"error "):
            raise Unavailable(line.removeprefix(b"error ").decode())
        return line

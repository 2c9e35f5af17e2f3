"""The `top` command: what servers and gateways are doing, live, from their pages of metrics."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from tritonlm.errors import InvalidArgument, Unavailable
from tritonlm.observability.page import Interval, Page
from tritonlm.observability.view import frame

TIMEOUT_S = 2.0
DEFAULT_PAGES = ("localhost:8002",)
DNS_PREFIX = "dns:"
PIPED_COLUMNS = 160
"""In a file, a picture or a pipe, as by `kubectl exec`, lines may be as long as they need be."""


def top(
    pages: Annotated[list[str] | None, typer.Argument(
        help="Hosts and ports of metrics, of servers and gateways; dns:HOST:PORT for a server at "
             "each address of a name; without any, localhost:8002.", show_default=False)] = None,
    interval_s: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    window_s: Annotated[float, typer.Option(
        help="Seconds that rates and latencies are of.", min=1.0)] = 10.0,
    once: Annotated[bool, typer.Option(
        "--once", help="Print one frame, after two looks, as without a terminal.")] = False,
    svg: Annotated[Path | None, typer.Option(
        metavar="FILE", help="With --once: draw the frame there, too.", dir_okay=False)] = None,
) -> None:
    """Show rates, latencies, load, caches, memory and alerts of servers until Ctrl-C."""
    if svg is not None and not once:
        raise InvalidArgument("svg", str(svg), "it needs --once")
    watch = Watch(pages or DEFAULT_PAGES, window_s)
    watch.look()
    console = Console(record=svg is not None)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_COLUMNS)
    if once or not console.is_terminal:
        time.sleep(interval_s)
        watch.look()
        console.print(watch.frame())
        if svg is not None:
            console.save_svg(str(svg), title=" ".join(["tritonlm top", *watch.addresses]))
        return
    try:
        with Live(watch.frame(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval_s)
                watch.look()
                live.update(watch.frame(), refresh=True)
    except KeyboardInterrupt:
        pass


class Watch:
    """Looks at pages, and keeps what it saw within a window of time."""

    def __init__(self, addresses: Sequence[str], window_s: float) -> None:
        self.addresses = addresses
        self._window_s = window_s
        self._seen: deque[Page] = deque()
        self._silent: list[str] = []

    def look(self) -> None:
        """Read all pages; raises `Unavailable` if none answers, the first time."""
        urls = {each: _url(each) for address in self.addresses for each in _places(address)}
        with ThreadPoolExecutor(len(urls)) as readers:
            texts = dict(zip(urls, readers.map(_read, urls.values()), strict=True))
        self._silent = [address for address, text in texts.items() if text is None]
        if len(self._silent) == len(texts) and not self._seen:
            raise _no_metrics(", ".join(urls.values()))
        answered = {address: text for address, text in texts.items() if text is not None}
        self._seen.append(Page.parse(answered, time.monotonic()))
        while len(self._seen) > 2 and self._seen[-1].at_s - self._seen[1].at_s >= self._window_s:
            self._seen.popleft()

    def frame(self) -> RenderableType:
        """What is seen now."""
        return frame(Interval(self._seen[0], self._seen[-1]), self._silent)


def read_page(address: str) -> Page:
    """The page of metrics at a host and port; raises `Unavailable`."""
    text = _read(_url(address))
    if text is None:
        raise _no_metrics(_url(address))
    return Page.parse({address: text}, time.monotonic())


def _no_metrics(where: str) -> Unavailable:
    return Unavailable(f"no metrics at {where}; give the host and the metrics port of a server, "
                       "such as localhost:8002")


def _places(address: str) -> list[str]:
    """The address, or those that the name in it has in the DNS now."""
    if not address.startswith(DNS_PREFIX):
        return [address]
    host, _, port = address.removeprefix(DNS_PREFIX).rpartition(":")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:  # nobody is there, which is shown
        return [f"{host}:{port}"]
    return [f"[{where[0]}]:{port}" if ":" in str(where[0]) else f"{where[0]}:{port}"
            for *_, where in found]


def _url(address: str) -> str:
    if "://" not in address:
        address = f"http://{address}"
    return address if address.rstrip("/").endswith("/metrics") else f"{address.rstrip('/')}/metrics"


def _read(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text
    except (OSError, ValueError, HTTPException):  # the last if it speaks no HTTP: a gRPC port
        return None

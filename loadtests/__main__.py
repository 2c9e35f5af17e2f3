"""`python -m loadtests`: Locust without its web page, against a server that runs or its own.

  --server HOST        of a running `make serve`, with its default ports
  --echo-step-ms MS    the server that is started otherwise repeats the prompt, in such steps

All further options are Locust's, ours among them under `tritonlm`:
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from loadtests.settings import Settings, add_options
from tritonlm.config import DEMO_CHECKPOINT
from tritonlm.errors import ServingError

ROOT = Path(__file__).parents[1]
LOCUST = (sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"))
DEFAULTS = ("--headless", "--only-summary", "--stop-timeout", "30")
REFUSED = 2


def main(arguments: Sequence[str]) -> int:
    """Run a load test; the exit code is Locust's."""
    parser = argparse.ArgumentParser("loadtests", add_help=False, allow_abbrev=False)
    parser.add_argument("--server")
    parser.add_argument("--echo-step-ms", type=float)
    ours, locusts = parser.parse_known_args(arguments)
    if {"--help", "-h"} & set(locusts):
        print(__doc__, flush=True)
        return _locust(locusts)
    try:
        _check_settings(locusts)
        if _locust([*locusts, "--list"], stdout=subprocess.DEVNULL):  # it names a wrong option
            return REFUSED
        with _addresses(ours.server, ours.echo_step_ms) as addresses:
            return _locust([*DEFAULTS, *addresses, *locusts])
    except ServingError as error:
        print(f"loadtests: {error.message}", file=sys.stderr)
        return REFUSED


def _check_settings(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("loadtests", add_help=False, allow_abbrev=False)
    add_options(parser)
    Settings.of(parser.parse_known_args(arguments)[0])


def _locust(arguments: Sequence[str], stdout: int | None = None) -> int:
    return subprocess.run([*LOCUST, *arguments], cwd=ROOT, stdout=stdout, check=False).returncode


@contextmanager
def _addresses(host: str | None, echo_step_ms: float | None) -> Iterator[list[str]]:
    """Options that say where everything is."""
    if host is not None:
        yield ["--host", f"http://{host}:9000", "--grpc-url", f"{host}:8001",
               "--http-url", f"{host}:8000"]
        return
    # Imported here: a machine that only asks need not have what a server needs.
    from benchmarks.running import FREE_PORTS, running_gateway, running_server  # noqa: PLC0415

    settings = replace(FREE_PORTS, embed_model=str(DEMO_CHECKPOINT))
    with (running_server(echo_step_ms, settings, kv_cache_gib=0.5) as server,
          running_gateway(server) as gateway):
        yield ["--host", f"http://{gateway}", "--grpc-url", server.grpc_url,
               "--http-url", server.http_url.removeprefix("http://")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

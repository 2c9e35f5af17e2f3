"""What the gateway costs: the same load straight to a server and through it, by turns.

`python -m benchmarks.gateway` starts a server and a gateway. Each round measures one after the
other, so that whatever else the machine does falls on both; the share is the median of the rounds'.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Annotated

import typer

from benchmarks.grpc_load import Load
from benchmarks.report import say, show
from benchmarks.serving_load import ServingSpeed, measure, table
from tritonlm.config import ModelConfig
from tritonlm.server import gateway_process, launcher, ports
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

BAR = 0.85
"""Share of the direct tokens a second that the gateway has to keep."""
FREE_PORTS = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=2)
MODEL = "generate"
CLIENTS = {"direct": "benchmarks.grpc_load", "gateway": "benchmarks.gateway_load"}


def main(
    concurrency: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 64,
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each measure.")] = 128,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 32,
    output_tokens: Annotated[int, typer.Option(min=1)] = 64,
    processes: Annotated[int, typer.Option(min=1, help="Client processes.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Workers of the gateway.")] = 1,
    echo_step_ms: Annotated[float, typer.Option(
        min=0, help="The model repeats the prompt, in steps of so many milliseconds, and leaves "
                    "the processor to the others, as on a GPU; 0: the demo model.")] = 15,
) -> None:
    """Measure the gateway; the exit code is 1 if it keeps less than its bar."""
    load = Load("", MODEL, concurrency, requests, prompt_tokens, output_tokens, 256, seed=1)
    speeds: dict[str, list[ServingSpeed]] = {name: [] for name in CLIENTS}
    with ExitStack() as stack:
        server = stack.enter_context(_server(echo_step_ms))
        addresses = {"direct": server.grpc_url,
                     "gateway": stack.enter_context(_gateway(server, workers))}
        for place in range(rounds + 1):
            for name, client in CLIENTS.items():
                turn = dataclasses.replace(load, address=addresses[name], seed=place)
                speed = measure(turn, processes, client)
                if place:  # the first round warms up
                    speeds[name].append(speed)
                    say(f"{name}: {json.dumps(dataclasses.asdict(speed))}")
    _report(speeds)


def _report(speeds: dict[str, list[ServingSpeed]]) -> None:
    for name, several in speeds.items():
        show(table(name, several))
    shares = sorted(gateway.output_tokens_per_s / direct.output_tokens_per_s
                    for direct, gateway in zip(*speeds.values(), strict=True))
    num_failed = sum(speed.num_failed for several in speeds.values() for speed in several)
    say(f"the gateway keeps {median(shares):.1%} of the direct tokens/s (rounds: "
        f"{', '.join(f'{share:.0%}' for share in shares)}; bar: {BAR:.0%}); "
        f"{num_failed} requests failed")
    raise typer.Exit(0 if median(shares) >= BAR and not num_failed else 1)


@contextmanager
def _server(echo_step_ms: float) -> Iterator[TritonServer]:
    if not echo_step_ms:
        plan = launcher.prepare(FREE_PORTS, ModelConfig(kv_cache_gib=0.5))
        with launcher.launch(plan, say) as server:
            yield server
        return
    from tests.fakes.echo_server import echo_server  # noqa: PLC0415 - tests are not installed
    with echo_server(FREE_PORTS, echo_step_ms, max_num_seqs=1024) as server:
        yield server


@contextmanager
def _gateway(server: TritonServer, workers: int) -> Iterator[str]:
    """Host and port of a gateway to `server`."""
    port = ports.choose("127.0.0.1", {"--gateway-port": 0})["--gateway-port"]
    settings = dataclasses.replace(
        FREE_PORTS, grpc_port=int(server.grpc_url.rsplit(":", 1)[1]),
        metrics_port=int(server.metrics_url.rsplit(":", 1)[1].partition("/")[0]))
    with gateway_process.running(port, settings, "benchmark", workers):
        yield f"127.0.0.1:{port}"


if __name__ == "__main__":
    typer.run(main)

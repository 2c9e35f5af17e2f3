"""What the gateway costs: the same load straight to a server and through it, by turns.

`python -m benchmarks.gateway` starts a server and a gateway. Each round measures one after the
other, so that whatever else the machine does falls on both; the share is the median of the rounds'.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from statistics import median
from typing import Annotated

import typer

from benchmarks.report import say, show
from benchmarks.running import running_gateway, running_server
from benchmarks.serving_table import serving_table
from tritonlm.bench.load import Load
from tritonlm.bench.processes import measure
from tritonlm.bench.summary import Summary

BAR = 0.85
"""Share of the direct tokens a second that the gateway has to keep."""
BACKENDS = {"direct": "grpc", "gateway": "openai"}


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
    load = Load(max_concurrency=concurrency, num_prompts=requests, input_len=prompt_tokens,
                output_len=output_tokens, ignore_eos=True, num_warmups=0)
    summaries: dict[str, list[Summary]] = {name: [] for name in BACKENDS}
    with ExitStack() as stack:
        sizes = {"max_num_seqs": 1024} if echo_step_ms else {"kv_cache_gib": 0.5}
        server = stack.enter_context(running_server(echo_step_ms or None, **sizes))
        addresses = {"direct": server.grpc_url,
                     "gateway": stack.enter_context(running_gateway(server, workers))}
        for place in range(rounds + 1):
            for name, backend in BACKENDS.items():
                turn = dataclasses.replace(load, backend=backend, url=addresses[name], seed=place)
                summary = Summary.of(measure(turn, processes))
                if place:  # the first round warms up
                    summaries[name].append(summary)
                    say(f"{name}: {json.dumps(dataclasses.asdict(summary))}")
    _report(summaries)


def _report(summaries: dict[str, list[Summary]]) -> None:
    for name, several in summaries.items():
        show(serving_table(name, {f"round {place}": one for place, one in enumerate(several, 1)}))
    shares = sorted(gateway.output_tokens_per_s / direct.output_tokens_per_s
                    for direct, gateway in zip(*summaries.values(), strict=True))
    num_failed = sum(one.num_failed for several in summaries.values() for one in several)
    say(f"the gateway keeps {median(shares):.1%} of the direct tokens/s (rounds: "
        f"{', '.join(f'{share:.0%}' for share in shares)}; bar: {BAR:.0%}); "
        f"{num_failed} requests failed")
    raise typer.Exit(0 if median(shares) >= BAR and not num_failed else 1)


if __name__ == "__main__":
    typer.run(main)

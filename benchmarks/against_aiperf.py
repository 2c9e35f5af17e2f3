"""`tritonlm bench` beside an independent client: `python -m benchmarks.against_aiperf`.

Both ask a gateway for the same completions, by turns, so that whatever else the machine does falls
on both. aiperf has a virtual environment of its own: `pip install aiperf==0.13.0`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks.report import Table, number, say, show
from benchmarks.running import running_gateway, running_server
from tritonlm.bench.load import Load
from tritonlm.bench.processes import measure
from tritonlm.bench.summary import Summary
from tritonlm.config import DEMO_CHECKPOINT

BAR = 0.05
"""Most that the medians of the two may differ by, as a share."""
NAMES = {"time_to_first_token": "TTFT ms", "inter_token_latency": "TPOT ms",
         "request_latency": "E2E ms", "output_token_throughput": "tokens/s"}
"""Of aiperf, and of ours: its inter-token latency is a request's mean, which is our TPOT."""
WARM_UPS = 8


def main(
    aiperf: Annotated[str, typer.Option(help="The command.")] = "aiperf",
    gateway: Annotated[str, typer.Option(
        help="HOST:PORT of one that runs; without it a server and a gateway are started.")] = "",
    tokenizer: Annotated[Path, typer.Option(
        help="Of the model that is served, for aiperf's prompts.")] = DEMO_CHECKPOINT,
    echo_step_ms: Annotated[float, typer.Option(
        help="The model repeats the prompt, in steps of so many milliseconds; 0: the demo model.",
    )] = 15,
    max_num_seqs: Annotated[int, typer.Option(
        min=1, help="Of the server that is started: further requests wait, and the time to their "
                    "first token is the server's, and not the clients' own few milliseconds.")] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    concurrency: Annotated[int, typer.Option(min=1)] = 8,
    requests: Annotated[int, typer.Option(min=1)] = 64,
    input_len: Annotated[int, typer.Option(min=1)] = 32,
    output_len: Annotated[int, typer.Option(min=2)] = 64,
) -> None:
    """Compare; the exit code is 1 if a mean of the two differs by more than 5 % in the median."""
    if shutil.which(aiperf) is None:
        raise typer.BadParameter(f"--aiperf {aiperf}: there is no such command")
    load = Load("openai", num_prompts=requests, max_concurrency=concurrency, input_len=input_len,
                output_len=output_len, ignore_eos=True, num_warmups=WARM_UPS)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
    with _gateway(gateway, echo_step_ms or None, max_num_seqs) as address:
        for place in range(rounds):
            turn = replace(load, url=address, seed=place)
            theirs, ours = _ask_aiperf(aiperf, turn, tokenizer), _ask(turn)
            for name, values in seen.items():
                values.append((ours[name], theirs[name]))
            say(f"round {place + 1}: ours {ours}, aiperf's {theirs}")
    _report(seen)


@contextmanager
def _gateway(address: str, echo_step_ms: float | None, max_num_seqs: int) -> Iterator[str]:
    if address:
        yield address
        return
    with (running_server(echo_step_ms, max_num_seqs=max_num_seqs) as server,
          running_gateway(server) as started):
        yield started


def _ask(load: Load) -> dict[str, float]:
    summary = Summary.of(measure(load))
    if summary.num_failed:
        raise RuntimeError(summary.first_error)
    return {"time_to_first_token": summary.ttft_ms.mean,
            "inter_token_latency": summary.tpot_ms.mean, "request_latency": summary.e2e_ms.mean,
            "output_token_throughput": summary.output_tokens_per_s}


def _ask_aiperf(aiperf: str, load: Load, tokenizer: Path) -> dict[str, float]:
    options = {
        "url": f"http://{load.address}", "model": load.model, "endpoint-type": "completions",
        "tokenizer": tokenizer, "synthetic-input-tokens-mean": load.input_len,
        "output-tokens-mean": load.output_len, "concurrency": load.max_concurrency,
        "request-count": load.num_prompts, "warmup-request-count": load.num_warmups,
        "random-seed": load.seed, "ui": "none"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [aiperf, "profile", "--streaming", "--use-legacy-max-tokens",
             "--use-server-token-count", "--extra-inputs", "ignore_eos:true",
             "--extra-inputs", "temperature:0", "--artifact-dir", folder,
             *(text for name, value in options.items() for text in (f"--{name}", str(value)))],
            stdout=subprocess.DEVNULL, cwd=folder, check=True)
        told = json.loads(Path(folder, "profile_export_aiperf.json").read_text())
    return {name: told[name]["avg"] for name in NAMES}


def _report(seen: dict[str, list[tuple[float, float]]]) -> None:
    rows, differences = [], []
    for name, values in seen.items():
        ours, theirs = (median(column) for column in zip(*values, strict=True))
        differences.append(abs(ours / theirs - 1))
        rows.append((NAMES[name], number(ours), number(theirs), f"{ours / theirs - 1:+.1%}"))
    show(Table("tritonlm bench and aiperf, medians of the rounds' means",
               ("", "tritonlm bench", "aiperf", "difference"), rows))
    say(f"they agree within {max(differences):.1%}; to reach: {BAR:.0%}")
    raise typer.Exit(max(differences) > BAR)


if __name__ == "__main__":
    typer.run(main)

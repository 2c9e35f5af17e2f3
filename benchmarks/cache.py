"""How much faster an answer from the gateway's memory is than one from the model.

`python -m benchmarks.cache` starts a server of the demo model and a gateway with a cache, and asks
each prompt once, and then again: greedy completions, one at a time, over one connection.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import typer

from benchmarks.bars import verdict
from benchmarks.report import Table, number, progress_bar, show
from benchmarks.running import running_gateway, running_server

BAR = 50.0
"""How many times as fast a hit is to be."""
MS = 1000


@dataclass(frozen=True)
class Pair:
    """A prompt's first answer, and the median of those from the cache."""

    miss_s: float
    hit_s: float


def main(
    prompts: Annotated[int, typer.Option(min=1)] = 20,
    hits: Annotated[int, typer.Option(min=1, help="Hits of each prompt.")] = 10,
    output_tokens: Annotated[int, typer.Option(min=1)] = 64,
) -> None:
    """Measure the cache; the exit code is 1 if a hit is not `BAR` times as fast as its miss."""
    with running_server(None, kv_cache_gib=0.25) as server, running_gateway(
            server, cache_mib=64) as address, progress_bar() as progress:
        connection = http.client.HTTPConnection(address)
        _ask(connection, "Warm up.", output_tokens)
        pairs = [Pair(_ask(connection, prompt, output_tokens)["miss"], median(
            _ask(connection, prompt, output_tokens)["hit"] for _ in range(hits)))
            for prompt in progress.track([f"Scene {place}.\n" for place in range(prompts)])]
    ratio = median(pair.miss_s / pair.hit_s for pair in pairs)
    show(Table("An answer from the gateway's cache", (
        "tokens", "miss, ms", "hit, ms", "times as fast", "bar", ""), [
        (str(output_tokens), number(MS * median(pair.miss_s for pair in pairs)),
         number(MS * median(pair.hit_s for pair in pairs)), number(ratio), f"≥ {BAR:.0f}",
         verdict(ratio, BAR))], f"Medians of {prompts} prompts, of {hits} hits of each."))
    raise typer.Exit(0 if ratio >= BAR else 1)


def _ask(connection: http.client.HTTPConnection, prompt: str, num_tokens: int) -> dict[str, float]:
    """How long the answer took, by what the gateway says of the cache."""
    body = json.dumps({"model": "generate", "prompt": prompt, "max_tokens": num_tokens,
                       "temperature": 0, "ignore_eos": True})
    start_s = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return {answer.headers["x-tritonlm-cache"]: time.perf_counter() - start_s}


if __name__ == "__main__":
    typer.run(main)

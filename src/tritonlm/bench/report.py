"""A summary as a table and as JSON."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

import msgspec
import rich.box
import rich.table

from tritonlm.bench.load import Load
from tritonlm.bench.summary import Summary

COUNTS = {"num_requests": "requests", "num_failed": "failed",
          "num_input_tokens": "input tokens", "num_output_tokens": "output tokens"}
RATES = {"duration_s": "seconds", "requests_per_s": "requests/s",
         "good_requests_per_s": "goodput, requests/s",
         "output_tokens_per_s": "output tokens/s", "total_tokens_per_s": "total tokens/s"}
HIDDEN = {"api_key", "has_stream_each", "place"}
LATENCIES = {"ttft_ms": "first token (TTFT) ms",
             "tpot_ms": "per token (TPOT) ms",
             "itl_ms": "inter-token (ITL) ms", "e2e_ms": "end to end (E2E) ms"}


def table(summary: Summary) -> rich.table.Table:
    """What a terminal shows."""
    made = rich.table.Table("", "total", "mean", "median", "p90", "p99", box=rich.box.SIMPLE)
    for column in made.columns[1:]:
        column.justify = "right"
    for name, title in COUNTS.items():
        made.add_row(title, f"{getattr(summary, name):,}")
    for name, title in RATES.items():
        value = getattr(summary, name)
        if value is not None:
            made.add_row(title, f"{value:,.2f}")
    latencies = LATENCIES | ({"late_ms": "sent late ms"} if summary.late_ms.mean else {})
    for name, title in latencies.items():
        values = dataclasses.astuple(getattr(summary, name))
        made.add_row(title, "", *(f"{value:,.2f}" for value in values))
    return made


def as_json(load: Load, num_processes: int, summary: Summary) -> bytes:
    """What was asked, and what came of it; what there is not is null."""
    rates = {name: getattr(summary, name) for name in RATES}
    asked = {name: value for name, value in dataclasses.asdict(load).items() if name not in HIDDEN}
    return msgspec.json.format(msgspec.json.encode({
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load": asked | {"url": load.address, "num_processes": num_processes},
        "result": dataclasses.asdict(summary) | rates})) + b"\n"


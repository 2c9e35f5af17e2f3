"""Several loads of a server as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.report import Table, number
from tritonlm.bench.summary import Summary

COLUMNS = ("", "requests", "failed", "tokens/s", "TTFT ms", "TTFT p99 ms", "TPOT ms",
           "TPOT p99 ms", "chunks/s", "tokens/chunk")


def serving_table(title: str, summaries: Mapping[str, Summary]) -> Table:
    """A row for each summary, medians where nothing else is said."""
    rows = [(name, f"{one.num_requests:,}", f"{one.num_failed:,}", *map(number, (
        one.output_tokens_per_s, one.ttft_ms.median, one.ttft_ms.p99, one.tpot_ms.median,
        one.tpot_ms.p99, one.chunks_per_s, one.tokens_per_chunk)))
        for name, one in summaries.items()]
    errors = sorted({one.first_error for one in summaries.values() if one.first_error})
    return Table(title, COLUMNS, rows, "; ".join(errors))

"""Latencies of all kinds of users as curves, in Locust's report."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from loadtests.ledger import PRECISION, Ledger
from loadtests.slo import ENTRIES

FIGURE_INCHES = (14, 5)
END = "</body>"


def curves_svg(ledger: Ledger) -> str:
    """An SVG: for each entry the share of values below a time, a line for each kind of users."""
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    for axis, entry in zip(figure.subplots(1, len(ENTRIES)), ENTRIES, strict=True):
        for name, histogram in sorted(ledger.latencies_ms.items()):
            kind, _, its_entry = name.partition(" ")
            if its_entry == entry:
                buckets = sorted(histogram.counts)
                values = [PRECISION ** bucket for bucket in buckets]
                axis.ecdf(values, [histogram.counts[bucket] for bucket in buckets], label=kind)
        axis.set(xlabel=f"{entry} ms", ylabel="share below", xscale="log")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    written = io.StringIO()
    figure.savefig(written, format="svg")
    svg = written.getvalue()
    return svg[svg.index("<svg"):]


def add_to_report(path: Path, ledger: Ledger) -> None:
    """Put the curves at the end of the HTML that Locust has written."""
    before, end, after = path.read_text().rpartition(END)
    path.write_text(f"{before}<h2>Latencies</h2>\n{curves_svg(ledger)}\n{end}{after}")

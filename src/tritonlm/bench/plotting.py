"""Latencies as curves: the share of values below each."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from tritonlm.bench.seen import Seen
from tritonlm.errors import InvalidArgument

FIGURE_INCHES = (10, 7)
FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise `InvalidArgument` if no plot could be written to `path`."""
    if path.suffix not in FORMATS:
        raise InvalidArgument("plot", str(path),
                              f"allowed: a file {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidArgument("plot", str(path),
                              "it needs matplotlib: pip install -c constraints.txt -e '.[bench]'")


def plot(seen: Sequence[Seen], path: Path) -> None:
    """Write a plot of the requests that went well; the suffix of `path` says the format."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    well = [one for one in seen if not one.error]
    curves = {
        "time to first token ms": [one.ttft_ms for one in well],
        "time per output token ms": [one.tpot_ms for one in well if one.num_output_tokens > 1],
        "inter-token latency ms": [ms for one in well for ms in one.itl_ms],
        "end to end ms": [one.e2e_ms for one in well]}
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    for axis, (title, values) in zip(figure.subplots(2, 2).flat, curves.items(), strict=True):
        if values:
            axis.ecdf(values)
        axis.set(xlabel=title, ylabel="share below", xlim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(path)

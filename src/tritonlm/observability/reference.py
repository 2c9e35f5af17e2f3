"""The tables of docs/metrics.md, made from the code: `python -m tritonlm.observability.reference`.

Each stands between `<!-- NAME -->` and `<!-- /NAME -->`; what is around them is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from prometheus_client import Counter, Gauge, Histogram

from tritonlm.backend.metric_definitions import ENDINGS, METRICS, Definition
from tritonlm.gateway import metrics as gateway_metrics

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def gateway_definitions() -> dict[str, Definition]:
    """The gateway's metrics by the names that they have on its page."""
    return definitions(gateway_metrics)


def definitions(module: ModuleType) -> dict[str, Definition]:
    """The metrics of a module of the gateway."""
    found = {}
    for metric in vars(module).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            described = next(iter(metric.describe()))
            ending = "_total" if described.type == "counter" else ""
            found[described.name + ending] = Definition(
                described.type, described.documentation, metric._labelnames)
    return found


def with_tables(text: str) -> str:
    """`text` with the tables as they are now."""
    for name, table in (("server", _table(METRICS)), ("endings", _endings()),
                        ("gateway", _table(gateway_definitions()))):
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + table + end + rest.partition(end)[2]
    return text


def _table(definitions: dict[str, Definition]) -> str:
    return _rows(("name", "kind", "labels", ""), (
        (f"`{name}`", each.kind, " ".join(f"`{label}`" for label in each.labels), each.description)
        for name, each in definitions.items()))


def _endings() -> str:
    return _rows(("`outcome`", "`reason`", ""), (
        (f"`{outcome}`", f"`{reason}`", meaning)
        for (outcome, reason), meaning in ENDINGS.items()))


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))

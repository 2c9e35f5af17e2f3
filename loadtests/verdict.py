"""The end of a load test: which objectives were met, as a table and as an exit code."""

from __future__ import annotations

from collections.abc import Sequence

import rich.box
import rich.table

from loadtests.ledger import Ledger
from loadtests.slo import Verdict

PERCENTILES = (50, 90, 99)
WORDS = {True: "met", False: "MISSED"}


def latency_table(ledger: Ledger) -> rich.table.Table:
    """Each entry of each kind of users; Locust's own table rounds to two digits."""
    made = rich.table.Table("", "number", *(f"p{percent} ms" for percent in PERCENTILES),
                            box=rich.box.SIMPLE)
    for name, histogram in sorted(ledger.latencies_ms.items()):
        made.add_row(name, f"{histogram.total:,}",
                     *(f"{histogram.percentile(percent):,.1f}" for percent in PERCENTILES))
    return made


def verdict_table(verdicts: Sequence[Verdict]) -> rich.table.Table:
    """Each objective."""
    made = rich.table.Table("objective", "limit", "measured", "", box=rich.box.SIMPLE)
    for one in verdicts:
        made.add_row(one.objective, f"{one.limit:g}", f"{one.measured:,.4g}", WORDS[one.is_met])
    return made

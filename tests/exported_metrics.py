"""Names of all metrics that the servers and the gateway export, and of those in an expression."""

from __future__ import annotations

import re

from tritonlm.backend import task_metrics
from tritonlm.backend.metric_definitions import HISTOGRAM, METRICS
from tritonlm.caching import metrics as caching_metrics
from tritonlm.observability.reference import definitions, gateway_definitions


def exported_names() -> set[str]:
    """As they are on the pages: three for a histogram."""
    described = {name + part for name, each in (METRICS | gateway_definitions()).items()
                 for part in (("_bucket", "_sum", "_count") if each.kind == HISTOGRAM else ("",))}
    of_cache = definitions(caching_metrics).keys()
    return described | of_cache | {
        name for name, _ in (*task_metrics.COUNTERS.values(), task_metrics.MEMORY)}


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for; recorded ones, which have a colon, left out."""
    return set(re.findall(r"(?<![\w:])tritonlm_\w+(?!\w*:)", expression))

"""A front end's metrics at the server's /metrics; updated by the sending thread alone.

Tritonserver 24.10 dies when several threads of a stub update metrics.
"""

from __future__ import annotations

import triton_python_backend_utils as pb_utils

from tritonlm.engine.messages import Stats
from tritonlm.errors import ServingError

GAUGES = {
    "num_running": ("tritonlm_requests_running", "Requests in the engine's batch"),
    "num_waiting": ("tritonlm_requests_waiting", "Requests that wait for the engine"),
    "num_blocks_used": ("tritonlm_kv_blocks_used", "Blocks of the KV cache that hold tokens"),
    "num_blocks": ("tritonlm_kv_blocks", "Blocks of the KV cache"),
}


class FrontEndMetrics:
    """Counters of one front end, and the gauges of the engines that it keeps."""

    def __init__(self, model: str, front_end: str) -> None:
        self._labels = {"model": model, "front_end": front_end}
        self._families: dict[str, pb_utils.MetricFamily] = {}
        self._metrics: dict[tuple[str, ...], pb_utils.Metric] = {}

    def count_request(self, finish_reason: str, num_output_tokens: int) -> None:
        """A request has ended with `finish_reason`."""
        self._count("tritonlm_requests_total", "Requests by how they ended", finish_reason)
        self._count("tritonlm_output_tokens_total", "Tokens of finished requests", "",
                    num_output_tokens)

    def count_error(self, error: Exception) -> None:
        """A request has ended with `error`."""
        code = error.code if isinstance(error, ServingError) else ServingError.code
        self._count("tritonlm_requests_total", "Requests by how they ended", code.lower())

    def show(self, engine: int, stats: Stats, num_engine_starts: int) -> None:
        """Set the gauges of an engine."""
        for field, (name, description) in GAUGES.items():
            self._gauge(name, description, engine).set(getattr(stats, field))
        self._gauge("tritonlm_engine_starts", "Engine processes started by this front end",
                    engine).set(num_engine_starts)

    def _count(self, name: str, description: str, outcome: str, amount: float = 1) -> None:
        label = {"outcome": outcome} if outcome else {}
        self._metric(name, description, pb_utils.MetricFamily.COUNTER, label).increment(amount)

    def _gauge(self, name: str, description: str, engine: int) -> pb_utils.Metric:
        return self._metric(name, description, pb_utils.MetricFamily.GAUGE,
                            {"engine": str(engine)})

    def _metric(
        self, name: str, description: str, kind: int, label: dict[str, str]
    ) -> pb_utils.Metric:
        """The metric of that name and label; its family is kept, since metrics die with it."""
        if name not in self._families:
            self._families[name] = pb_utils.MetricFamily(name, description, kind)
        key = (name, *label.values())
        if key not in self._metrics:
            self._metrics[key] = self._families[name].Metric(labels=self._labels | label)
        return self._metrics[key]

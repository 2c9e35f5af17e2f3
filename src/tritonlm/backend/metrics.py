"""A front end's metrics at the server's /metrics; updated by the sending thread alone.

Tritonserver 24.10 dies when several threads of a stub update metrics. It has counters and gauges
and no histograms; but a histogram is nothing else than counters of a certain name and label. An
update is a message to the server, so updates are added up and sent together now and then.
"""

from __future__ import annotations

import time
from collections import defaultdict

import triton_python_backend_utils as pb_utils

from tritonlm.backend.engines import EngineResources, EngineStats
from tritonlm.backend.metric_definitions import (
    COUNTER,
    ENDINGS,
    GAUGE,
    HISTOGRAM,
    METRICS,
    Definition,
)
from tritonlm.backend.tally import Counter, Histogram, Monotonic
from tritonlm.engine.messages import Stats
from tritonlm.options import PRIORITIES
from tritonlm.process_memory import resident_bytes

INTERVAL_S = 0.5
"""At least, between two updates."""
IN_USE = ("tritonlm_engine_memory_bytes", "tritonlm_gpu_memory_used_bytes",
          "tritonlm_gpu_usage_ratio")
"""What an engine that is gone uses no more."""


class FrontEndMetrics:
    """What one front end counts, and the state of the engines that it keeps."""

    def __init__(self, model: str, front_end: str, engines_of: str) -> None:
        """`engines_of` is the model that the engines are called after."""
        self._labels = {"model": model, "front_end": front_end}
        self._engine_labels = {"model": engines_of, "front_end": front_end}
        self._families: dict[str, pb_utils.MetricFamily] = {}
        self._metrics: dict[tuple[str, ...], pb_utils.Metric] = {}
        self._counters: dict[tuple[str, ...], Counter] = defaultdict(Counter)
        self._gauges: dict[tuple[str, ...], float] = {}
        self._shown: dict[tuple[str, ...], float] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self._growths: dict[tuple[str, ...], Monotonic] = defaultdict(Monotonic)
        self._due_s = 0.0
        self._begin_at_zero()

    def count(self, name: str, *labels: str, amount: float = 1) -> None:
        """Add to a counter."""
        key = (name, *labels)
        self._counters[key].add(amount)

    def observe(self, name: str, value: float, weight: float = 1) -> None:
        """Add `value`, `weight` times, to a histogram."""
        self._histogram(name).observe(value, weight)

    def show_unfinished(self, num_unfinished: int) -> None:
        """How many requests are in the front end."""
        self._gauges["tritonlm_requests_unfinished",] = num_unfinished

    def show_engine(self, event: EngineStats) -> None:
        """What an engine says of itself."""
        engine, stats = str(event.engine), event.stats
        if ("tritonlm_requests_running", engine) not in self._gauges:
            self._due_s = 0.0  # who asks a new server is told of its engine at once
        self._show_gauges(engine, stats)
        if not stats.num_blocks:  # it is gone
            self._gauges |= dict.fromkeys(
                ((name, engine) for name in IN_USE if (name, engine) in self._gauges), 0.0)
        for name, value in (
            ("tritonlm_prefix_tokens_total", stats.num_prefix_tokens_looked_up),
            ("tritonlm_prefix_hit_tokens_total", stats.num_prefix_tokens_hit),
            ("tritonlm_preemptions_total", stats.num_preemptions),
            ("tritonlm_engine_starts_total", event.num_starts),
        ):
            self.count(name, engine, amount=self._growths[name, engine].growth(value))
        steps = "tritonlm_step_requests"
        counts = [self._growths[steps, engine, str(place)].growth(value)
                  for place, value in enumerate(stats.num_steps_by_size)]
        total = self._growths[steps, engine].growth(stats.num_step_requests)
        self._histogram(steps, engine).add(counts, total)

    def show_resources(self, event: EngineResources) -> None:
        """What an engine's process and its GPU use."""
        engine, resources = str(event.engine), event.resources
        self._gauges["tritonlm_engine_memory_bytes", engine] = resources.memory_bytes
        if resources.gpu_memory_bytes:
            used, total = resources.gpu_memory_used_bytes, resources.gpu_memory_bytes
            self._gauges["tritonlm_gpu_memory_used_bytes", engine] = used
            self._gauges["tritonlm_gpu_memory_bytes", engine] = total
        if resources.gpu_usage is not None:
            self._gauges["tritonlm_gpu_usage_ratio", engine] = resources.gpu_usage

    def flush(self, now_s: float | None = None) -> None:
        """Send the server what has changed, if the last time is long enough ago."""
        now_s = time.monotonic() if now_s is None else now_s
        if now_s < self._due_s:
            return
        self._due_s = now_s + INTERVAL_S
        self._gauges["tritonlm_front_end_memory_bytes",] = resident_bytes()
        for key, counter in self._counters.items():
            self._increment(key, counter.take())
        for key, value in self._gauges.items():
            if self._shown.get(key) != value:
                self._metric(key, GAUGE).set(value)
                self._shown[key] = value
        for (name, *labels), histogram in self._histograms.items():
            self._push_histogram(name, labels, histogram)

    def close(self) -> None:
        """Take all of it off the page: what a model that is unloaded said last is true no more."""
        self._metrics.clear()
        self._families.clear()

    def _begin_at_zero(self) -> None:
        """Have what has not happened yet on the page: a rate sees no counter begin."""
        for ending in ENDINGS:
            self.count("tritonlm_requests_total", *ending, amount=0)
        for name, definition in METRICS.items():
            if definition.kind == HISTOGRAM and not definition.labels:
                self._histogram(name)
            elif definition.kind == COUNTER and not definition.labels:
                self.count(name, amount=0)

    def _show_gauges(self, engine: str, stats: Stats) -> None:
        usage = stats.num_blocks_used / stats.num_blocks if stats.num_blocks else 0.0
        for name, value in (
            ("tritonlm_requests_running", stats.num_running),
            ("tritonlm_requests_waiting", stats.num_waiting),
            ("tritonlm_oldest_wait_seconds", stats.oldest_wait_s),
            ("tritonlm_kv_blocks", stats.num_blocks),
            ("tritonlm_kv_blocks_used", stats.num_blocks_used),
            ("tritonlm_kv_cache_usage_ratio", usage),
            ("tritonlm_step_tokens", stats.num_batch_tokens),
        ):
            self._gauges[name, engine] = value
        for priority, value in zip(PRIORITIES, stats.num_waiting_by_priority, strict=True):
            self._gauges["tritonlm_requests_waiting_by_priority", engine, priority] = value

    def _histogram(self, *key: str) -> Histogram:
        if key not in self._histograms:
            self._histograms[key] = Histogram(METRICS[key[0]].bounds)
        return self._histograms[key]

    def _push_histogram(self, name: str, labels: list[str], histogram: Histogram) -> None:
        counts, total = histogram.take()
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        for bound, count in zip(bounds, counts, strict=True):
            self._increment((f"{name}_bucket", *labels, bound), count)
        self._increment((f"{name}_sum", *labels), total)
        self._increment((f"{name}_count", *labels), counts[-1])

    def _increment(self, key: tuple[str, ...], amount: float) -> None:
        if amount or key not in self._metrics:
            self._metric(key, COUNTER).increment(amount)

    def _metric(self, key: tuple[str, ...], kind: str) -> pb_utils.Metric:
        """The metric of a name and values of labels; it dies with its family, which is kept."""
        if key not in self._metrics:
            name, *values = key
            definition, labels = _look_up(name)
            if name not in self._families:
                self._families[name] = pb_utils.MetricFamily(
                    name, definition.description, getattr(pb_utils.MetricFamily, kind.upper()))
            common = self._engine_labels if "engine" in labels else self._labels
            self._metrics[key] = self._families[name].Metric(
                labels=common | dict(zip(labels, values, strict=True)))
        return self._metrics[key]


def _look_up(name: str) -> tuple[Definition, tuple[str, ...]]:
    """The definition of a metric or of a part of a histogram, and the names of its labels."""
    if name in METRICS:
        return METRICS[name], METRICS[name].labels
    base, _, part = name.rpartition("_")
    return METRICS[base], (*METRICS[base].labels, *(["le"] if part == "bucket" else []))

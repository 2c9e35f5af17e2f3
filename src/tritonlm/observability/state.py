"""How models, engines and gateways are doing, and which alerts that would raise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tritonlm.observability.page import Interval

LIMITS = {
    "TritonlmSlowFirstToken": 5.0,
    "TritonlmErrors": 0.05,
    "TritonlmQueueAge": 30.0,
    "TritonlmKvCacheFull": 0.95,
    "TritonlmGpuMemory": 0.98,
    "TritonlmGatewayErrors": 0.05,
}
"""Of the alerts of k8s/components/monitoring/rules.yaml, which are held to these by a test."""


@dataclass(frozen=True)
class Quantiles:
    """Of a latency; None if nothing happened."""

    p50_s: float | None
    p99_s: float | None

    @classmethod
    def of(cls, interval: Interval, name: str, **labels: str) -> Quantiles:
        """Those of a histogram."""
        return cls(interval.quantile(name, 0.5, **labels), interval.quantile(name, 0.99, **labels))


@dataclass(frozen=True)
class ModelState:
    """What a model's front ends tell."""

    model: str
    requests_per_s: float
    error_share: float | None
    """Of the requests that ended: those that failed or were turned away."""
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    num_unfinished: float
    first_token: Quantiles
    inter_token: Quantiles
    queue: Quantiles
    memory_bytes: float
    """Of all its front ends."""


@dataclass(frozen=True)
class EngineState:
    """What an engine tells; None where it does not."""

    model: str
    engine: str
    page: str
    is_up: bool
    """Whether it has a KV cache: one that is gone has none."""
    num_running: float
    num_waiting: float
    oldest_wait_s: float
    kv_usage: float
    prefix_hits: float | None
    """Share of the prompts' tokens that were in the prefix cache."""
    steps_per_s: float
    num_starts: float
    """In this interval."""
    memory_bytes: float
    gpu_usage: float | None
    gpu_memory: float | None
    """Share of the GPU's memory that is in use."""


@dataclass(frozen=True)
class TaskState:
    """What a model of embeddings, scores or labels tells; None if it had nothing to do."""

    model: str
    rows_per_s: float
    rows_per_batch: float | None
    tokens_per_s: float
    padding: float | None
    """Tokens of padding for each token."""
    memory_bytes: float


@dataclass(frozen=True)
class PathState:
    """What a gateway tells of a path."""

    path: str
    requests_per_s: float
    error_share: float | None
    first_byte: Quantiles


def models(interval: Interval) -> list[ModelState]:
    """Of all servers together, by model."""
    return [_model(interval, name) for name in
            interval.now.label_values("tritonlm_requests_unfinished", "model")]


def _model(interval: Interval, model: str) -> ModelState:
    of = {"model": model}
    ended = interval.growth("tritonlm_requests_total", **of)
    failed = (interval.growth("tritonlm_requests_total", outcome="failed", **of)
              + interval.growth("tritonlm_requests_total", outcome="refused",
                                reason="unavailable", **of))
    return ModelState(
        model, interval.rate("tritonlm_requests_total", **of), failed / ended if ended else None,
        interval.rate("tritonlm_prompt_tokens_total", **of),
        interval.rate("tritonlm_output_tokens_total", **of),
        sum(interval.now.values("tritonlm_requests_unfinished", **of)),
        Quantiles.of(interval, "tritonlm_time_to_first_token_seconds", **of),
        Quantiles.of(interval, "tritonlm_inter_token_seconds", **of),
        Quantiles.of(interval, "tritonlm_queue_seconds", **of),
        sum(interval.now.values("tritonlm_front_end_memory_bytes", **of)))


def engines(interval: Interval) -> list[EngineState]:
    """Every engine of every server."""
    return [_engine(interval, dict(labels)) for labels in sorted(
        interval.now.samples.get("tritonlm_kv_blocks", {}), key=sorted)]


def _engine(interval: Interval, labels: dict[str, str]) -> EngineState:
    def now(name: str) -> float:
        return max(interval.now.values(name, **labels), default=0.0)

    gpu_usage = interval.now.values("tritonlm_gpu_usage_ratio", **labels)
    gpu_bytes = now("tritonlm_gpu_memory_bytes")
    return EngineState(
        labels["model"], labels["engine"], labels["page"], now("tritonlm_kv_blocks") > 0,
        now("tritonlm_requests_running"), now("tritonlm_requests_waiting"),
        now("tritonlm_oldest_wait_seconds"), now("tritonlm_kv_cache_usage_ratio"),
        interval.ratio("tritonlm_prefix_hit_tokens_total", "tritonlm_prefix_tokens_total",
                       **labels),
        interval.rate("tritonlm_step_requests_count", **labels),
        interval.growth("tritonlm_engine_starts_total", **labels),
        now("tritonlm_engine_memory_bytes"), gpu_usage[0] if gpu_usage else None,
        now("tritonlm_gpu_memory_used_bytes") / gpu_bytes if gpu_bytes else None)


def tasks(interval: Interval) -> list[TaskState]:
    """Of all servers together, by model."""
    return [TaskState(
        model, interval.rate("tritonlm_task_rows_total", model=model),
        interval.ratio("tritonlm_task_rows_total", "tritonlm_task_batches_total", model=model),
        interval.rate("tritonlm_task_tokens_total", model=model),
        interval.ratio("tritonlm_task_padding_tokens_total", "tritonlm_task_tokens_total",
                       model=model),
        sum(interval.now.values("tritonlm_task_memory_bytes", model=model)))
        for model in interval.now.label_values("tritonlm_task_rows_total", "model")]


def paths(interval: Interval) -> list[PathState]:
    """The paths of all gateways together on which something has happened."""
    name = "tritonlm_gateway_requests_total"
    found = []
    for path in interval.now.label_values(name, "path"):
        ended = interval.growth(name, path=path)
        failed = sum(interval.growth(name, path=path, status=status)
                     for status in interval.now.label_values(name, "status") if status >= "500")
        if ended:
            found.append(PathState(path, interval.rate(name, path=path), failed / ended,
                                   Quantiles.of(interval, "tritonlm_gateway_first_byte_seconds",
                                                path=path)))
    return found


def alerts(interval: Interval) -> Iterator[tuple[str, str]]:
    """Names of the alerts whose limits are passed now, and by whom."""
    for model in models(interval):
        if _is_over("TritonlmErrors", model.error_share):
            yield "TritonlmErrors", model.model
        if _is_over("TritonlmSlowFirstToken", model.first_token.p99_s):
            yield "TritonlmSlowFirstToken", model.model
    for engine in engines(interval):
        who = f"{engine.model} engine {engine.engine} of {engine.page}"
        for name, is_so in (
            ("TritonlmQueueAge", _is_over("TritonlmQueueAge", engine.oldest_wait_s)),
            ("TritonlmKvCacheFull", engine.num_waiting
             and _is_over("TritonlmKvCacheFull", engine.kv_usage)),
            ("TritonlmGpuMemory", _is_over("TritonlmGpuMemory", engine.gpu_memory)),
            ("TritonlmEngineDown", not engine.is_up),
            ("TritonlmNoProgress", engine.num_running and not engine.steps_per_s),
            ("TritonlmEngineRestarts", engine.num_starts),
        ):
            if is_so:
                yield name, who
    for path in paths(interval):
        if _is_over("TritonlmGatewayErrors", path.error_share):
            yield "TritonlmGatewayErrors", path.path
    yield from _of_servers(interval)


def _of_servers(interval: Interval) -> Iterator[tuple[str, str]]:
    """Alerts of the servers behind gateways."""
    for labels, is_up in interval.now.samples.get("tritonlm_gateway_server_up", {}).items():
        if not is_up:
            yield "TritonlmGatewayServerDown", dict(labels)["server"]
    ejections = "tritonlm_gateway_server_ejections_total"
    for server in interval.now.label_values(ejections, "server"):
        if interval.growth(ejections, server=server):
            yield "TritonlmGatewayServerEjected", server


def _is_over(alert: str, value: float | None) -> bool:
    return value is not None and value > LIMITS[alert]

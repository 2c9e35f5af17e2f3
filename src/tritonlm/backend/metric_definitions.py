"""Names and meanings of the metrics, which docs/metrics.md is made from."""

from __future__ import annotations

from typing import NamedTuple

from tritonlm.engine.messages import STEP_SIZES

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
REQUEST_BOUNDS_S = (*LATENCY_BOUNDS_S, 120, 300, 600)
"""An answer of some thousand tokens takes minutes."""
TOKEN_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


ENDINGS = {
    ("finished", "stop"): "a stop text or token",
    ("finished", "length"): "`max_tokens`, or what the model has room for",
    ("finished", "cancelled"): "by its id, or because the client has hung up",
    ("finished", "deadline"): "`timeout_ms` was over",
    ("finished", "cancel"): "it was a request to cancel another",
    ("refused", "invalid_arg"): "it is not allowed",
    ("refused", "not_found"): "what it is to cancel does not run",
    ("refused", "unavailable"): "full, or stopping",
    ("refused", "internal"): "the front end failed",
    ("failed", "unavailable"): "the engine was lost, or the server stopped",
    ("failed", "internal"): "the engine failed",
}
"""How a request can end: outcome and reason, and what that means."""


class Definition(NamedTuple):
    """A metric as Prometheus knows it; all have the labels `model` and `front_end` too."""

    kind: str
    description: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


METRICS = {
    "tritonlm_requests_total": Definition(
        COUNTER, "Requests by how they ended", ("outcome", "reason")),
    "tritonlm_requests_unfinished": Definition(
        GAUGE, "Requests in this front end, running, waiting or without an engine"),
    "tritonlm_prompt_tokens_total": Definition(
        COUNTER, "Tokens of prompts whose first token came"),
    "tritonlm_output_tokens_total": Definition(COUNTER, "Tokens that engines have made"),
    "tritonlm_chunks_total": Definition(COUNTER, "Responses of streams"),
    "tritonlm_coalesced_tokens_total": Definition(
        COUNTER, "Tokens of streams that travelled with an earlier one"),
    "tritonlm_time_to_first_token_seconds": Definition(
        HISTOGRAM, "From a request's arrival until its first token is sent",
        bounds=LATENCY_BOUNDS_S),
    "tritonlm_inter_token_seconds": Definition(
        HISTOGRAM, "Time per token after the first", bounds=TOKEN_BOUNDS_S),
    "tritonlm_request_seconds": Definition(
        HISTOGRAM, "From a request's arrival to its end", bounds=REQUEST_BOUNDS_S),
    "tritonlm_queue_seconds": Definition(
        HISTOGRAM, "From a request's arrival until the engine begins", bounds=LATENCY_BOUNDS_S),
    "tritonlm_requests_running": Definition(GAUGE, "Requests in the engine's batch", ("engine",)),
    "tritonlm_requests_waiting": Definition(
        GAUGE, "Requests that wait for a place in the batch", ("engine",)),
    "tritonlm_requests_waiting_by_priority": Definition(
        GAUGE, "The same, by class", ("engine", "priority")),
    "tritonlm_oldest_wait_seconds": Definition(
        GAUGE, "How long the request has waited that has waited longest", ("engine",)),
    "tritonlm_kv_blocks": Definition(GAUGE, "Blocks of the KV cache", ("engine",)),
    "tritonlm_kv_blocks_used": Definition(
        GAUGE, "Blocks of the KV cache that requests hold", ("engine",)),
    "tritonlm_kv_cache_usage_ratio": Definition(
        GAUGE, "Share of the KV cache that requests hold, 0 to 1", ("engine",)),
    "tritonlm_step_requests": Definition(
        HISTOGRAM, "Requests in a step of the engine", ("engine",),
        tuple(map(float, STEP_SIZES))),
    "tritonlm_step_tokens": Definition(
        GAUGE, "Tokens in the engine's last step, 0 when nothing runs", ("engine",)),
    "tritonlm_prefix_tokens_total": Definition(
        COUNTER, "Tokens of admitted prompts, looked up in the prefix cache", ("engine",)),
    "tritonlm_prefix_hit_tokens_total": Definition(
        COUNTER, "How many of them were there", ("engine",)),
    "tritonlm_preemptions_total": Definition(
        COUNTER, "Requests that gave up their blocks to be computed again", ("engine",)),
    "tritonlm_front_end_memory_bytes": Definition(
        GAUGE, "Memory of the front end's process that is in RAM"),
    "tritonlm_engine_memory_bytes": Definition(
        GAUGE, "Memory of the engine's process that is in RAM", ("engine",)),
    "tritonlm_gpu_memory_bytes": Definition(GAUGE, "Memory of the engine's GPU", ("engine",)),
    "tritonlm_gpu_memory_used_bytes": Definition(
        GAUGE, "How much of it is in use, whoever uses it", ("engine",)),
    "tritonlm_gpu_usage_ratio": Definition(
        GAUGE, "Share of the last while in which the GPU computed, 0 to 1", ("engine",)),
    "tritonlm_engine_starts_total": Definition(
        COUNTER, "Engine processes started by this front end", ("engine",)),
}

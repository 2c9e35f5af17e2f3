"""What a front end tells the server of itself."""

from __future__ import annotations

import psutil
import pytest
import triton_python_backend_utils as pb_utils

from tritonlm.backend.engines import EngineResources, EngineStats
from tritonlm.backend.metrics import INTERVAL_S, FrontEndMetrics
from tritonlm.engine.messages import STEP_SIZES, Resources, Stats

STATS = Stats(num_running=3, num_waiting=2, num_blocks_used=10, num_blocks=40,
              num_waiting_by_priority=(0, 0, 2, 0), oldest_wait_s=1.5, num_preemptions=4,
              num_steps_by_size=(5, 0, 1, *[0] * (len(STEP_SIZES) - 2)), num_step_requests=8)


@pytest.fixture
def metrics():
    pb_utils.MetricFamily.families.clear()
    return FrontEndMetrics("generate", "generate_0", "generate")


def shown(name, **labels):
    """The values of the samples of a metric that have these labels."""
    return [metric.value for metric in pb_utils.MetricFamily.families[name].metrics
            if labels.items() <= metric.labels.items()]


def test_counters_are_told_by_their_labels(metrics):
    metrics.count("tritonlm_requests_total", "finished", "stop")
    metrics.count("tritonlm_requests_total", "failed", "internal")
    metrics.count("tritonlm_requests_total", "finished", "stop")
    metrics.flush(0.0)
    assert shown("tritonlm_requests_total", outcome="finished", reason="stop",
                 model="generate", front_end="generate_0") == [2]
    assert shown("tritonlm_requests_total", outcome="failed", reason="internal") == [1]


def test_what_has_not_happened_yet_is_counted_as_zero(metrics):
    metrics.flush(0.0)
    assert shown("tritonlm_requests_total", outcome="failed", reason="unavailable") == [0]
    assert shown("tritonlm_output_tokens_total") == [0]
    assert shown("tritonlm_time_to_first_token_seconds_count") == [0]


def test_updates_go_together(metrics):
    metrics.count("tritonlm_chunks_total")
    metrics.flush(10.0)
    metrics.count("tritonlm_chunks_total")
    metrics.flush(10.0 + INTERVAL_S / 2)
    assert shown("tritonlm_chunks_total") == [1]
    metrics.flush(10.0 + INTERVAL_S)
    assert shown("tritonlm_chunks_total") == [2]


def test_a_histogram_is_cumulative_counters(metrics):
    for value in (0.001, 0.03, 0.03, 100):
        metrics.observe("tritonlm_request_seconds", value)
    metrics.flush(0.0)
    families = pb_utils.MetricFamily.families
    assert families["tritonlm_request_seconds_bucket"].kind == pb_utils.MetricFamily.COUNTER
    assert shown("tritonlm_request_seconds_bucket", le="0.005") == [1]
    assert shown("tritonlm_request_seconds_bucket", le="0.05") == [3]
    assert shown("tritonlm_request_seconds_bucket", le="60") == [3]
    assert shown("tritonlm_request_seconds_bucket", le="120") == [4], "answers may take minutes"
    assert shown("tritonlm_request_seconds_bucket", le="+Inf") == [4]
    assert shown("tritonlm_request_seconds_count") == [4]
    assert shown("tritonlm_request_seconds_sum") == [pytest.approx(100.061)]


def test_an_engines_state_is_shown(metrics):
    metrics.show_engine(EngineStats(0, STATS, num_starts=1))
    metrics.flush(0.0)
    assert shown("tritonlm_requests_waiting", engine="0") == [2]
    assert shown("tritonlm_requests_waiting_by_priority", priority="normal") == [2]
    assert shown("tritonlm_kv_cache_usage_ratio") == [0.25]
    assert shown("tritonlm_step_requests_bucket", le="1") == [5]
    assert shown("tritonlm_step_requests_bucket", le="4") == [6]
    assert shown("tritonlm_step_requests_sum") == [8]


def test_an_engine_that_starts_again_goes_on_counting(metrics):
    for time_s, stats in enumerate((STATS, Stats(0, 0, 0, 0), STATS)):
        metrics.show_engine(EngineStats(0, stats, num_starts=1 + time_s // 2))
        metrics.flush(float(time_s))
    assert shown("tritonlm_preemptions_total") == [8]
    assert shown("tritonlm_engine_starts_total") == [2]
    assert shown("tritonlm_step_requests_count") == [12]


def test_memory_and_gpu_are_shown(metrics):
    metrics.show_resources(EngineResources(1, Resources(5000, 30, 80, 0.75)))
    metrics.flush(0.0)
    assert shown("tritonlm_engine_memory_bytes", engine="1") == [5000]
    assert shown("tritonlm_gpu_memory_used_bytes", engine="1") == [30]
    assert shown("tritonlm_gpu_memory_bytes", engine="1") == [80]
    assert shown("tritonlm_gpu_usage_ratio", engine="1") == [0.75]
    process_bytes = psutil.Process().memory_info().rss
    assert shown("tritonlm_front_end_memory_bytes") == [pytest.approx(process_bytes, rel=0.2)]


def test_an_engine_that_is_gone_uses_nothing(metrics):
    metrics.show_resources(EngineResources(1, Resources(5000, 30, 80, 0.75)))
    metrics.show_engine(EngineStats(1, Stats(0, 0, 0, 0), num_starts=1))
    metrics.flush(0.0)
    for name in ("engine_memory_bytes", "gpu_memory_used_bytes", "gpu_usage_ratio"):
        assert shown(f"tritonlm_{name}", engine="1") == [0]
    assert shown("tritonlm_gpu_memory_bytes", engine="1") == [80]


def test_without_a_gpu_nothing_is_said_of_it(metrics):
    metrics.show_resources(EngineResources(0, Resources(5000)))
    metrics.flush(0.0)
    assert not [name for name in pb_utils.MetricFamily.families if "gpu" in name]

"""The page of metrics of a live server, read by Prometheus's own parser."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import Counter

import pytest
import tritonclient.grpc.aio as grpcclient
from inference import stream
from prometheus_client.parser import text_string_to_metric_families
from tests.fakes.echo_server import echo_server
from tests.metrics import settled

from tritonlm.backend.metric_definitions import COUNTER, ENDINGS, HISTOGRAM, METRICS
from tritonlm.server.settings import ServerSettings

NUM_STREAMS = 40
NUM_TOKENS = 150
STEP_MS = 4


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, front_ends=2,
                              exit_timeout_s=1)
    with echo_server(settings, STEP_MS, max_num_seqs=16) as server:
        yield server


def page(server):
    """All samples: name, labels, value; and the kind of each family, by name.

    Python's parser ends the names of counters with _total, which Prometheus does not.
    """
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples, kinds = [], {}
    for family in families:
        for sample in family.samples:
            bare = sample.name.removesuffix("_total")
            is_part = bare.endswith(("_bucket", "_sum", "_count"))
            samples.append(sample._replace(name=bare if is_part else sample.name))
            kinds[samples[-1].name] = family.type
    return samples, kinds


def total(samples, name, **labels):
    return sum(sample.value for sample in samples
               if sample.name == name and labels.items() <= sample.labels.items())


def quantile(samples, name, share):
    """As Prometheus's histogram_quantile: linear within the bucket."""
    counts = Counter()
    for sample in samples:
        if sample.name == f"{name}_bucket":
            counts[float(sample.labels["le"])] += sample.value
    bounds = sorted(counts)
    assert [counts[bound] for bound in bounds] == sorted(counts.values()), "not cumulative"
    rank, lower, below = share * counts[float("inf")], 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            return lower + (bound - lower) * (rank - below) / (counts[bound] - below)
        lower, below = bound, counts[bound]
    raise AssertionError("a histogram ends with +Inf")


async def run(server):
    base = {"text_input": "To be or not to be", "max_tokens": NUM_TOKENS, "stream": True}
    bodies = [base] * NUM_STREAMS + [base | {"temperature": -1.0}] * 3 + [
        base | {"max_tokens": 4000, "timeout_ms": 300, "priority": "low"}] * 2
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        streams = await asyncio.gather(*(stream(client, "generate", body) for body in bodies))
        await stream(client, "generate", {"cancel": True, "request_id": "nobody"})
        await stream(client, "text_generation", base | {"temperature": -1.0})
    await settled(lambda: [total(page(server)[0], name) for name in (
        "tritonlm_requests_total", "tritonlm_requests_running", "tritonlm_kv_blocks_used")])
    return streams


@pytest.fixture(scope="module")
def load(server):
    """Streams of which some are refused and some have no time."""
    return asyncio.run(run(server))


@pytest.fixture(scope="module")
def samples(server, load):
    return page(server)[0]


def test_every_metric_is_there_with_its_kind(server, load):
    kinds = page(server)[1]
    of_cpus = {name: each for name, each in METRICS.items() if "_gpu_" not in name}
    for name, definition in of_cpus.items():
        if definition.kind == HISTOGRAM:
            assert {kinds[f"{name}_{part}"] for part in ("bucket", "sum", "count")} == {COUNTER}
        else:
            assert kinds[name] == definition.kind, name


def test_every_request_is_counted_by_its_ending(load, samples):
    endings = {(sample.labels["outcome"], sample.labels["reason"]): 0 for sample in samples
               if sample.name == "tritonlm_requests_total"}
    for ending in endings:
        endings[ending] = total(samples, "tritonlm_requests_total", outcome=ending[0],
                                reason=ending[1])
    assert set(endings) == set(ENDINGS)
    endings = {ending: count for ending, count in endings.items() if count}
    probes = endings.pop(("finished", "length")) - NUM_STREAMS
    assert 0 <= probes <= 2  # the launcher's own
    assert endings == {("refused", "invalid_arg"): 4, ("refused", "not_found"): 1,
                       ("finished", "deadline"): 2}
    assert total(samples, "tritonlm_requests_total", model="tokenize", outcome="refused",
                 reason="invalid_arg") == 1
    assert [one.finish_reason for one in load[-2:]] == ["deadline"] * 2


def test_every_token_is_counted(load, samples):
    num_tokens = sum(one.num_output_tokens for one in load if not one.error)
    counted = total(samples, "tritonlm_output_tokens_total")
    assert num_tokens <= counted <= num_tokens + 2
    answers = [one for one in load if not one.error]
    assert total(samples, "tritonlm_chunks_total") == sum(len(one.texts) for one in answers)
    assert total(samples, "tritonlm_coalesced_tokens_total") == sum(
        max(len(ids) - 1, 0) for one in answers for ids in one.ids)


def test_quantiles_are_those_of_the_load(samples):
    inter_token_s = quantile(samples, "tritonlm_inter_token_seconds", 0.5)
    assert STEP_MS / 1000 / 2 < inter_token_s < 100 * STEP_MS / 1000
    assert quantile(samples, "tritonlm_request_seconds", 0.5) >= NUM_TOKENS * STEP_MS / 1000
    first = quantile(samples, "tritonlm_time_to_first_token_seconds", 0.9)
    assert quantile(samples, "tritonlm_queue_seconds", 0.9) <= first


def test_steps_are_as_large_as_the_engine_allows(samples):
    full = total(samples, "tritonlm_step_requests_bucket", le="16")
    assert full == total(samples, "tritonlm_step_requests_count")
    assert full > total(samples, "tritonlm_step_requests_bucket", le="8") + 50


def test_nothing_is_left(samples):
    for name in ("tritonlm_requests_running", "tritonlm_requests_waiting",
                 "tritonlm_kv_blocks_used", "tritonlm_kv_cache_usage_ratio",
                 "tritonlm_requests_unfinished", "tritonlm_requests_waiting_by_priority"):
        assert total(samples, name) == 0, name
    assert total(samples, "tritonlm_kv_blocks") > 0

"""What is made of what the clients of a load have seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.grpc_load import Load, Seen, Watch, inference_request
from benchmarks.serving_load import ServingSpeed, table
from tritonclient.grpc import service_pb2

LOAD = Load("", "generate", concurrency=2, num_requests=3, num_prompt_tokens=7,
            num_output_tokens=5, vocab_size=100, seed=0)


def response(finish_reason, num_tokens):
    made = service_pb2.ModelStreamInferResponse()
    for name, raw in (("finish_reason", len(finish_reason).to_bytes(4, "little") + finish_reason),
                      ("num_output_tokens", num_tokens.to_bytes(4, "little"))):
        made.infer_response.outputs.add(name=name)
        made.infer_response.raw_output_contents.append(raw)
    return made


def test_speed_counts_what_came_after_the_first_chunk():
    speed = ServingSpeed.of(2, [
        Seen(started_s=10.0, first_s=10.1, last_s=11.1, num_tokens=102, num_chunks=50,
             num_first_tokens=2),
        Seen(10.0, 10.3, 12.0, 1, 1, 1), Seen(10.0, math.nan, math.nan, 0, 0, 0, "UNAVAILABLE: x")])
    assert (speed.num_requests, speed.num_failed, speed.first_error) == (3, 1, "UNAVAILABLE: x")
    assert speed.wall_s == pytest.approx(2.0)
    assert speed.output_tokens_per_s == pytest.approx(51.5)
    assert speed.chunks_per_s == pytest.approx(25.5)
    assert speed.tpot_median_ms == pytest.approx(10.0)
    assert speed.ttft_median_ms == pytest.approx(200.0)
    assert "UNAVAILABLE: x" in table("a title", [speed]).markdown()


def test_a_load_that_fails_has_no_speed():
    speed = ServingSpeed.of(1, [Seen(1.0, math.nan, math.nan, 0, 0, 0, "gone")])
    assert speed.num_failed == 1
    assert math.isnan(speed.output_tokens_per_s)
    assert math.isnan(speed.ttft_p99_ms)


def test_a_stream_is_watched_to_its_end():
    watch = Watch(started_s=0.0)
    watch.take(response(b"", 3))
    assert not watch.is_over
    watch.take(response(b"length", 5))
    seen = watch.seen()
    assert watch.is_over
    assert (seen.num_tokens, seen.num_chunks, seen.num_first_tokens) == (5, 2, 3)
    assert 0 < seen.first_s <= seen.last_s


def test_an_error_ends_a_request():
    watch = Watch(started_s=0.0)
    watch.take(service_pb2.ModelStreamInferResponse(error_message="no"))
    assert (watch.is_over, watch.seen().error) == (True, "no")


def test_prompts_are_of_ids_or_of_text():
    random = np.random.default_rng(0)
    [ids, *_] = inference_request(LOAD, random).inputs
    assert (ids.name, list(ids.shape)) == ("input_ids", [1, 7])
    text, length, *_ = inference_request(
        Load(**vars(LOAD) | {"vocab_size": 0}), random).inputs
    assert (text.name, length.name) == ("text_input", "truncate_prompt_tokens")

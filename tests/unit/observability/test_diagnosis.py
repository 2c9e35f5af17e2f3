"""Where time goes, and in what words that is told."""

from __future__ import annotations

import pytest
from tests.fakes.triton_service import chunk, response, serve
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.errors import Unavailable
from tritonlm.observability.diagnosis import MIB, Diagnosis, Growth, Sample, growths
from tritonlm.observability.page import Page

QUICK = {"queue_ms": 1.0, "prefill_ms": 2.0, "decode_ms": 95.0, "detokenize_ms": 1.0,
         "send_ms": 1.0, "total_ms": 100.0, "num_prompt_tokens": 5, "num_cached_tokens": 0,
         "num_output_tokens": 64}


def sample(client_ms=101.0, **told):
    return Sample(client_ms / 1000, QUICK | told)


def verdict(*samples, errors=(), growths=()):
    return " / ".join(Diagnosis(samples, errors, growths).verdict())


def test_stages_add_up_to_what_the_client_saw():
    stages = sample(client_ms=110.0).stages_ms()
    assert stages == pytest.approx({"transport": 10.0, "queue": 1.0, "prefill": 2.0,
                                    "decode": 95.0, "finish": 2.0})
    assert sum(stages.values()) == pytest.approx(110.0)


def test_a_stage_that_did_not_happen_took_no_time():
    assert sample(decode_ms=None).stages_ms()["decode"] == 0


def test_quantiles_and_shares_are_over_all_requests():
    found = Diagnosis([sample(), sample(client_ms=202.0, total_ms=200.0, queue_ms=101.0)], [], [])
    queue = next(stage for stage in found.stages() if stage.name == "queue")
    assert queue.p50_ms == 51
    assert queue.p99_ms == pytest.approx(100, abs=1)
    assert queue.share == pytest.approx(102 / 303)


@pytest.mark.parametrize(("told", "said"), [
    ({}, "94 % is decode, the engine's steps"),
    ({"queue_ms": 900.0, "total_ms": 1000.0, "client_ms": 1001.0}, "90 % is queue, waiting"),
    ({"client_ms": 500.0}, "80 % is transport, the way"),
    ({"prefill_ms": 200.0, "total_ms": 300.0, "client_ms": 301.0}, "66 % is prefill, prompts"),
    ({"send_ms": 60.0}, "front ends are busy with a request for 61 % of its time"),
])
def test_the_verdict_names_what_takes_long(told, said):
    assert said in verdict(sample(**told))


def test_failures_come_first():
    said = verdict(sample(), errors=["full", "full", "lost"])
    assert said.startswith("2 of 4 requests failed: full / 1 of 4 requests failed: lost")


def test_memory_that_grows_is_told_and_a_little_is_not():
    growing = Growth("engine 0", [size * MIB for size in (100, 110, 120, 130, 140)])
    steady = Growth("x", [size * MIB for size in (100, 150, 151, 151, 152)])
    assert "engine 0 has grown by 20 MiB" in verdict(sample(), growths=[growing, steady])
    assert "memory is steady" in verdict(sample(), growths=[steady])
    assert "memory" not in verdict(sample())


def test_memory_is_that_of_the_processes_on_both_pages():
    def page(*values):
        return Page.parse({"one": "".join(
            f'tritonlm_engine_memory_bytes{{engine="{engine}",model="generate"}} {value}\n'
            for engine, value in enumerate(values))}, 0.0)

    assert growths([page(10, 20), page(15)]) == [Growth("engine 0 of generate", [10, 15])]


def test_memory_of_front_ends_task_models_and_gpus_is_looked_at_too():
    page = Page.parse({"one": """
tritonlm_front_end_memory_bytes{front_end="generate_0_0",model="generate"} 1
tritonlm_task_memory_bytes{model="embed"} 2
tritonlm_gpu_memory_used_bytes{engine="0",front_end="generate_0_0",model="generate"} 3
"""}, 0.0)
    assert {growth.owner: growth.sizes_bytes for growth in growths([page, page])} == {
        "front end generate_0_0 of generate": [1, 1], "embed": [2, 2],
        "the GPU of engine 0 of generate": [3, 3]}


@pytest.fixture
def triton():
    """A server whose requests wait most of their time."""
    perf = ('{"queue_ms": 90.0, "prefill_ms": 1.0, "decode_ms": 2.0, "detokenize_ms": 0.1, '
            '"send_ms": 0.1, "total_ms": 100.0, "num_prompt_tokens": 5, "num_cached_tokens": 0, '
            '"num_output_tokens": 3}')

    def script(request, context):
        yield chunk("a", (1,))
        yield response(True, text_output=["b"], output_ids=[2], chunk_index=[1],
                       finish_reason=["stop"], num_input_tokens=[5], num_output_tokens=[3],
                       sequence_index=[0], logprobs=[], perf_metrics=[perf])

    with serve(script) as triton:
        yield triton


def test_the_command_tells_what_a_server_says(triton):
    result = CliRunner().invoke(app, ["diagnose", "--url", triton.url, "--metrics", "",
                                      "--requests", "4"])
    assert result.exit_code == 0, result.output
    assert len(triton.requests) == 4 + 1
    assert "queue" in result.output
    assert "% is queue, waiting for a place in the batch" in result.output.replace("\n", " ")


def test_a_page_of_metrics_that_comes_late_costs_no_diagnosis(triton, monkeypatch):
    """Of a server that is slow, which is why it is looked at."""
    page = Page.parse({"one": 'tritonlm_task_memory_bytes{model="embed"} 2097152'}, 0.0)
    answers = iter([page, page, Unavailable("too late"), page, Unavailable("too late")])

    def read_page(_):
        answer = next(answers)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    monkeypatch.setattr("tritonlm.commands.diagnose.read_page", read_page)
    result = CliRunner().invoke(app, ["diagnose", "--url", triton.url, "--requests", "4"])
    assert result.exit_code == 0, result.output
    assert "memory of embed: 2, 2, 2 MiB" in result.output
    assert "% is queue" in result.output

"""Models of tasks as a stub calls them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from tests.task_checkpoints import save_classifier, save_embedder
from tests.unit.backend.test_tokenize import value

from tritonlm.backend import task
from tritonlm.backend.classify import Classify
from tritonlm.backend.embed import Embed
from tritonlm.backend.task_metrics import COUNTERS, MEMORY
from tritonlm.backend.task_tokenize import EmbedTokenize
from tritonlm.backend.vital import EXIT_CODE
from tritonlm.logs import JSON_START


def start(model, folder, **parameters):
    texts = {"model": str(folder), "device": "cpu", **parameters}
    config = {"parameters": {name: {"string_value": text} for name, text in texts.items()}}
    pb_utils.MetricFamily.families.clear()
    model.initialize({"model_name": "embed", "model_instance_name": "embed_0_0",
                      "model_config": json.dumps(config)})
    return model


def request(*texts, outputs=("embedding",), request_id="", **tensors):
    column = np.array([[text.encode()] for text in texts], np.object_)
    return pb_utils.InferenceRequest({"text_input": column, **tensors}, outputs=outputs,
                                     request_id=request_id)


def shown(field):
    [metric] = pb_utils.MetricFamily.families[COUNTERS[field][0]].metrics
    assert metric.labels == {"model": "embed"}
    return metric.value


def test_rows_of_many_requests_are_computed_together_and_go_back_where_they_came_from(tmp_path):
    model = start(Embed(), save_embedder(tmp_path))
    requests = [request("the cat"), request("on", "the cat sat on the mat " * 2), request("a dog")]
    together = [value(response) for response in model.execute(requests)]
    assert [len(rows) for rows in together] == [1, 2, 1]
    for one, rows in zip(requests, together, strict=True):
        [alone] = model.execute([one])
        np.testing.assert_allclose(rows, value(alone), rtol=0, atol=1e-5)


def test_what_was_computed_is_counted_and_padding_apart(tmp_path):
    model = start(Embed(), save_embedder(tmp_path))
    [tokens] = model.execute([request("on", "the cat sat", outputs=["num_input_tokens"])])
    short, long = value(tokens).reshape(-1).tolist()
    assert (shown("num_rows"), shown("num_batches")) == (2, 1)
    assert shown("num_tokens") == short + long
    assert shown("num_padding_tokens") == long - short
    [memory] = pb_utils.MetricFamily.families[MEMORY[0]].metrics
    assert memory.value > 10 * 2**20


def test_a_bad_request_does_not_harm_the_others_of_its_batch(tmp_path):
    model = start(Embed(), save_embedder(tmp_path))
    ids = np.array([[5, 6]], np.int32)
    good, *bad = model.execute([
        request("on"), request("on", "word " * 99), request("on", input_ids=ids),
        request("on", dimensions=np.array([[99]], np.int32)),
        pb_utils.InferenceRequest({"text_input": np.array([[b"\xff"]], np.object_)}),
        pb_utils.InferenceRequest({}, b'{"\xff": 1}', request_id=b"\xff")])
    assert value(good).shape == (1, 64)
    messages = [response.error().message() for response in bad]
    for message, said in zip(messages, ("num_input_tokens: ", "inputs: 'text_input and input_ids'",
                                        "dimensions: [99]", "text_input[0]: ",
                                        "parameters: "), strict=True):
        assert message.startswith(f"INVALID_ARG: {said}")


def lines_of_log(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()
            if line.startswith(JSON_START)]


@pytest.mark.parametrize("kind", [Embed, EmbedTokenize])
def test_requests_are_logged_by_their_ids(tmp_path, capsys, kind):
    model = start(kind(), save_embedder(tmp_path), log_format="json", request_log="true")
    model.execute([request("on", request_id="a", outputs=["num_input_tokens"]),
                   request("on", "word " * 99, request_id="c")])
    told = {line["request_id"]: line for line in lines_of_log(capsys)}
    assert {line["process"] for line in told.values()} == {"embed_0_0"}
    assert (told["a"]["outcome"], told["a"]["model"]) == ("finished", "embed")
    assert told["a"]["input_tokens"] > 0
    assert (told["c"]["outcome"], told["c"]["reason"]) == ("refused", "invalid_arg")
    assert told["c"]["message"].startswith("num_input_tokens: ")


def test_without_request_log_only_what_fails_is_logged(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TRITONLM_LOG_FORMAT", "json")
    model = start(Embed(), save_embedder(tmp_path))
    model.execute([request("on", request_id="a"), request("on", "word " * 99, request_id="b")])
    assert lines_of_log(capsys) == []
    monkeypatch.setattr(model, "_compute", lambda requests: 1 / 0)
    [failed] = model.execute([request("on", request_id="c")])
    assert failed.error().message() == "INTERNAL: internal error; the server's log says more"
    bug, ended = sorted(lines_of_log(capsys), key=lambda line: "outcome" in line)
    assert "ZeroDivisionError" in bug["exception"]
    assert (ended["outcome"], ended["reason"], ended["level"]) == ("failed", "internal", "warning")
    assert bug["request_id"] == ended["request_id"] == "c"


def test_a_process_whose_device_is_lost_ends_and_one_that_failed_goes_on(tmp_path, monkeypatch):
    class Ended(Exception):
        pass

    def end(code):
        raise Ended(code)

    model = start(Embed(), save_embedder(tmp_path))
    monkeypatch.setattr(task.os, "_exit", end)
    with monkeypatch.context() as failing:
        failing.setattr(model, "_compute", lambda requests: 1 / 0)
        [failed] = model.execute([request("on")])
        assert failed.error()
        failing.setattr(task, "lost_device", lambda: "CUDA error: device-side assert triggered")
        with pytest.raises(Ended, match=str(EXIT_CODE)):
            model.execute([request("on")])
    [good] = model.execute([request("on")])
    assert value(good).shape == (1, 64)


def test_a_checkpoint_that_does_not_fit_fails_the_load_with_the_reason(tmp_path):
    save_classifier(tmp_path / "classifier")
    save_embedder(tmp_path / "base")
    for model, name, reason in ((Embed(), "classifier", "embed needs a model without a head"),
                                (Classify(), "base", "classify needs ...ForSequence"),
                                (EmbedTokenize(), "nothing", "there is no such folder")):
        with pytest.raises(pb_utils.TritonModelException, match="model: .*" + reason):
            start(model, tmp_path / name)


def test_an_unknown_setting_fails_the_load(tmp_path):
    with pytest.raises(pb_utils.TritonModelException, match=r"'poling' .* known settings"):
        start(Embed(), save_embedder(tmp_path), poling="cls")


def test_the_documentation_knows_the_metrics():
    text = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text()
    rows = dict(re.findall(r"\| `(tritonlm_task_\w+)` \| (.*) \|", text))
    assert rows == dict([*COUNTERS.values(), MEMORY])

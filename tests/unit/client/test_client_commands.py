"""The commands that talk to a server, against a gRPC server in this process."""

import json
import signal

import pytest
from calls import WAIT_S, endless
from command_runs import loaded, run, started
from page_server import serve_page
from triton_service import chunk, empty_final, failure, serve, tensors
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.errors import Unavailable

TEXT = "Grüße 👋\r\n\tto\x00 you "


def spelled(request, context):
    """Every character of `TEXT` in a chunk of its own, or all at once."""
    if "stream" not in tensors(request):
        yield chunk(TEXT, (1, 2), 0, "length", (4,), (2,), is_final=True)
        return
    for index, character in enumerate(TEXT):
        yield chunk(character, (index,), index, num_output_tokens=(index + 1,))
    yield chunk("", (), len(TEXT), "stop", (4,), (len(TEXT),), is_final=True)


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_generate_prints_exactly_the_text(how):
    with serve(spelled) as triton:
        result = run(triton, "generate", "Hi", how)
    assert (result.exit_code, result.stdout_bytes) == (0, TEXT.encode())


def test_generate_prints_a_chunk_before_the_next_is_made():
    with serve(endless) as triton, started(triton, "generate", "Hi") as process:
        assert process.stdout.read(3) == b"xxx"


def test_generate_sends_its_options():
    with serve(spelled) as triton:
        run(triton, "generate", "Hi", "--max-tokens", "3", "--temperature", "0.5",
            "--top-p", "0.5", "--top-k", "4", "--min-p", "0.25", "--seed", str(2**64 - 1),
            "--stop", "a", "--stop", "b")
        [request] = triton.requests
    assert tensors(request) == {
        "text_input": [[b"Hi"]], "stream": [[True]], "max_tokens": [[3]], "temperature": [[0.5]],
        "top_p": [[0.5]], "top_k": [[4]], "min_p": [[0.25]], "seed": [[2**64 - 1]],
        "stop": [[b"a", b"b"]],
    }


def test_generate_sends_options_that_have_no_flag():
    with serve(spelled) as triton:
        run(triton, "generate", "Hi", "-o", "repetition_penalty=1.5", "-o", "ignore_eos=true",
            "-o", 'logit_bias={"7": -2}', "-o", "stop_token_ids=5", "-o", "stop_token_ids=6",
            "-o", "priority=high", "-o", "bad_words=a=b")
        [request] = triton.requests
    assert tensors(request) == {
        "text_input": [[b"Hi"]], "stream": [[True]], "repetition_penalty": [[1.5]],
        "ignore_eos": [[True]], "logit_bias": [[b'{"7": -2.0}']], "stop_token_ids": [[5, 6]],
        "priority": [[b"high"]], "bad_words": [[b"a=b"]],
    }


@pytest.mark.parametrize(("arguments", "said"), [
    (["-o", "best_of"], "NAME=VALUE"),
    (["-o", "best_of=2"], "best_of"),
    (["-o", "repetition_penalty=0"], "more than 0, at most 100"),
    (["-o", "n=2", "-o", "n=3"], "n: "),
    (["--top-k", "5", "-o", "top_k=5"], "--top-k is given too"),
])
def test_generate_refuses_an_option_before_anything_is_sent(arguments, said):
    with serve(spelled) as triton:
        result = run(triton, "generate", "Hi", *arguments)
        assert not triton.requests
    assert result.exit_code == 1
    assert said in result.stderr


def test_several_answers_are_printed_one_after_the_other():
    def two(request, context):
        assert tensors(request)["n"] == [[2]]
        for index, text in enumerate(("one", "two")):
            yield chunk(text, (index,), 0, "stop", sequence_index=index, is_final=index == 1)

    with serve(two) as triton:
        result = run(triton, "generate", "Hi", "-o", "n=2")
    assert result.stdout == "one\n---\ntwo"


def test_generate_prints_each_piece_as_json():
    with serve(spelled) as triton:
        result = run(triton, "generate", "Hi", "--json")
    pieces = [json.loads(line) for line in result.stdout_bytes.decode().splitlines()]
    assert "".join(piece["text"] for piece in pieces) == TEXT
    assert (pieces[0]["token_ids"], pieces[0]["index"], pieces[-1]["finish_reason"]) == (
        [0], 0, "stop")


def test_generate_reads_its_prompt_from_stdin():
    with serve(spelled) as triton:
        run(triton, "generate", "-", stdin="a\n é\n")
        assert tensors(triton.requests[0])["text_input"] == [["a\n é\n".encode()]]


def test_generate_refuses_a_stdin_that_is_not_text():
    with serve(spelled) as triton:
        result = run(triton, "generate", "-", stdin=b"\xff")
    assert result.exit_code == 1
    assert "UTF-8" in result.stderr


def test_generate_prints_ids():
    with serve(spelled) as triton:
        assert run(triton, "generate", "Hi", "--no-stream", "--ids").stdout == "1\n2\n"


def test_stats_go_to_stderr():
    with serve(spelled) as triton:
        result = run(triton, "generate", "Hi", "--stats")
    assert result.stdout_bytes == TEXT.encode()
    assert f"4 tokens in, {len(TEXT)} tokens out" in result.stderr
    assert "tokens/s, ended by stop" in result.stderr


def test_ctrl_c_ends_generate_and_the_request():
    with serve(endless) as triton, started(triton, "generate", "Hi") as process:
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert process.stderr.read() == b""
        assert triton.hung_up.get(timeout=WAIT_S) == triton.requests[0].id


@pytest.mark.parametrize("command", [["generate", "Hi"], ["chat"], ["models"], ["health"],
                                     ["diagnose"]])
def test_a_server_that_is_not_there_is_one_line(command):
    result = CliRunner().invoke(app, [*command, "--url", "localhost:9"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "tritonlm: no Triton server answers at localhost:9: HOST:PORT is its gRPC port, "
        "http://HOST:PORT that of HTTP; `make serve` starts one here"]


@pytest.mark.parametrize("command", [["generate", "Hi"], ["chat"], ["models"], ["health"]])
def test_what_is_no_triton_server_is_said_to_be_none(command):
    with serve_page("no such path", status=404) as server:
        url = f"http://localhost:{server.server_port}"
        result = CliRunner().invoke(app, [*command, "--url", url])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"tritonlm: no Triton server answers at {url}: ")


def test_a_model_that_is_not_there_is_told_with_the_command_that_lists_them():
    with serve(lambda *_: iter([failure("Request for unknown model: 'x' is not found")])) as triton:
        result = run(triton, "generate", "Hi", "--model", "x")
    assert result.exit_code == 1
    assert result.stderr == ("tritonlm: Request for unknown model: 'x' is not found; "
                             "`tritonlm models` lists those there are\n")


def test_an_error_of_the_server_is_one_line():
    refusal = failure(Unavailable("the queue is full").coded_message)
    with serve(lambda *_: iter([refusal])) as triton:
        result = run(triton, "generate", "Hi")
    assert (result.exit_code, result.stderr) == (1, "tritonlm: the queue is full\n")


def test_models_are_a_table():
    with serve(spelled) as triton:
        triton.models = loaded("generate") | {("broken", "UNAVAILABLE"): None}
        result = run(triton, "models")
    words = result.stdout.replace(",", "").split()
    assert words[words.index("generate"):][:4] == ["generate", "1", "READY", "yes"]
    assert words[words.index("broken"):] == ["broken", "1", "UNAVAILABLE"]
    assert "text_input?" in words


def test_models_are_json():
    with serve(spelled) as triton:
        triton.models = loaded("generate")
        [model] = json.loads(run(triton, "models", "--json").stdout)
    assert model["inputs"][1] == {
        "name": "seed", "dtype": "UINT64", "dims": [1], "is_optional": True}


def test_a_healthy_server_gives_a_token():
    with serve(spelled) as triton:
        triton.models = loaded("generate", "tokenize")
        result = run(triton, "health")
        assert tensors(triton.requests[0])["max_tokens"] == [[1]]
    assert result.exit_code == 0
    assert "model tokenize: READY" in result.stdout
    assert "answer of generate: one token in" in result.stdout


def test_a_server_that_has_nothing_loaded_is_well_unless_a_model_is_asked_for():
    with serve(lambda *_: iter([failure("Request for unknown model: 'generate'")])) as triton:
        triton.models = {("chat", ""): None, ("chat_tokenize", ""): None}
        codes = [run(triton, "health", *options).exit_code
                 for options in ([], ["--model", "generate"])]
    assert codes == [0, 1]


@pytest.mark.parametrize(("names", "script", "error"), [
    (["generate"], lambda *_: iter([failure("Stub process 'generate_0' is not healthy.")]),
     "not healthy"),
    (["generate"], lambda *_: iter([empty_final()]), "without an answer"),
    (["tokenize"], spelled, ""),
])
def test_health_fails_whatever_is_amiss(names, script, error):
    with serve(script) as triton:
        triton.models = loaded(*names)
        result = run(triton, "health", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["is_live"]
    assert not report["is_healthy"]
    assert all(error in reply["error"] for reply in report["replies"].values())


def test_a_server_whose_queue_is_full_is_well_if_that_is_asked():
    refusal = failure(Unavailable("9 requests wait; retry in 99 s").coded_message)
    with serve(lambda *_: iter([refusal])) as triton:
        triton.models = loaded("generate")
        codes = [run(triton, "health", *options).exit_code for options in ([], ["--may-be-full"])]
    assert codes == [1, 0]


def test_health_of_no_server_is_json_too():
    result = CliRunner().invoke(app, ["health", "--json", "--url", "localhost:9"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["is_live"] is False

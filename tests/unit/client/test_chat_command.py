"""`tritonlm chat`, against a gRPC server in this process."""

from __future__ import annotations

import json
import signal

from calls import WAIT_S, endless
from command_runs import loaded, run, started
from triton_service import chunk, failure, serve, tensors

from tritonlm.errors import InvalidArgument


def echo(request, context):
    """Answers with what was asked last, or refuses it."""
    [[text]] = tensors(request)["messages"]
    question = json.loads(text)[-1]["content"]
    if question == "too much":
        yield failure(InvalidArgument("prompt", "9 tokens", "allowed: 1 to 8").coded_message)
        return
    yield chunk(f"you said {question}", (1,), 0, "stop", is_final=True)


def chat(lines, *args, script=echo):
    """The result of a chat, and the messages of each of its requests."""
    with serve(script) as triton:
        triton.models = loaded("generate")
        result = run(triton, "chat", *args, stdin="".join(f"{line}\n" for line in lines))
        sent = [json.loads(tensors(request)["messages"][0][0]) for request in triton.requests]
    return result, [[message["content"] for message in messages] for messages in sent]


def test_chat_sends_what_was_said_before():
    result, sent = chat(["a", "", "b", "/exit", "c"])
    assert result.exit_code == 0
    assert "you said b" in result.stdout
    assert sent == [["a"], ["a", "you said a", "b"]]


def test_reset_keeps_only_the_system_message():
    _, sent = chat(["a", "/reset", "b"], "--system", "be brief")
    assert sent == [["be brief", "a"], ["be brief", "b"]]


def test_an_unknown_chat_command_is_not_sent():
    result, sent = chat(["/quit"])
    assert sent == []
    assert result.stdout.count("/reset starts over") == 2


def test_a_refused_question_is_explained_and_not_kept():
    result, sent = chat(["a", "too much", "b"])
    assert result.exit_code == 0
    assert "prompt: '9 tokens' is not allowed" in result.stderr
    assert "/reset" in result.stderr
    assert sent[2] == ["a", "you said a", "b"]


def test_chat_with_a_model_that_is_not_ready_is_one_line():
    with serve(echo) as triton:
        result = run(triton, "chat")
    assert result.exit_code == 1
    assert result.stderr == (f"tritonlm: generate at {triton.url} is not ready; "
                             "`tritonlm models` lists those that are\n")


def test_ctrl_c_ends_an_answer_but_not_the_chat():
    with serve(endless) as triton:
        triton.models = loaded("generate")
        with started(triton, "chat") as process:
            say(process, "a", until=b"xxx")
            process.send_signal(signal.SIGINT)
            assert triton.hung_up.get(timeout=WAIT_S) == triton.requests[0].id
            say(process, "b", until=b"xxx")
        messages = json.loads(tensors(triton.requests[1])["messages"][0][0])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert set(messages[1]["content"]) == {"x"}


def say(process, line, until):
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()
    seen = b""
    while until not in seen:
        seen += process.stdout.read(1)

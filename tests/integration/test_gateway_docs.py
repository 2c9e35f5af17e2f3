"""`tritonlm serve` with a gateway beside it: the examples of its documents, and others' SDKs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from tests.integration.gateway import get
from tests.serving import ANNOUNCED, Serve, assert_nothing_is_left

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCKS = [block for name in ("gateway.md", "structured-output.md", "websocket.md")
          for block in re.findall(r"^```(python|sh)\n(.*?)^```$",
                                  (DOCS / name).read_text(encoding="utf-8"),
                                  re.DOTALL | re.MULTILINE)]


@pytest.fixture(scope="module")
def serve():
    server = Serve("--gateway-port", "0")
    server.wait_for(ANNOUNCED)
    yield server
    if server.is_running:
        server.end(signal.SIGINT, signal.SIGINT)


@pytest.fixture(scope="module")
def address(serve):
    """Host and port of the gateway."""
    return re.search(r"OpenAI +http://(\S+)/v1", serve.output)[1]


@pytest.mark.parametrize(("language", "source"), BLOCKS)
def test_an_example_runs(address, language, source):
    source = source.replace("localhost:9000", address)
    command = {"python": [sys.executable, "-c"], "sh": ["sh", "-e", "-c"]}[language]
    scripts = Path(sys.executable).parent
    environ = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*command, source], env=environ, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "error" not in done.stdout


QUESTION = "Who goes there?"
GREEDY = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def expected(address):
    """The answer to `QUESTION`, by OpenAI's SDK, which other tests hold to transformers."""
    with OpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
        return client.chat.completions.create(
            model="generate", messages=[{"role": "user", "content": QUESTION}], **GREEDY)


@pytest.fixture(scope="module")
def langchain(address):
    return ChatOpenAI(base_url=f"http://{address}/v1", api_key="none", model="generate",
                      max_retries=0, stream_usage=True, **GREEDY)


def test_langchain_chats(langchain, expected):
    answer = langchain.invoke(QUESTION)
    assert answer.content == expected.choices[0].message.content
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["input_tokens"] == expected.usage.prompt_tokens
    assert answer.usage_metadata["output_tokens"] == 8


async def test_langchain_streams(langchain, expected):
    chunks = list(langchain.stream([("human", QUESTION)]))
    assert len(chunks) > 2
    assert "".join(chunk.content for chunk in chunks) == expected.choices[0].message.content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks
               if chunk.usage_metadata) == 8
    told = [chunk.content async for chunk in langchain.astream(QUESTION)]
    assert "".join(told) == expected.choices[0].message.content


def test_langchain_asks_many_at_once(langchain, expected):
    answers = langchain.batch([QUESTION] * 8)
    assert [answer.content for answer in answers] == [expected.choices[0].message.content] * 8


def test_langchain_gets_an_answer_that_fits_a_schema(langchain):
    schema = {"title": "Guess", "type": "object", "additionalProperties": False,
              "properties": {"who": {"enum": ["ROMEO", "JULIET"]}}, "required": ["who"]}
    roomy = langchain.model_copy(update={"max_tokens": 400})
    answer = roomy.with_structured_output(schema, method="json_schema").invoke(QUESTION)
    assert answer in ({"who": "ROMEO"}, {"who": "JULIET"})


LITELLM = next(map(str, (ROOT / ".runtime").glob("litellm-*")), "")
LITELLM_CALLS = """
import json, sys, litellm
to = {"api_base": sys.argv[1], "api_key": "none", "max_tokens": 8, "temperature": 0}
chat = {"model": "openai/generate", "messages": [{"role": "user", "content": sys.argv[2]}], **to}
answer = litellm.completion(**chat)
chunks = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**chat, stream=True)]
text = litellm.text_completion(model="text-completion-openai/generate", prompt=sys.argv[2], **to)
try:
    litellm.completion(**{**chat, "max_tokens": 10**6}, num_retries=0)
except litellm.BadRequestError as error:
    refusal = str(error)
print(json.dumps([answer.choices[0].message.content, answer.usage.completion_tokens, chunks,
                  text.usage.completion_tokens, refusal]))
"""


@pytest.mark.skipif(not LITELLM, reason="there is no litellm; `make test` installs it")
def test_litellm_chats_streams_and_completes(address, expected):
    environ = os.environ | {"PYTHONPATH": LITELLM, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-c", LITELLM_CALLS, f"http://{address}/v1", QUESTION]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    content, num_tokens, chunks, num_completed, refusal = json.loads(done.stdout.splitlines()[-1])
    assert content == "".join(chunks) == expected.choices[0].message.content
    assert (num_tokens, num_completed) == (8, 8)
    assert "max_tokens: 1000000" in refusal


def test_there_are_examples():
    assert [language for language, _ in BLOCKS] == [
        "python", "sh", "sh", "python", "sh", "python"]


def test_it_ends_with_the_server(serve, address):
    assert get(f"http://{address}/health/ready")[0] == 200
    run_dir = serve.run_dir()
    assert serve.end(signal.SIGINT) == 0
    assert_nothing_is_left(run_dir)
    with pytest.raises(OSError, match="refused"):
        get(f"http://{address}/health/live")

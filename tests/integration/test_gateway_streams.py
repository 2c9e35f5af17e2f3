"""Server-sent events from a real server; who goes away is not worked for."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests.drills.load import counted
from tests.drills.waiting import LIMIT_S, until
from tests.integration.gateway import direct_text, post
from tests.metrics import settled, total

LONG = {"text_input": "ROMEO:", "max_tokens": 900, "ignore_eos": True, "temperature": 1.0}
CHAT = {"model": "generate", "max_tokens": 900, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Speak."}]}
GREEDY = {"temperature": 0, "max_tokens": 12}


async def test_events_add_up_to_the_answer(demo_gateway, demo_server):
    async with aiohttp.ClientSession() as session, session.post(
            f"{demo_gateway}/generate_stream", json={"text_input": "ROMEO:", **GREEDY}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) async for line in answer.content if line.strip()]
    expected = direct_text(demo_server, "ROMEO:", **GREEDY)
    assert "".join(event["text_output"] for event in events) == expected
    assert [event["finish_reason"] for event in events][:-1] == [""] * (len(events) - 1)
    assert events[-1]["finish_reason"] == "length"
    assert events[-1]["num_output_tokens"] == 12


@pytest.mark.parametrize(("body", "param"), [
    ({"text_input": "a", "max_tokens": 10**6}, "max_tokens"),
    ({"input_ids": [1], "text_input": "a"}, "prompt"),
    ({"input_ids": [1], "stream": True}, "stream"), ({"text_input": ""}, "text_input"),
])
def test_events_that_cannot_begin_are_an_error_with_a_status(demo_gateway, body, param):
    status, answer = post(f"{demo_gateway}/generate_stream", body)
    assert (status, answer["error"]["param"]) == (400, param)


async def leave_http(url, path, body, is_running):
    """Send a request, hear its beginning if it streams, and hang up."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)
    connection.request("POST", path, json.dumps(body))
    if body.get("stream") or path == "/generate_stream":
        connection.getresponse().read(64)
    else:
        await until(is_running, "it does not run")
    connection.sock.close()


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", {**CHAT, "stream": True}), ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": "generate", "prompt": ["A", "B"], "max_tokens": 900,
                         "ignore_eos": True, "stream": True}),
    ("/generate_stream", LONG),
])
async def test_who_hangs_up_is_not_worked_for(demo_gateway, demo_server, path, body):
    page = demo_server.metrics_url
    await until(lambda: not total(page, "tritonlm_requests_running"), "others run")
    before = await settled(lambda: counted(page)["cancelled"])
    await leave_http(demo_gateway, path, body, lambda: total(page, "tritonlm_requests_running"))
    await until(lambda: counted(page)["cancelled"] == before + len(body.get("prompt", [1])),
                lambda: f"{counted(page)['cancelled']} since {before}")

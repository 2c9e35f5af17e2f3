"""What servers get of the request that they work for: its trace; and what the log knows of them."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import contextmanager
from operator import itemgetter

import aiohttp
import pytest
import websockets
from tests.drills.waiting import until
from tests.fakes.otlp_collector import running_collector
from tests.fakes.triton_service import chunk
from tests.metrics import samples

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID, SPAN_ID = PARENT.split("-")[1:3]
PATH = "/v1/completions"
BODY = {"model": "generate", "prompt": ["a", "b"], "max_tokens": 3}


async def answer(request, send):
    send(chunk("a", finish_reason="stop", num_output_tokens=(3,), is_final=True))


async def call(url, body=BODY, **headers):
    async with aiohttp.ClientSession() as session, session.post(
            url + PATH, json=body, headers=headers) as response:
        await response.read()
        return response.status


def contexts(server):
    return {request.parameters["traceparent"].string_param for request in server.requests}


async def test_a_clients_trace_is_handed_on(gateway):
    async with gateway(answer) as (url, server):
        assert await call(url, traceparent=PARENT) == 200
    assert len(server.requests) == 2
    assert contexts(server) == {PARENT}


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}])
async def test_without_a_valid_one_nothing_is(gateway, headers):
    async with gateway(answer) as (url, server):
        assert await call(url, **headers) == 200
    assert not any("traceparent" in request.parameters for request in server.requests)


async def test_with_a_collector_servers_work_within_the_gateways_span(gateway, monkeypatch):
    with running_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with gateway(answer) as (url, server):
            assert await call(url, traceparent=PARENT) == 200
            assert await call(url, {**BODY, "temperature": -1}, traceparent=PARENT) == 400
            async with aiohttp.ClientSession() as session, session.get(f"{url}/health/live"):
                pass
    first, refused = sorted(collector.spans, key=lambda span: span.begin_ns)
    assert contexts(server) == {f"00-{TRACE_ID}-{first.span_id}-01"}
    assert (first.name, first.parent_id, first.error) == (f"POST {PATH}", SPAN_ID, "")
    assert first.attributes["gen_ai.usage.output_tokens"] == 6
    assert refused.attributes["http.response.status_code"] == 400


@contextmanager
def heard():
    """What the log of requests says, once the gateway runs, which sets up its handlers."""
    lines, logger, handler = [], logging.getLogger("tritonlm.access"), logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


async def test_each_request_on_a_websocket_is_told_of(gateway, monkeypatch):
    with running_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with gateway(answer) as (url, server):
            with heard() as lines:
                async with websockets.connect(f"ws{url.removeprefix('http')}/ws") as socket:
                    for name, options in (("a", {}), ("b", {"temperature": -1})):
                        await socket.send(json.dumps({
                            "type": "generate", "id": name, "text_input": "Hi", **options}))
                    await until(lambda: len(lines) == 2, lambda: lines)
                await until(lambda: len(lines) == 3, lambda: lines)
            page = await asyncio.to_thread(samples, f"{url}/metrics",
                                           "tritonlm_gateway_requests_total")
    assert [(line["method"], line["path"], line["request_id"], line["status"], line["model"],
             line["output_tokens"]) for line in sorted(lines[:2], key=itemgetter("status"))] == [
        ("GENERATE", "/ws", "a", 200, "generate", 3), ("GENERATE", "/ws", "b", 400, "generate", 0)]
    assert (lines[2]["method"], lines[2]["status"]) == ("WEBSOCKET", 101)
    assert {labels["status"] for labels, _ in page if labels["path"] == "/ws generate"} >= {
        "200", "400"}
    [whole] = [span for span in collector.spans if span.name == "WEBSOCKET /ws"]
    parts = [span for span in collector.spans if span.name == "GENERATE /ws"]
    assert [span.parent_id for span in parts] == [whole.span_id] * 2
    [context] = contexts(server)
    assert context.split("-")[1:3] in [[whole.trace_id, span.span_id] for span in parts]


async def test_the_log_has_the_ids_that_servers_know(gateway):
    async with gateway(answer) as (url, server):
        with heard() as lines:
            await call(url, **{"x-request-id": "it"})
            await until(lambda: lines, "no line")
    [line] = lines
    assert line["server_request_ids"] == [request.id for request in server.requests]
    assert (line["request_id"], line["process"], line["level"]) == ("it", "gateway", "info")

"""What servers get of the request that they work for: its trace; and what the log knows of them."""

from __future__ import annotations

import json
import logging

import aiohttp
import pytest
from tests.drills.waiting import until
from tests.fakes.otlp_collector import running_collector
from tests.fakes.triton_service import chunk

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


async def test_the_log_has_the_ids_that_servers_know(gateway):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    async with gateway(answer) as (url, server):
        logging.getLogger("tritonlm.access").addHandler(handler)
        await call(url, **{"x-request-id": "it"})
        await until(lambda: lines, "no line")
        logging.getLogger("tritonlm.access").removeHandler(handler)
    [line] = lines
    assert line["server_request_ids"] == [request.id for request in server.requests]
    assert (line["request_id"], line["process"], line["level"]) == ("it", "gateway", "info")

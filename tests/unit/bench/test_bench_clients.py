"""The clients of a load: what they make of bytes and messages whose times are known."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tritonlm.bench import grpc_client, http_client
from tritonlm.bench.asks import Ask, measured
from tritonlm.bench.dialects import DIALECTS
from tritonlm.bench.grpc_client import ResponseWatch, inference_request
from tritonlm.bench.http_client import HttpClient, HttpConnection, timed_events
from tritonlm.bench.load import Load

LOAD = Load(input_len=7, output_len=5, ignore_eos=True)
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Clock:
    """Time that a test sets."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(http_client, "time", made)
    monkeypatch.setattr(grpc_client, "time", made)
    return made


class Wire:
    """The transport of a connection: tells when a request has been written."""

    def __init__(self):
        self.written = asyncio.Event()

    def write(self, _data):
        self.written.set()

    def close(self):
        pass


def framed(*events):
    data = b"".join(b"data: %b\n\n" % (event if isinstance(event, bytes) else
                                       json.dumps(event).encode()) for event in events)
    return b"%x\r\n%b\r\n" % (len(data), data)


async def answered(clock, backend, timed_pieces, sent_s=1.0):
    """What is seen of a request that is sent at `sent_s` and answered with bytes at times."""
    connection = HttpConnection("localhost:1", DIALECTS[backend].read)
    wire = connection._transport = Wire()
    clock.now_s = sent_s
    running = asyncio.create_task(connection.run(b"request"))
    await wire.written.wait()
    for at_s, data in timed_pieces:
        clock.now_s = at_s
        connection.data_received(data)
    clock.now_s = 99.0
    return await running


def choice(text):
    return {"choices": [{"index": 0, "text": text, "finish_reason": None}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}


async def test_chunks_of_an_openai_stream_have_the_times_of_their_bytes(clock):
    seen = await answered(clock, "openai", [
        (1.25, HEAD), (1.5, framed(choice("a"))), (1.75, framed(choice("b"))),
        (2.5, framed(choice("c"))), (2.75, framed(USAGE, b"[DONE]")), (3.0, b"0\r\n\r\n")])
    assert not seen.error
    assert seen.chunks_s == [1.5, 1.75, 2.5], "the usage is no chunk"
    assert (seen.num_input_tokens, seen.num_output_tokens) == (7, 5)
    assert (seen.ttft_ms, seen.tpot_ms, seen.e2e_ms) == (500, 250, 1500)
    assert seen.itl_ms == [250, 750]


async def test_events_that_come_together_have_one_time(clock):
    seen = await answered(clock, "openai", [
        (1.5, HEAD + framed(choice("a"), choice("b"))), (2.0, framed(USAGE) + b"0\r\n\r\n")])
    assert seen.chunks_s == [1.5, 1.5]


async def test_an_event_in_two_pieces_has_the_time_of_the_second(clock):
    whole = framed(choice("a"), USAGE)
    seen = await answered(clock, "openai", [
        (1.5, HEAD + whole[:20]), (2.0, whole[20:]), (2.5, b"0\r\n\r\n")])
    assert seen.chunks_s == [2.0]


@pytest.mark.parametrize("backend", ["sse", "triton-sse"])
async def test_generate_streams_count_their_tokens(clock, backend):
    events = [{"text_output": "ab", "num_input_tokens": 7, "num_output_tokens": 2},
              {"text_output": "c", "num_input_tokens": 7, "num_output_tokens": 3}]
    seen = await answered(clock, backend, [
        (2.0, HEAD + framed(events[0])), (4.0, framed(events[1]) + b"0\r\n\r\n")])
    assert (seen.num_input_tokens, seen.num_output_tokens) == (7, 3)
    assert (seen.ttft_ms, seen.tpot_ms) == (1000, 1000)


async def test_an_error_amid_a_stream_is_seen(clock):
    seen = await answered(clock, "openai", [
        (2.0, HEAD + framed(choice("a"), {"error": {"message": "lost"}}) + b"0\r\n\r\n")])
    assert "lost" in seen.error


async def test_a_status_is_an_error(clock):
    body = b'{"error": "no model"}'
    seen = await answered(clock, "openai", [
        (2.0, b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))])
    assert seen.error == 'status 404: {"error": "no model"}'


@pytest.mark.parametrize(("data", "error"), [
    (b"nonsense\r\n", "no HTTP"), (HEAD + framed(b"{nonsense") + b"0\r\n\r\n", "cannot be read"),
    (HEAD + b"0\r\n\r\n", "empty")])
async def test_what_is_no_answer_is_an_error(clock, data, error):
    assert error in (await answered(clock, "openai", [(2.0, data)])).error


async def test_a_lost_connection_is_an_error_and_the_next_request_makes_another(clock):
    connection = HttpConnection("localhost:1", DIALECTS["sse"].read)
    wire = connection._transport = Wire()
    running = asyncio.create_task(connection.run(b"request"))
    await wire.written.wait()
    connection.connection_lost(None)
    assert (await running).error == "the connection was closed"
    assert "no server answers at localhost:1" in (await connection.run(b"request")).error


def test_events_may_end_with_carriage_returns():
    pieces = [(1.0, b"data: a\r\n"), (2.0, b"\r\ndata:b\r\n\r\n"), (3.0, b": comment\n\n")]
    assert list(timed_events(pieces)) == [(1.0, b"a"), (2.0, b"b")]


@pytest.mark.parametrize(("backend", "field"), [
    ("triton-sse", "input_ids"), ("sse", "input_ids"), ("openai", "prompt"),
    ("openai-chat", "messages")])
def test_requests_say_what_is_asked(backend, field):
    load = dataclasses.replace(LOAD, backend=backend, api_key="secret")
    head, _, body = HttpClient(load).request(measured(load)[0]).partition(b"\r\n\r\n")
    said = json.loads(body)
    assert f"content-length: {len(body)}".encode() in head
    assert b"authorization: Bearer secret" in head
    assert (said["max_tokens"], said["ignore_eos"], said["temperature"]) == (5, True, 0)
    assert len(said[field]) == (1 if field == "messages" else 7)


def response(finish_reason, num_tokens):
    made = service_pb2.ModelStreamInferResponse()
    for name, raw in (("finish_reason", len(finish_reason).to_bytes(4, "little") + finish_reason),
                      ("num_input_tokens", (7).to_bytes(4, "little")),
                      ("num_output_tokens", num_tokens.to_bytes(4, "little"))):
        made.infer_response.outputs.add(name=name)
        made.infer_response.raw_output_contents.append(raw)
    return made


def test_a_grpc_stream_is_watched_to_its_end(clock):
    watch = ResponseWatch(started_s=0.5)
    for at_s, reason, num_tokens in ((1.0, b"", 3), (2.0, b"length", 5)):
        assert not watch.is_over
        clock.now_s = at_s
        watch.take(response(reason, num_tokens))
    seen = watch.seen()
    assert watch.is_over
    assert (seen.num_input_tokens, seen.num_output_tokens) == (7, 5)
    assert (seen.ttft_ms, seen.tpot_ms, seen.itl_ms) == (500, 250, [1000])


def test_an_error_ends_a_request():
    watch = ResponseWatch(started_s=0.0)
    watch.take(service_pb2.ModelStreamInferResponse(error_message="no"))
    assert (watch.is_over, watch.seen().error) == (True, "no")


def test_grpc_prompts_are_of_ids_or_of_text():
    [ids, *_] = inference_request(LOAD, Ask((1, 2, 3), 5)).inputs
    assert (ids.name, list(ids.shape)) == ("input_ids", [1, 3])
    text, length, *_ = inference_request(LOAD, Ask("abc", 5, cut_to=2)).inputs
    assert (text.name, length.name) == ("text_input", "truncate_prompt_tokens")


async def test_a_response_without_what_counts_is_an_error():
    class Call:
        async def write(self, _request): ...

        async def read(self):
            return service_pb2.ModelStreamInferResponse()
    stream = grpc_client.Stream(grpc.aio.insecure_channel("localhost:1"), "localhost:1")
    stream._call = Call()
    assert "no output 'num_output_tokens'" in (await stream.run(None)).error


async def test_a_server_that_is_not_there_is_told_in_a_line():
    stream = grpc_client.Stream(grpc.aio.insecure_channel("localhost:1"), "localhost:1")
    error = (await stream.run(service_pb2.ModelInferRequest())).error
    assert error.startswith("UNAVAILABLE: ")
    assert "\n" not in error

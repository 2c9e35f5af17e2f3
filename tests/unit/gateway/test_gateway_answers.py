"""Many requests over one gRPC stream, each with its own answer, error and end."""

import asyncio
import time
import tracemalloc
from contextlib import suppress

import pytest
from tests.drills.waiting import LIMIT_S, until
from tests.fakes.many_requests_triton import serve
from tests.fakes.triton_service import chunk, failure, tensors

from tritonlm.errors import InvalidArgument, Unavailable
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.connection import TritonConnection
from tritonlm.gateway.pieces import Piece, PieceReader, ask_for_pieces
from tritonlm.gateway.settings import GatewaySettings, ServerAddress
from tritonlm_client.requests import text_request


def request(text="Hi", **options):
    made = text_request("generate", text, options, True).as_protobuf()
    ask_for_pieces(made, is_several=options.get("n", 1) > 1, with_logprobs=False)
    return made


async def spell(request, send):
    """Answers with the letters of the prompt."""
    text = tensors(request)["text_input"][0][0].decode()
    for place, letter in enumerate(text):
        await asyncio.sleep(0)
        is_last = place == len(text) - 1
        send(chunk(letter, num_output_tokens=(place + 1,), is_final=is_last,
                   finish_reason="stop" if is_last else ""))


async def hang(request, send):
    send(chunk("a"))
    await asyncio.sleep(60)


async def text_of(answers):
    with answers:
        return "".join([piece.text async for pieces in answers for _, piece in pieces])


class Stream:
    """Where answers come from; the test puts them in."""

    def submit(self, request, sink):
        self.sink = sink

    def abandon(self, request):
        pass


class To:
    """The way to one stream."""

    def __init__(self, stream):
        self.stream = stream

    def begun(self, after_s):
        pass

    def failed(self, error):
        return False


@pytest.fixture
async def connect():
    made = []

    def connect(url, num_streams=1):
        made.append(TritonConnection(ServerAddress.parse(url),
                                     GatewaySettings(streams=num_streams)))
        return made[-1]
    yield connect
    for connection in made:
        await connection.close()


async def test_many_requests_share_a_stream_and_get_their_own_answers(connect):
    async with serve(spell) as server:
        connection = connect(server.url)
        texts = [f"answer number {i}" for i in range(50)]
        got = await asyncio.gather(*(text_of(Answers(To(connection.stream), [request(text)]))
                                     for text in texts))
        assert (got, server.num_streams) == (texts, 1)
        assert connection.num_unfinished == 0


async def test_several_prompts_are_told_apart(connect):
    async with serve(spell) as server:
        texts = {}
        answers = Answers(To(connect(server.url).stream), [request("first"), request("second")])
        async for pieces in answers:
            for prompt, piece in pieces:
                texts[prompt] = texts.get(prompt, "") + piece.text
        assert texts == {0: "first", 1: "second"}


async def test_streams_share_the_requests(connect):
    async with serve(hang) as server:
        connection = connect(server.url, num_streams=2)
        running = [Answers(To(connection.stream), [request()]) for _ in range(4)]
        await until(lambda: len(server.requests) == 4, "no requests")
        assert server.num_streams == 2
        for answers in running:
            answers.__exit__()


async def test_a_reader_that_is_behind_gets_pieces_joined(connect):
    async def many(request, send):
        for count in range(1, 6):
            send(chunk("ab", num_output_tokens=(count,), is_final=count == 5,
                       finish_reason="length" if count == 5 else ""))

    async with serve(many) as server:
        answers = Answers(To(connect(server.url).stream), [request()])
        await until(lambda: answers._num_unfinished == 0, "no end")
        assert [pieces async for pieces in answers] == [
            [(0, Piece("ab" * 5, "length", 1, 5))]]


async def test_what_waits_for_a_slow_reader_takes_no_more_room_than_its_text():
    stream = Stream()
    answers = Answers(To(stream), [request(n=2)])
    tracemalloc.start()
    for place in range(40_000):
        stream.sink(chunk("ab", num_output_tokens=(place,), sequence_index=place % 2), False)
    num_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_bytes < 2**21
    assert await answers.__anext__() == [
        (0, Piece("ab" * 20_000, "", 1, 39_998, 0)), (0, Piece("ab" * 20_000, "", 1, 39_999, 1))]


async def test_an_error_is_that_of_its_request_alone(connect):
    async def refuse_short(request, send):
        if len(tensors(request)["text_input"][0][0]) < 3:
            send(failure("INVALID_ARG: prompt: 'x' is not allowed; longer"))
        else:
            await spell(request, send)

    async with serve(refuse_short) as server:
        stream = connect(server.url).stream
        bad, good = Answers(To(stream), [request("x")]), Answers(To(stream), [request("long")])
        with pytest.raises(InvalidArgument, match="longer"):
            await text_of(bad)
        assert await text_of(good) == "long"


async def test_leaving_early_cancels_at_the_server(connect):
    async with serve(hang) as server:
        connection = connect(server.url)
        with Answers(To(connection.stream), [request(request_id="it")]) as answers:
            await answers.__anext__()
        await until(lambda: server.cancelled == ["it"], lambda: server.cancelled)
        await until(lambda: connection.num_unfinished == 0, "no end")


async def test_a_cancellation_that_comes_too_early_is_repeated(connect):
    async with serve(hang) as server:
        cancel, num_tries = server._cancel, []

        def late(request_id, send):
            num_tries.append(request_id)
            if len(num_tries) < 3:
                send(failure("NOT_FOUND: request_id: no request 'it' is running"))
            else:
                cancel(request_id, send)

        server._cancel = late
        with Answers(To(connect(server.url).stream), [request(request_id="it")]):
            pass
        await until(lambda: server.cancelled == ["it"], lambda: server.cancelled)


async def test_what_is_over_is_not_cancelled(connect):
    async with serve(spell) as server:
        connection = connect(server.url)
        assert await text_of(Answers(To(connection.stream), [request()])) == "Hi"
        assert await text_of(Answers(To(connection.stream), [request()])) == "Hi"
        assert server.cancelled == []


async def test_a_lost_server_ends_its_requests_and_is_found_again(connect):
    async with serve(hang) as server:
        url = server.url
        connection = connect(url)
        running = [Answers(To(connection.stream), [request()]) for _ in range(3)]
        for answers in running:
            await answers.__anext__()
        await server.stop()
        for answers in running:
            with pytest.raises(Unavailable, match="was lost"):
                await answers.__anext__()
        with pytest.raises(Unavailable):
            await text_of(Answers(To(connection.stream), [request()]))
    async with serve(spell, url):
        end_s, text = time.monotonic() + LIMIT_S, ""
        while not text and time.monotonic() < end_s:
            with suppress(Unavailable):
                text = await text_of(Answers(To(connection.stream), [request()]))
            await asyncio.sleep(0.05)
        assert text == "Hi"


def test_a_response_of_several_sequences_has_a_piece_of_each():
    told = chunk("a", finish_reason="stop", num_output_tokens=(3,)).infer_response
    other = chunk("bc", finish_reason="length", num_output_tokens=(4,), sequence_index=1)
    for place, raw in enumerate(other.infer_response.raw_output_contents):
        if told.outputs[place].name not in {"num_input_tokens", "chunk_index", "logprobs"}:
            told.raw_output_contents[place] += raw
    assert PieceReader().read(told) == [Piece("a", "stop", 1, 3, 0), Piece("bc", "length", 1, 4, 1)]


async def test_a_stream_on_which_nothing_runs_is_hung_up_and_opened_again(connect):
    async with serve(spell) as server:
        connection = connect(server.url)
        for number in range(1, 4):
            first, second = (Answers(To(connection.stream), [request(text)]) for text in "ab")
            assert await text_of(first) == "a"
            connection.hang_up()  # the second still runs
            assert await text_of(second) == "b"
            assert server.num_streams == number
            connection.hang_up()

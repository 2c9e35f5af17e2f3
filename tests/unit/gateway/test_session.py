"""What a WebSocket session keeps for a reader that is slow or lost."""

import asyncio

from tests.fakes.triton_service import chunk
from tests.unit.gateway.test_gateway_answers import Stream, To

from tritonlm.gateway.access import Caller
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.journal import Record
from tritonlm.gateway.session import MAX_KEPT_BYTES, MAX_UNSENT, Session
from tritonlm.gateway.upstream import Upstream
from tritonlm_client.requests import text_request


def started(session, name="a"):
    stream = Stream()
    session.run(Record(name, "GENERATE", "/ws", Upstream()),
                Answers(To(stream), [text_request("generate", "Hi", {}, True).as_protobuf()]),
                end=lambda: None)
    return stream


async def drain(session, after=0):
    """All messages that come without anything else happening."""
    messages, source = [], session.messages(after)
    while True:
        coming = asyncio.ensure_future(source.__anext__())
        await settle()
        if not coming.done():
            coming.cancel()
            return messages
        messages.append(coming.result())


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_pieces_for_a_slow_reader_are_joined():
    session = Session(Caller())
    stream = started(session)
    await settle()
    for _ in range(3 * MAX_UNSENT):
        stream.sink(chunk("x"), False)
        await settle()
    stream.sink(chunk("", finish_reason="stop"), True)
    messages = await drain(session)
    texts = [message.split('"text_output":"')[1].split('"')[0] for message in messages[:-1]]
    assert "".join(texts) == "x" * 3 * MAX_UNSENT
    assert len(messages) < MAX_UNSENT + 5
    assert len(session) == 0


async def test_what_was_sent_can_be_had_again_from_any_place():
    session = Session(Caller())
    stream = started(session)
    for _ in range(5):
        await settle()
        stream.sink(chunk("x"), False)
    first = await drain(session)
    assert len(first) == 5
    assert await drain(session, after=2) == first[2:]
    assert session.can_resume_after(5)
    assert not session.can_resume_after(6)


async def test_what_was_dropped_cannot():
    session = Session(Caller())
    stream = started(session)
    for _ in range(3):
        await settle()
        stream.sink(chunk("x" * (MAX_KEPT_BYTES // 2)), False)
    assert len(await drain(session)) == 3
    assert [session.can_resume_after(number) for number in range(4)] == [False, False, True, True]


async def test_a_bug_is_an_error_of_its_request(caplog):
    session = Session(Caller())
    stream = started(session)
    await settle()
    stream.sink(object(), True)
    [message] = await drain(session)
    assert "the gateway failed" in message
    assert len(session) == 0

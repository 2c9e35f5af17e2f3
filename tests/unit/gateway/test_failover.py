"""What is asked of a second server when the first one fails, and what is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.fakes.triton_service import chunk
from tests.unit.gateway.test_gateway_answers import request, text_of

from tritonlm.errors import Unavailable
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.fleet import FleetRoute

LOST = Unavailable("the server was lost")


class Stream:
    """Tells what is sent on it; the test says what comes of that."""

    def __init__(self, *outcomes):
        self.outcomes = outcomes
        self.num_requests = 0

    def submit(self, request, sink):
        self.num_requests += 1
        self.sink = sink
        for place, outcome in enumerate(self.outcomes, start=1):
            sink(outcome, place == len(self.outcomes))

    def cancel(self, request):
        """As a stream does whose request still waits for its model."""
        self.sink(Unavailable("it was cancelled"), True)

    def abandon(self, request):
        pass


class Way:
    """To one stream after the other."""

    def __init__(self, *streams):
        self.streams = list(streams)
        self.num_failures = 0

    @property
    def stream(self):
        return self.streams[0]

    def begun(self, after_s):
        pass

    def failed(self, error):
        self.num_failures += 1
        del self.streams[0]
        return bool(self.streams)


async def test_what_came_in_together_with_a_failure_is_not_told_twice():
    whole = Stream(chunk("The"), chunk(" cat", finish_reason="stop", is_final=True))
    assert await text_of(Answers(Way(Stream(chunk("The"), LOST), whole), [request()])) == "The cat"


async def test_a_failure_of_what_is_cancelled_is_no_failure_of_its_server():
    first, second = Stream(), Stream(chunk("The cat", finish_reason="stop", is_final=True))
    way = Way(first, second)
    answers = Answers(way, [request()])
    answers.cancel()
    with pytest.raises(Unavailable, match="it was cancelled"):
        await text_of(answers)
    assert (way.num_failures, second.num_requests) == (0, 0)


class Server:
    """A member of a fleet that counts what its health is told."""

    def __init__(self, *outcomes):
        self.connection = SimpleNamespace(stream=Stream(*outcomes))
        self.health = self
        self.num_begun = self.num_failures = 0

    def begin(self):
        self.num_begun += 1

    def begun(self, after_s):
        pass

    def failed(self):
        self.num_failures += 1


async def test_a_server_that_gets_no_request_has_no_trial():
    """After the first piece nothing is sent elsewhere."""
    first, second = Server(chunk("The")), Server()
    servers = iter([first, second])
    fleet = SimpleNamespace(choose=lambda *_, **__: next(servers))
    with Answers(FleetRoute(fleet, request(), "normal"), [request()]) as answers:
        await anext(answers)
        first.connection.stream.sink(LOST, True)
        with pytest.raises(Unavailable, match="lost"):
            await anext(answers)
    assert (first.num_begun, first.num_failures, second.num_begun) == (1, 1, 0)

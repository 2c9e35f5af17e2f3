"""The sending thread of a front end: every request ends once, whatever becomes of its engine."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from engine_peer import TIMEOUT_S, Peer
from tests.small_tokenizers import build_tokenizer
from transformers import PreTrainedTokenizerFast

from tritonlm.backend import session as session_module
from tritonlm.backend.admission import Admission
from tritonlm.backend.arrivals import Cancellation
from tritonlm.backend.generation import Answer, Generation
from tritonlm.backend.session import Session
from tritonlm.config import ModelConfig
from tritonlm.contract import FINISH_REASONS, MODELS, Prompt
from tritonlm.engine import messages
from tritonlm.engine.endpoint import Endpoint
from tritonlm.engine.messages import Cancel, CancelById, CancelReply, Ready, Submit
from tritonlm.options import Options
from tritonlm.text.encoding import Encoder

TOKENIZER = build_tokenizer("byte_level")
LIMITS = Ready(max_model_len=100, vocab_size=TOKENIZER.get_vocab_size())
OUTPUTS = [tensor.name for tensor in MODELS["generate"].outputs]
LENGTH = FINISH_REASONS.index("length")


class Ledger:
    """Stands for metrics and epilogue: how requests ended."""

    def __init__(self):
        self.endings = []

    def tell(self, answer, outcome, reason, generation=None, error=""):
        self.endings.append((outcome, reason))

    def __getattr__(self, _):
        return lambda *_, **__: None


class FrontEnd:
    """A session whose only engine is the test."""

    def __init__(self, folder, **settings):
        config = ModelConfig(model=str(folder), **settings)
        self.endpoint = Endpoint(folder)
        self.ledger = Ledger()
        keeper = SimpleNamespace(num_starts=1, note_ready=lambda: None, note_goodbye=lambda: None)
        self.session = Session(config, self.endpoint, [keeper], self.ledger, self.ledger)
        self._admission = Admission(config, Encoder(config))
        self.engine = self.next_engine(is_ready=False)
        self.session._thread.start()

    def next_engine(self, is_ready=True):
        self._said = deque()
        self.engine = Peer(self.endpoint.engine(0).address)
        if is_ready:
            assert self.engine.heard() == [messages.Hello()]
            self.engine.say(LIMITS)
        return self.engine

    def ask(self, **options):
        """Hand over a request; gives what its client gets."""
        request = pb_utils.InferenceRequest({}, outputs=OUTPUTS)
        answer = Answer(request, MODELS["generate"])
        self.session.put(self._admission.admit(answer, Prompt(text="The cat"),
                                               Options(**options), LIMITS))
        return request.sender

    def cancel(self, request_id):
        request = pb_utils.InferenceRequest({}, outputs=OUTPUTS)
        self.session.put(Cancellation(Answer(request, MODELS["generate"]), request_id))
        return request.sender

    def heard(self, kind):
        """The next message of that kind that the engine gets; others are passed over."""
        while True:
            while self._said:
                said = self._said.popleft()
                if isinstance(said, kind):
                    return said
            self._said.extend(self.engine.heard())

    def say_tokens(self, *news):
        """News are (key, token id, reason code)."""
        keys, token_ids, reasons = zip(*news, strict=True)
        self.engine.say(messages.Tokens(np.array(keys, np.int64).tobytes(),
                                        np.array(token_ids, np.int32).tobytes(),
                                        np.array(reasons, np.uint8).tobytes()))

    def lose_engine(self):
        self.engine.close()

    def stop(self):
        if self.session._thread.is_alive():
            self.session.stop()
            self.lose_engine()


@pytest.fixture
def start(tmp_path):
    """A front end with the given settings, whose engine is not ready yet."""
    PreTrainedTokenizerFast(tokenizer_object=TOKENIZER).save_pretrained(tmp_path)
    started = []

    def start(**settings):
        started.append(FrontEnd(tmp_path, **settings))
        return started[-1]

    yield start
    for front_end in started:
        front_end.stop()


@pytest.fixture
def front_end(start):
    """One with an engine that is ready."""
    front_end = start(drain_timeout_s=0)
    assert front_end.engine.heard() == [messages.Hello()]
    front_end.engine.say(LIMITS)
    wait(lambda: front_end.session._engines.num_ready)
    return front_end


def wait(is_so):
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def ending(sender):
    """Finish reason or error of the last response, once it is there."""
    wait(lambda: sender.is_final)
    last = sender.sent[-1]
    if last.has_error():
        return last.error().message()
    outputs = {tensor.name(): tensor.as_numpy() for tensor in last.output_tensors()}
    return outputs["finish_reason"].ravel()[-1].decode()


def test_a_request_goes_to_the_engine_and_its_tokens_come_back(front_end):
    client = front_end.ask(stream=True)
    key = front_end.heard(Submit).key
    front_end.say_tokens((key, 5, 0))
    wait(lambda: len(client.sent) == 1)
    front_end.say_tokens((key, 6, LENGTH))
    assert ending(client) == "length"
    assert front_end.ledger.endings == [("finished", "length")]


def test_what_was_in_flight_in_a_lost_engine_is_unavailable_and_what_waits_goes_to_the_next(
        front_end):
    lost = front_end.ask(stream=True)
    front_end.heard(Submit)
    front_end.lose_engine()
    assert ending(lost).startswith("UNAVAILABLE: the engine was lost")
    waits = front_end.ask()
    front_end.next_engine()
    front_end.say_tokens((front_end.heard(Submit).key, 5, LENGTH))
    assert ending(waits) == "length"
    assert front_end.ledger.endings == [("failed", "unavailable"), ("finished", "length")]


def test_a_deadline_holds_though_the_engine_hangs(front_end):
    client = front_end.ask(stream=True, timeout_ms=50)
    key = front_end.heard(Submit).key
    front_end.say_tokens((key, 5, 0))
    assert ending(client) == "deadline"
    assert front_end.heard(Cancel).key == key
    front_end.say_tokens((key, 6, LENGTH))  # it moves again, too late
    after = front_end.ask()
    front_end.say_tokens((front_end.heard(Submit).key, 5, LENGTH))
    assert ending(after) == "length"
    assert front_end.ledger.endings == [("finished", "deadline"), ("finished", "length")]


def test_an_engine_has_a_moment_to_end_what_is_overdue(front_end, monkeypatch):
    monkeypatch.setattr(session_module, "OVERDUE_S", TIMEOUT_S)
    client = front_end.ask(timeout_ms=1)
    key = front_end.heard(Submit).key
    time.sleep(3 * session_module.SWEEP_INTERVAL_S)
    assert not client.is_final
    front_end.say_tokens((key, -1, FINISH_REASONS.index("deadline")))
    assert ending(client) == "deadline"


def test_a_deadline_holds_while_there_is_no_engine(start):
    front_end = start(drain_timeout_s=0)
    assert ending(front_end.ask(timeout_ms=1)) == "deadline"
    assert front_end.ledger.endings == [("finished", "deadline")]


def test_a_request_that_waits_for_an_engine_is_cancelled_by_its_id(start):
    front_end = start(drain_timeout_s=0)
    waits, other = front_end.ask(request_id="mine"), front_end.ask(request_id="other")
    assert ending(front_end.cancel("mine")) == "cancelled"
    assert ending(waits) == "cancelled"
    assert ending(front_end.cancel("mine")).startswith("NOT_FOUND: request_id: ")
    assert not other.is_final
    assert front_end.ledger.endings == [
        ("finished", "cancelled"), ("finished", "cancel"), ("refused", "not_found")]


@pytest.mark.parametrize(("number", "expected"), [(2, "cancelled"), (0, "NOT_FOUND: ")])
def test_a_cancel_is_answered_with_what_the_engine_says(front_end, number, expected):
    client = front_end.cancel("mine")
    front_end.engine.say(CancelReply(front_end.heard(CancelById).key, number))
    assert ending(client).startswith(expected)


def test_a_cancel_that_a_lost_engine_was_asked_about_is_answered(front_end):
    client = front_end.cancel("mine")
    front_end.heard(CancelById)
    front_end.lose_engine()
    assert ending(client).startswith("NOT_FOUND: ")


def test_who_hangs_up_is_cancelled_in_the_engine(front_end):
    client = front_end.ask(stream=True)
    key = front_end.heard(Submit).key
    client.cancel()
    assert front_end.heard(Cancel).key == key
    assert ending(client) == "cancelled"


def test_a_full_front_end_turns_away_with_a_hint(start):
    front_end = start(max_unfinished_requests=2)
    held = front_end.ask(n=2)
    wait(lambda: len(front_end.session._generations) == 2)
    assert ending(front_end.ask()).endswith("retry in 1 s")
    assert not held.is_final
    assert front_end.ledger.endings == [("refused", "unavailable")]


def test_requests_fail_with_the_reason_why_no_engine_starts(start):
    front_end = start(drain_timeout_s=0)
    client = front_end.ask()
    front_end.endpoint.engine(0).write_failure("no GPU")
    assert ending(client) == "UNAVAILABLE: the engine cannot be started: no GPU"


def test_a_drain_lets_finish_turns_away_and_then_ends(start):
    front_end = start(drain_timeout_s=0.3)
    before = front_end.ask()
    front_end.session.drain(is_unload=False)
    refused = front_end.ask()
    assert ending(refused).startswith("UNAVAILABLE: the server is stopping")
    assert not before.is_final
    assert ending(before).startswith("UNAVAILABLE: the server is stopping")
    assert front_end.ledger.endings == [("refused", "unavailable"), ("failed", "unavailable")]


def test_a_session_that_stops_ends_all_that_it_has(start):
    front_end = start(drain_timeout_s=0)
    clients = [front_end.ask(stream=True), front_end.ask(n=3)]
    front_end.stop()
    assert all(ending(client).startswith("UNAVAILABLE: ") for client in clients)


def test_a_response_that_cannot_be_made_fails_its_request_alone(front_end, monkeypatch):
    deliver = Generation.deliver

    def deliver_or_fail(generation, metrics):
        if generation.options.request_id == "broken":
            raise RuntimeError("no memory")
        return deliver(generation, metrics)

    monkeypatch.setattr(Generation, "deliver", deliver_or_fail)
    clients = [front_end.ask(request_id=name) for name in ("broken", "whole")]
    keys = [front_end.heard(Submit).key, front_end.heard(Submit).key]
    front_end.say_tokens(*((key, 5, LENGTH) for key in keys))
    assert list(map(ending, clients)) == [
        "INTERNAL: internal error; the server's log says more", "length"]
    assert front_end.ledger.endings == [("failed", "internal"), ("finished", "length")]

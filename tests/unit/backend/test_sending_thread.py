"""The sending thread of a front end: every request ends once, whatever becomes of its engine."""

from __future__ import annotations

import time

import pytest
from engine_peer import TIMEOUT_S
from scripted_front_end import LENGTH, ending, wait
from triton_python_backend_utils import ResponseSender

from tritonlm.backend import session as session_module
from tritonlm.backend.generation import Generation
from tritonlm.contract import FINISH_REASONS
from tritonlm.engine.messages import Cancel, CancelById, CancelReply, Submit


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
    held = [front_end.ask(n=2), front_end.ask(n=2)]  # each counts once
    wait(lambda: front_end.ledger.num_unfinished == 2)
    assert ending(front_end.ask()).endswith("retry in 1 s")
    assert not any(client.is_final for client in held)
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


def test_what_the_engine_says_of_a_cancel_that_a_drain_has_ended_is_passed_over(
        front_end):
    client = front_end.cancel("mine")
    key = front_end.heard(CancelById).key
    front_end.session.drain(is_unload=False)
    assert ending(client).startswith("UNAVAILABLE: the server is stopping")
    front_end.engine.say(CancelReply(key, 1))
    assert ending(front_end.cancel("other")).startswith("UNAVAILABLE: ")  # the thread is alive


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


@pytest.mark.parametrize("ask", ["ask", "cancel"])
def test_an_error_that_cannot_be_sent_is_sent_when_it_can(start, monkeypatch, ask):
    """Nobody is left without an end, and the thread goes on."""
    send, tries = ResponseSender.send, []

    def send_or_fail(sender, *args, **kwargs):
        tries.append(sender)
        if tries.count(sender) < 3:
            raise RuntimeError("no shared memory")
        send(sender, *args, **kwargs)

    monkeypatch.setattr(ResponseSender, "send", send_or_fail)
    front_end = start(drain_timeout_s=0)
    front_end.endpoint.engine(0).write_failure("no GPU")
    client = front_end.ask() if ask == "ask" else front_end.cancel("mine")
    assert ending(client).startswith(("UNAVAILABLE: ", "NOT_FOUND: "))
    assert len(front_end.ledger.endings) == 1

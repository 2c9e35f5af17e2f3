"""Users take turns within a class."""

from __future__ import annotations

from itertools import pairwise

from arithmetic import make_engine, run_until_idle
from turns import long, order_of_first_tokens, short

HIGH = 1


def test_users_take_turns_in_a_class():
    engine = make_engine(num_rows=1)
    for key in range(10):
        engine.submit(0, short(key, user="ann"))
    for key in range(10, 13):
        engine.submit(0, short(key, user="bob"))
    order = order_of_first_tokens(engine)
    assert sorted(order.index(key) for key in range(10, 13)) == [1, 3, 5]
    assert [key for key in order if key < 10] == list(range(10))


def test_users_take_turns_for_rows_that_are_free_at_once():
    engine = make_engine(num_rows=4, num_blocks=60)
    for key in range(10):
        engine.submit(0, long(key, user="ann"))
    for key in range(10, 13):
        engine.submit(0, long(key, user="bob"))
    assert sorted(order_of_first_tokens(engine, num_steps=1)) == [0, 1, 10, 11]


def test_a_user_of_long_requests_gets_fewer_turns():
    engine = make_engine(num_rows=1)
    for key in range(4):
        engine.submit(0, long(key, user="ann"))
    for key in range(4, 24):
        engine.submit(0, short(key, user="bob"))
    order = order_of_first_tokens(engine)
    served = order.index(1), order.index(2)
    assert served[0] > 8
    assert served[1] - served[0] > 8


def test_a_user_who_comes_later_or_back_has_earned_nothing_by_it():
    engine = make_engine(num_rows=1)
    engine.submit(0, short(0, user="bob"))
    run_until_idle(engine)
    for key in range(1, 20):
        engine.submit(0, long(key, user="ann"))
    for _ in range(300):
        engine.step()
    for key in range(20, 30):
        engine.submit(0, long(key, user="bob"))
    order = order_of_first_tokens(engine, num_steps=300)
    users = ["bob" if key >= 20 else "ann" for key in order]
    assert len(users) > 6
    assert all(user != next_user for user, next_user in pairwise(users[1:]))


def test_a_class_goes_before_a_turn():
    engine = make_engine(num_rows=1)
    engine.submit(0, long(0, user="ann"))
    engine.step()
    engine.submit(0, short(1, user="bob"))
    engine.submit(0, short(2, user="ann", priority=HIGH))
    order = order_of_first_tokens(engine)
    assert order.index(2) < order.index(1)

"""Requests that compete for rows, and in which order they get them."""

from __future__ import annotations

from drive import Outcomes, submit


def long(key, **options):
    return submit(key, [8 + key % 20, 9, 10], 40, ignore_eos=True, **options)


def short(key, **options):
    return submit(key, [8 + key % 20, 11, 12], 2, ignore_eos=True, **options)


def order_of_first_tokens(engine, num_steps=2000, each_step=lambda number: None):
    outcomes, order = Outcomes(), []
    for number in range(num_steps):
        each_step(number)
        outcomes.gather(engine.step())
        order += [key for key in outcomes.token_ids if key not in order]
        if not engine.has_work:
            break
    return order

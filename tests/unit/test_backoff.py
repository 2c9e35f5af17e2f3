from tritonlm.backoff import MAX_PAUSE_S, STABLE_S, Backoff


def test_pauses_double_up_to_a_most_until_something_has_run_for_long():
    backoff = Backoff(4.0)
    assert [backoff.pause_s(ran_s=0) for _ in range(5)] == [4, 8, 16, MAX_PAUSE_S, MAX_PAUSE_S]
    assert backoff.pause_s(ran_s=STABLE_S + 1) == 4
    assert backoff.pause_s(ran_s=STABLE_S - 1) == 8

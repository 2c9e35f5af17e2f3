import json
import time

from tritonlm.backend.time_budget import TimeBudget


def test_the_spans_of_a_request():
    now_s = time.monotonic()
    budget = TimeBudget(received_s=now_s - 1)
    budget.begin(now_s - 0.9, now_s - 0.5, 32)
    budget.begin(now_s - 0.2, now_s - 0.1, 0)
    budget.last_token_s = now_s - 0.25
    budget.detokenize_s, budget.send_s = 0.002, 0.003
    told = json.loads(budget.to_json(48, 7))
    assert 1000 <= told.pop("total_ms") < 60_000
    assert told == {"queue_ms": 100, "prefill_ms": 400, "decode_ms": 250, "detokenize_ms": 2,
                    "send_ms": 3, "num_prompt_tokens": 48, "num_cached_tokens": 32,
                    "num_output_tokens": 7}


def test_what_did_not_happen_has_no_time():
    told = json.loads(TimeBudget().to_json(5, 0))
    assert [told[name] for name in ("queue_ms", "prefill_ms", "decode_ms")] == [None] * 3
    assert told["total_ms"] >= 0

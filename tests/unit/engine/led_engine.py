"""An engine with a follower, in a process of its own: `python led_engine.py CHECKPOINT SETTINGS`.

SETTINGS is a JSON object. It prints a line when it is built, then for each line of requests, which
is a JSON list of the arguments of `submit`, what came of them.
"""

from __future__ import annotations

import json
import sys

import torch
from drive import run_all, submit

from tritonlm.config import ModelConfig
from tritonlm.engine.tensor_parallel.leader import build_with_followers

torch.set_num_threads(1)
config = ModelConfig(sys.argv[1], device="cpu", max_num_seqs=8, max_num_batched_tokens=16,
                     kv_cache_gib=0.01, **json.loads(sys.argv[2]))
engine = build_with_followers(config, lambda line: None, place=0).engine
print("built", flush=True)
for line in sys.stdin:
    requests = [submit(key, **options) for key, options in enumerate(json.loads(line))]
    outcomes = run_all(engine, {0: requests})
    print(json.dumps([outcomes.token_ids, outcomes.reasons, outcomes.failures,
                      outcomes.logprobs]), flush=True)

"""The runner for a GPU, with its kernels, on whichever device there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drive import run_all, submit
from llguidance import LLTokenizer
from tests.checkpoints import SIZES, VOCAB_SIZE, save_random_model
from tests.small_tokenizers import build_tokenizer
from transformers import AutoModelForCausalLM

from tritonlm.config import ModelConfig
from tritonlm.engine.batch import build_batch
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.build import LAUNCHED_AHEAD, _check_attention, build_engine
from tritonlm.engine.compiled import CompiledSteps
from tritonlm.engine.engine import Engine
from tritonlm.engine.grammars import Grammars
from tritonlm.engine.last_layer import trim_last_layer
from tritonlm.engine.loading import load_model
from tritonlm.engine.merging import merge_projections
from tritonlm.engine.scheduler import Scheduler
from tritonlm.engine.table import RequestTable

pytest.importorskip("triton")

from tritonlm.engine import cuda_runner

NUM_BLOCKS = 40
PROMPTS = [np.random.default_rng(size).integers(3, VOCAB_SIZE, size).tolist()
           for size in (1, 17, 40, 3)]


class InstantEvent:
    """An event of a device that is done at once."""

    def record(self):
        pass

    def synchronize(self):
        pass


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("checkpoint"))


def config_of(checkpoint, max_num_seqs=4) -> ModelConfig:
    return ModelConfig(str(checkpoint), max_num_seqs=max_num_seqs, max_num_batched_tokens=24,
                       compile=True)


@pytest.fixture(scope="module")
def compiled_engine(checkpoint) -> Engine | None:
    """On a GPU."""
    return build_engine(config_of(checkpoint), print).engine if torch.cuda.is_available() else None


@pytest.fixture
def host(monkeypatch):
    """The calls that need a device, without one."""
    make_empty = torch.empty

    def unpinned(*sizes, pin_memory=False, **options):
        return make_empty(*sizes, **options)

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "Event", InstantEvent)
    monkeypatch.setattr(torch, "empty", unpinned)


def interpreted_runner(config: ModelConfig) -> cuda_runner.CudaRunner:
    model = load_model(config, print)
    merge_projections(model.module)
    trim_last_layer(model.module)
    table = RequestTable(config.max_num_seqs * (1 + LAUNCHED_AHEAD), model.max_model_len,
                         config.block_size, np.array(model.eos_ids, np.int32))
    return cuda_runner.CudaRunner(model, table, NUM_BLOCKS, config)


def interpreted_engine(
    checkpoint, steps_folder: Path | None = None, report=print, max_num_seqs=4
) -> Engine:
    """An engine of depth 1 whose kernels run in the interpreter, compiled if there is a folder."""
    config = config_of(checkpoint, max_num_seqs)
    runner = interpreted_runner(config)
    if steps_folder is not None:
        runner.compile(CompiledSteps(steps_folder, runner._model.module, report), list)
    return Engine(Scheduler(runner._table, BlockPool(NUM_BLOCKS), config), runner,
                  depth=LAUNCHED_AHEAD)


@pytest.fixture
def engine(checkpoint, compiled_engine, request):
    """On a GPU the compiled one."""
    if compiled_engine is not None:
        return compiled_engine
    request.getfixturevalue("host")
    return interpreted_engine(checkpoint)


def generate(checkpoint, prompt, max_tokens, **options):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                         max_new_tokens=max_tokens, pad_token_id=2, **options)
    return out[0, len(prompt):].tolist()


@pytest.mark.parametrize(("most", "expected"), [
    (1, [1]), (4, [1, 2, 4]), (12, [1, 2, 4, 8, 12]), (16, [1, 2, 4, 8, 16]),
    (50, [1, 2, 4, 8, 16, 32, 48, 50]),
])
def test_the_largest_graph_is_for_as_many_as_there_may_be(most, expected):
    assert cuda_runner._graph_sizes(most) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has no interpreter")
def test_a_model_is_checked_whatever_the_budget(checkpoint, host):
    config = ModelConfig(str(checkpoint), max_num_seqs=2, max_num_batched_tokens=2)
    runner = interpreted_runner(config)
    _check_attention(config, runner._model, runner.logits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has no interpreter")
def test_a_follower_computes_and_does_not_choose(checkpoint, host):
    """Its table is blank: what requests ask for is known to the leader."""
    runner = interpreted_runner(config_of(checkpoint))
    runner._group = SimpleNamespace(rank=1, share=lambda values: None)
    leaders = RequestTable(8, 64, 16, np.zeros(0, np.int32))
    leaders.num_tokens[0] = leaders.num_prompt[0] = 5
    leaders.sampling.num_prompt_logprobs[0] = 2
    batch = build_batch(leaders, np.zeros(1, np.int32), np.array([5], np.int32))
    assert batch.asked.size
    launched = runner.launch(batch)
    assert launched.tokens().size == 1
    assert not launched.logprobs


def test_greedy_output_in_changing_company_equals_generate(checkpoint, engine):
    requests = [submit(key, prompt, 8 - key) for key, prompt in enumerate(PROMPTS)]
    outcomes = run_all(engine, {0: requests[:2], 3: requests[2:]})
    for request in requests:
        expected = generate(checkpoint, request.prompt().tolist(), request.max_tokens)
        assert outcomes.token_ids[request.key] == expected


@pytest.mark.skipif(torch.cuda.is_available() or not shutil.which("g++"),
                    reason="a GPU's engine is compiled anyway; for a CPU torch needs g++")
def test_a_model_from_the_file_of_compiled_steps_equals_generate(checkpoint, host, tmp_path):
    said = []
    interpreted_engine(checkpoint, tmp_path, said.append, max_num_seqs=8)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.bin")}
    engine = interpreted_engine(checkpoint, tmp_path, said.append)
    requests = [submit(key, prompt, 3) for key, prompt in enumerate(PROMPTS[:2])]
    outcomes = run_all(engine, {0: requests[:1], 1: requests[1:]})
    for request in requests:
        assert outcomes.token_ids[request.key] == generate(
            checkpoint, request.prompt().tolist(), request.max_tokens)
    assert said == []
    assert {path.name.split("-")[0] for path in kept} == {"one", "many"}
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.bin")}


def test_penalties_see_the_token_that_is_still_on_the_device(checkpoint, engine):
    penalised = submit(0, PROMPTS[1], 8, repetition_penalty=1.8)
    outcomes = run_all(engine, {0: [penalised, submit(1, PROMPTS[2], 8)]})
    assert outcomes.token_ids[0] == generate(checkpoint, PROMPTS[1], 8, repetition_penalty=1.8)
    assert outcomes.token_ids[1] == generate(checkpoint, PROMPTS[2], 8)


def test_a_seed_gives_the_same_tokens_as_the_plain_runner(checkpoint, engine):
    requests = [submit(key, prompt, 6, temperature=1.0, seed=key, top_p=0.9)
                for key, prompt in enumerate(PROMPTS)]
    plain = build_engine(ModelConfig(str(checkpoint), device="cpu", kv_cache_gib=0.01), print)
    expected = run_all(plain.engine, {0: requests}).token_ids
    assert run_all(engine, {0: requests}).token_ids == expected


def test_the_held_and_the_free_share_a_batch(checkpoint, engine):
    """What is held gets a token in every second step, and what it would get by itself."""
    tokenizer = LLTokenizer(build_tokenizer("byte_level").to_str(),
                            eos_token=[SIZES["eos_token_id"]])
    regex, choice = ("guided_regex", "[ab]{2}c"), ("guided_choice", '["xy"]')
    options = {"temperature": 1.0, "max_tokens": 6}
    requests = [
        submit(0, PROMPTS[0], seed=3, guide=regex, **options),
        submit(1, PROMPTS[1], seed=4, **options),
        submit(2, PROMPTS[3], seed=5, guide=choice, num_logprobs=1, **options)]
    config = ModelConfig(str(checkpoint), device="cpu", kv_cache_gib=0.01)
    plain = build_engine(config, print).engine
    grammars = plain.scheduler._grammars = engine.scheduler._grammars = Grammars(lambda: tokenizer)
    for guide in (regex, choice):
        grammars.compile(guide).result()
    outcomes = run_all(engine, {0: requests[:2], 2: requests[2:]})
    assert outcomes.reasons == {0: "stop", 1: "length", 2: "stop"}
    assert re.fullmatch("[ab]{2}c", tokenizer.decode_str(outcomes.token_ids[0][:-1]))
    assert tokenizer.decode_str(outcomes.token_ids[2][:-1]) == "xy"
    for request in requests:
        alone = run_all(plain, {0: [request]})
        assert outcomes.token_ids[request.key] == alone.token_ids[request.key]
        assert outcomes.logprobs[request.key].keys() == alone.logprobs[request.key].keys()


def test_drawable_and_other_requests_share_a_batch(checkpoint, engine):
    """Penalised, measured and typical requests need more than the kernel that draws."""
    others = [{}, {"repetition_penalty": 1.8}, {"num_logprobs": 2, "num_prompt_logprobs": 1},
              {"temperature": 0.9, "typical_p": 0.8, "seed": 3}]
    requests = [submit(key, prompt, 7, **options)
                for key, (prompt, options) in enumerate(zip(PROMPTS, others, strict=True))]
    plain = build_engine(ModelConfig(str(checkpoint), device="cpu", kv_cache_gib=0.01), print)
    expected = run_all(plain.engine, {0: requests[:2], 2: requests[2:]})
    outcomes = run_all(engine, {0: requests[:2], 2: requests[2:]})
    assert outcomes.token_ids == expected.token_ids

"""A server whose engine shares its model with a follower."""

from __future__ import annotations

import asyncio

import pytest
import torch
import tritonclient.grpc.aio as grpcclient
from inference import responses, stream
from tests.drills.processes import running
from transformers import AutoModelForCausalLM, AutoTokenizer

from tritonlm.config import DEMO_CHECKPOINT

FOLLOWER = "tritonlm.engine.tensor_parallel.follower"
PROMPTS = [f"{name}:\nWhat" for name in ("ROMEO", "JULIET", "KING", "First Citizen")] * 4
MAX_TOKENS = 16


@pytest.fixture(scope="module")
def server(start_server):
    return start_server(tensor_parallel=2, front_ends=1)


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


def generate(prompt):
    """A greedy continuation by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=MAX_TOKENS)
    return out[0, ids["input_ids"].shape[1]:].tolist()


def followers(server):
    return running(server.run_dir, FOLLOWER)


async def test_streams_are_what_the_whole_model_says(server, client):
    expected = {prompt: generate(prompt) for prompt in set(PROMPTS)}
    got = await asyncio.gather(*(stream(client, "generate", {
        "text_input": prompt, "max_tokens": MAX_TOKENS, "temperature": 0.0, "stream": True,
    }) for prompt in PROMPTS))
    assert len(followers(server)) == 1
    for prompt, each in zip(PROMPTS, got, strict=True):
        assert (each.error, each.token_ids) == ("", expected[prompt])


async def test_a_lost_follower_ends_the_streams_and_the_next_request_works(server, client):
    short = {"text_input": "ROMEO:\n", "max_tokens": 8, "temperature": 0.0}
    before = await stream(client, "generate", short)
    answers = responses(client, "generate", short | {
        "max_tokens": 900, "ignore_eos": True, "stream": True})
    await anext(answers)
    [follower] = followers(server)
    follower.kill()
    assert "the engine was lost" in str([error async for _, error in answers][-1])
    after = await stream(client, "generate", short)
    assert (after.error, after.token_ids) == ("", before.token_ids)
    assert follower not in followers(server)

"""OpenAI's own SDK against the gateway; the reference is transformers.generate."""

from __future__ import annotations

import asyncio
import math

import openai
import pytest
import torch
from tests.integration.gateway import post
from transformers import AutoModelForCausalLM, AutoTokenizer

from tritonlm.config import DEMO_CHECKPOINT

MODEL = "generate"
CHAT = [{"role": "system", "content": "Speak."}, {"role": "user", "content": "Who goes there?"}]
PROMPTS = ["ROMEO:\n", "JULIET:\nO ", "First Citizen:\n"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def reference(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(DEMO_CHECKPOINT)

    def generate(ids, max_tokens):
        with torch.no_grad():
            output = model.generate(torch.tensor([ids]), max_new_tokens=max_tokens,
                                    do_sample=False)
        return output[0, len(ids):].tolist()
    return generate


@pytest.fixture(scope="module")
def chat_reference(tokenizer, reference):
    """Token ids of prompt and greedy answer."""
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    return ids, reference(ids, 24)


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_a_chat_is_what_transformers_makes_of_the_template(demo_sdk, tokenizer, chat_reference):
    prompt, expected = chat_reference
    answer = demo_sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                              max_completion_tokens=24)
    [choice] = answer.choices
    assert choice.message.content == text_of(tokenizer, expected)
    assert choice.message.role == "assistant"
    assert choice.finish_reason == ("length" if len(expected) == 24 else "stop")
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(expected)
    assert answer.usage.total_tokens == len(prompt) + len(expected)
    assert (answer.object, answer.model) == ("chat.completion", MODEL)


def test_a_streamed_chat_adds_up_to_the_same(demo_sdk, tokenizer, chat_reference):
    prompt, expected = chat_reference
    chunks = list(demo_sdk.chat.completions.create(
        model=MODEL, messages=CHAT, temperature=0, max_tokens=24, stream=True,
        stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert "".join(c.choices[0].delta.content for c in pieces) == text_of(tokenizer, expected)
    assert [c.choices[0].finish_reason for c in pieces][-1] == (
        "length" if len(expected) == 24 else "stop")
    assert pieces[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in pieces)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (len(prompt), len(expected))
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_include_usage_no_chunk_tells_of_it(demo_sdk):
    chunks = list(demo_sdk.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=4,
                                                   stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_completions_of_texts_and_of_ids_are_transformers_own(demo_sdk, tokenizer, reference):
    ids = [tokenizer.encode(prompt) for prompt in PROMPTS]
    expected = [text_of(tokenizer, reference(each, 12)) for each in ids]
    for prompt in (PROMPTS, ids):
        answer = demo_sdk.completions.create(model=MODEL, prompt=prompt, max_tokens=12,
                                             temperature=0)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    alone = demo_sdk.completions.create(model=MODEL, prompt=ids[0], max_tokens=12, temperature=0)
    assert alone.choices[0].text == expected[0]


def test_a_completion_has_sixteen_tokens_unless_asked(demo_sdk):
    answer = demo_sdk.completions.create(model=MODEL, prompt="ROMEO:",
                                         extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_streams_of_several_prompts_and_sequences_are_told_apart(demo_sdk):
    call = {"model": MODEL, "prompt": PROMPTS[:2], "max_tokens": 10, "n": 2, "seed": 5}
    whole = demo_sdk.completions.create(**call)
    texts = dict.fromkeys(range(4), "")
    for chunk in demo_sdk.completions.create(**call, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [choice.text for choice in whole.choices]
    assert len(set(texts.values())) == 4
    assert whole.usage.completion_tokens <= 40


def test_a_seed_repeats_and_sequences_follow_from_it(demo_sdk):
    call = {"model": MODEL, "messages": CHAT, "max_tokens": 12, "seed": 11}
    first, again = (demo_sdk.chat.completions.create(**call, n=2) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    second = demo_sdk.chat.completions.create(**{**call, "seed": 12})
    assert second.choices[0].message.content == texts[1]


def test_stop_texts_cut_and_are_told_of(demo_sdk, tokenizer, chat_reference):
    text = text_of(tokenizer, chat_reference[1])
    stop = text[5:8]
    answer = demo_sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                              max_tokens=24, stop=[stop])
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_bias_bans_a_token(demo_sdk, tokenizer, chat_reference):
    first = chat_reference[1][0]
    answer = demo_sdk.chat.completions.create(
        model=MODEL, messages=CHAT, temperature=0, max_tokens=1, logprobs=True,
        logit_bias={str(first): -100})
    [entry] = answer.choices[0].logprobs.content
    assert entry.token != tokenizer.decode([first])


def test_log_probabilities_of_a_chat(demo_sdk, tokenizer, chat_reference):
    answer = demo_sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                              max_tokens=5, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    assert [entry.token for entry in entries] == [
        tokenizer.decode([token]) for token in chat_reference[1][:5]]
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == (
        answer.choices[0].message.content)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_echo_of_ids_is_measured_for_each_sequence(demo_sdk, tokenizer, is_stream):
    ids = tokenizer.encode("ROMEO:\nI am the")[1:]  # the first of them has a text
    answer = demo_sdk.completions.create(model=MODEL, prompt=ids, max_tokens=2, n=2, seed=1,
                                         echo=True, logprobs=1, stream=is_stream)
    texts, tokens, offsets = {0: "", 1: ""}, {0: [], 1: []}, {0: [], 1: []}
    for part in answer if is_stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
            offsets[choice.index] += choice.logprobs.text_offset
    for index, text in texts.items():
        assert len(tokens[index]) == len(ids) + 2
        assert "".join(tokens[index]) == text
        assert [text[offset:].startswith(token) for token, offset in zip(
            tokens[index], offsets[index], strict=True)] == [True] * len(tokens[index])


def test_an_echo_with_log_probabilities_measures_the_prompt(demo_sdk, tokenizer, reference):
    prompt = "ROMEO:\nI am the"
    answer = demo_sdk.completions.create(model=MODEL, prompt=prompt, max_tokens=3, temperature=0,
                                         echo=True, logprobs=2)
    [choice] = answer.choices
    ids = tokenizer.encode(prompt)
    assert choice.text == prompt + text_of(tokenizer, reference(ids, 3))
    told = choice.logprobs
    assert len(told.tokens) == len(ids) + 3 == answer.usage.total_tokens
    assert told.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in told.token_logprobs[1:])
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    assert all(2 <= len(each) <= 3 for each in told.top_logprobs[1:])


def test_fields_that_openai_lacks_are_the_contracts(demo_sdk):
    first, second = (demo_sdk.completions.create(
        model=MODEL, prompt="ROMEO:", max_tokens=10, seed=seed,
        extra_body={"top_k": 1, "min_p": 0.0, "priority": "high", "ignore_eos": True})
        for seed in (1, 2))
    assert first.choices[0].text == second.choices[0].text  # top_k 1 is greedy


def test_a_deadline_ends_an_answer_and_is_told_of(demo_sdk):
    for timeout_ms in (100, 1000, 3000):  # a busy machine may not come to a token in the first
        answer = demo_sdk.completions.create(model=MODEL, prompt="ROMEO:", max_tokens=1000,
                                             extra_body={"timeout_ms": timeout_ms,
                                                         "ignore_eos": True})
        assert answer.choices[0].finish_reason == "deadline"
        if answer.usage.completion_tokens:
            break
    assert 0 < answer.usage.completion_tokens < 1000


def test_sixty_four_calls_at_once_with_asyncio_are_each_as_alone(demo_gateway, demo_sdk):
    alone = demo_sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                             max_tokens=16).choices[0].message.content

    async def streamed(sdk):
        stream = await sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                                   max_tokens=16, stream=True)
        return "".join([chunk.choices[0].delta.content async for chunk in stream])

    async def whole(sdk):
        answer = await sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                                   max_tokens=16)
        return answer.choices[0].message.content

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{demo_gateway}/v1", api_key="none") as sdk:
            return await asyncio.gather(*(streamed(sdk) for _ in range(32)),
                                        *(whole(sdk) for _ in range(32)))

    assert asyncio.run(all_at_once()) == [alone] * 64


def test_models_are_listed_by_all_their_names(demo_sdk):
    assert [model.id for model in demo_sdk.models.list()] == ["demo", "generate"]
    assert demo_sdk.models.retrieve("demo").id == "demo"
    answer = demo_sdk.completions.create(model="demo", prompt="ROMEO:", max_tokens=2)
    assert answer.model == "demo"


def test_an_unknown_model_is_not_found(demo_sdk):
    with pytest.raises(openai.NotFoundError, match=r"'gpt-9' does not exist.* there are: demo"):
        demo_sdk.chat.completions.create(model="gpt-9", messages=CHAT)
    with pytest.raises(openai.NotFoundError):
        demo_sdk.models.retrieve("gpt-9")


def test_parts_of_a_text_are_put_together(demo_sdk):
    parts = [{"type": "text", "text": "Who goes "}, {"type": "text", "text": "there?"}]
    whole, split = (demo_sdk.chat.completions.create(
        model=MODEL, messages=[CHAT[0], {"role": "user", "content": content}], temperature=0,
        max_tokens=8) for content in (CHAT[1]["content"], parts))
    assert split.choices[0].message.content == whole.choices[0].message.content


def test_an_answer_can_be_sent_back_as_it_is(demo_sdk):
    answer = demo_sdk.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=4)
    again = demo_sdk.chat.completions.create(
        model=MODEL, max_tokens=4,
        messages=[*CHAT, answer.choices[0].message, {"role": "user", "content": "Go on."}])
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens


def test_tokens_there_and_back(demo_gateway, tokenizer):
    text = "O Romeo, Romeo! Ω"
    status, told = post(f"{demo_gateway}/tokenize", {"model": MODEL, "prompt": text})
    assert (status, told["tokens"]) == (200, tokenizer.encode(text))
    assert told["count"] == len(told["tokens"])
    assert post(f"{demo_gateway}/detokenize", {"model": MODEL, "tokens": told["tokens"]}) == (
        200, {"prompt": text})
    status, told = post(f"{demo_gateway}/tokenize", {"model": MODEL, "messages": CHAT})
    assert told["tokens"] == tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_dict=False)


def test_log_probabilities_are_finite(demo_sdk):
    answer = demo_sdk.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=4,
                                              logprobs=True, top_logprobs=20)
    assert all(math.isfinite(each.logprob) for entry in answer.choices[0].logprobs.content
               for each in entry.top_logprobs)

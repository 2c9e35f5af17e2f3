"""Requests in a front end: what the engine is asked for, and the responses to what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from tests.small_tokenizers import build_tokenizer
from transformers import PreTrainedTokenizerFast

from tritonlm.backend.admission import Admission
from tritonlm.backend.generation import Answer
from tritonlm.backend.logprobs import LEAST_LOGPROB
from tritonlm.backend.metrics import FrontEndMetrics
from tritonlm.config import ModelConfig
from tritonlm.contract import FINISH_REASONS, MODELS, Prompt
from tritonlm.engine.messages import Ready
from tritonlm.errors import InvalidArgument
from tritonlm.options import Options
from tritonlm.text.encoding import Encoder

TOKENIZER = build_tokenizer("byte_level")
OUTPUTS = [tensor.name for tensor in MODELS["generate"].outputs]
LIMITS = Ready(max_model_len=100, vocab_size=TOKENIZER.get_vocab_size())
LENGTH, STOP = FINISH_REASONS.index("length"), FINISH_REASONS.index("stop")
FIRST_KEY = 41
PROMPT = Prompt(text="The cat")
METRICS = FrontEndMetrics("generate", "generate_0", "generate")
THE, CAT, SAT, ON = (TOKENIZER.encode(text, add_special_tokens=False).ids[0]
                     for text in ("The", " cat", " sat", " on"))


@pytest.fixture(scope="module")
def admission(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=TOKENIZER).save_pretrained(folder)
    config = ModelConfig(model=str(folder), default_max_tokens=10, max_sequences=5)
    return Admission(config, Encoder(config))


@pytest.fixture
def begin(admission):
    def begin(outputs=OUTPUTS, **options):
        request = pb_utils.InferenceRequest({}, outputs=outputs)
        answer = Answer(request, MODELS["generate"])
        generation = admission.admit(answer, PROMPT, Options(**options), LIMITS)
        generation.enter(FIRST_KEY)
        return generation, request.sender

    return begin


def said(sender):
    """The outputs of each response, as lists."""
    return [{tensor.name(): tensor.as_numpy()[0].tolist() for tensor in response.output_tensors()}
            for response in sender.sent]


def take(generation, *news):
    """News are (sequence, token id, reason code)."""
    for index, token_id, reason in news:
        generation.take(FIRST_KEY + index, token_id, reason)
    return generation.deliver(METRICS)


def test_sequences_differ_in_key_and_seed_and_measure_the_prompt_once(begin):
    generation, _ = begin(n=3, seed=2**64 - 2, logprobs=1, prompt_logprobs=2, request_id="r")
    submits = generation.submissions()
    assert [submit.key for submit in submits] == [41, 42, 43]
    assert [submit.seed for submit in submits] == [2**64 - 2, 2**64 - 1, 0]
    assert [submit.num_prompt_logprobs for submit in submits] == [2, -1, -1]
    assert {submit.num_logprobs for submit in submits} == {1}
    assert {submit.request_id for submit in submits} == {"r"}


def test_a_request_without_a_seed_gets_any(begin):
    seeds = {submit.seed for _ in range(4) for submit in begin(n=2)[0].submissions()}
    assert len(seeds) == 8


def test_options_reach_the_engine(begin):
    generation, _ = begin(
        typical_p=0.5, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=-0.5,
        min_tokens=3, logit_bias=((5, 1.0),), bad_words=("cat",), priority="low", user="ann")
    [submit] = generation.submissions()
    assert (submit.typical_p, submit.repetition_penalty, submit.presence_penalty,
            submit.frequency_penalty, submit.min_tokens) == (0.5, 1.5, 0.5, -0.5, 3)
    assert (submit.priority, submit.user, submit.logit_bias) == (3, "ann", ((5, 1.0),))
    assert (CAT,) in submit.banned
    assert len(submit.banned) == 2


@pytest.mark.parametrize(("limits", "options", "message"), [
    ({"max_output_tokens": 5}, {"max_tokens": 6}, "^max_tokens: 6 .* 1 to max_output_tokens, 5"),
    ({"max_output_tokens": 5}, {"min_tokens": 6}, "^min_tokens: 6 .* 0 to max_tokens, 5"),
    ({"max_prompt_tokens": 1}, {}, "^prompt: '3 tokens' .* 1 to max_prompt_tokens, 1"),
    ({"max_sequences": 2}, {"n": 3}, "^n: 3 .* 1 to max_sequences, 2"),
])
def test_a_server_may_allow_less_than_the_model_can_do(admission, limits, options, message):
    tight = Admission(replace(admission._config, **limits), admission._encoder)
    answer = Answer(pb_utils.InferenceRequest({}, outputs=OUTPUTS), MODELS["generate"])
    with pytest.raises(InvalidArgument, match=message):
        tight.admit(answer, PROMPT, Options(**options), LIMITS)


def test_max_tokens_is_by_default_within_what_the_server_allows(admission):
    tight = Admission(replace(admission._config, max_output_tokens=5), admission._encoder)
    answer = Answer(pb_utils.InferenceRequest({}, outputs=OUTPUTS), MODELS["generate"])
    generation = tight.admit(answer, PROMPT, Options(), LIMITS)
    generation.enter(FIRST_KEY)
    assert generation.submissions()[0].max_tokens == 5


def test_chunks_of_a_stream_are_one_sequence_each(begin):
    generation, sender = begin(n=2, stream=True)
    take(generation, (0, THE, 0), (1, SAT, 0))
    take(generation, (1, CAT, LENGTH))
    assert not sender.is_final
    take(generation, (0, CAT, LENGTH))
    assert sender.is_final
    assert [(one["sequence_index"], one["chunk_index"], one["text_output"], one["finish_reason"],
             one["num_output_tokens"]) for one in said(sender)] == [
        ([0], [0], [b"The"], [b""], [1]), ([1], [0], [b" sat"], [b""], [1]),
        ([1], [1], [b" cat"], [b"length"], [2]), ([0], [1], [b" cat"], [b"length"], [2])]


def test_sequences_that_end_together_have_one_final_response(begin):
    generation, sender = begin(n=3, stream=True)
    take(generation, *((index, THE, LENGTH) for index in range(3)))
    assert sender.is_final
    assert [one["sequence_index"] for one in said(sender)] == [[0], [1], [2]]


def test_without_stream_all_sequences_are_in_one_response(begin):
    generation, sender = begin(n=2)
    take(generation, (0, THE, 0), (1, SAT, LENGTH))
    assert not sender.sent
    take(generation, (0, CAT, LENGTH))
    [answer] = said(sender)
    assert answer["text_output"] == [b"The cat", b" sat"]
    assert answer["output_ids"] == [THE, CAT, SAT]
    assert answer["num_output_tokens"] == [2, 1]
    assert answer["chunk_index"] == [0]
    assert answer["num_input_tokens"] == [len(TOKENIZER.encode("The cat").ids)]
    assert answer["detokenize_num_ids"] == [2, 1]
    assert answer["detokenize_span"] == [0, 7, 0, 4]


def test_a_stop_text_ends_its_sequence_at_the_engine_and_no_other(begin):
    generation, sender = begin(n=2, stop=(" sat",))
    assert take(generation, (0, SAT, 0), (1, THE, 0)) == [FIRST_KEY]
    assert take(generation, (0, ON, 0), (1, ON, LENGTH)) == []
    [answer] = said(sender)
    assert answer["text_output"] == [b"", b"The on"]
    assert answer["finish_reason"] == [b"stop", b"length"]
    assert answer["output_ids"] == [SAT, THE, ON]


def test_a_stop_text_waits_for_min_tokens(begin):
    generation, sender = begin(stop=(" sat",), min_tokens=2)
    assert take(generation, (0, SAT, 0)) == []
    assert take(generation, (0, CAT, 0), (0, SAT, 0)) == [FIRST_KEY]
    assert said(sender)[0]["text_output"] == [b" sat cat"]


def test_what_is_over_keeps_its_reason(begin):
    generation, sender = begin(n=2)
    take(generation, (0, THE, LENGTH))
    generation.end("cancelled")
    generation.deliver(METRICS)
    assert said(sender)[0]["finish_reason"] == [b"length", b"cancelled"]


def measured(generation, index, position, *entries):
    ids, values = zip(*entries, strict=True)
    generation.sequence(FIRST_KEY + index).logprobs.take(
        position, np.array(ids, np.int32), np.array(values, np.float32))


def test_each_token_is_measured_in_its_response(begin):
    generation, sender = begin(logprobs=1, stream=True)
    num_prompt = len(TOKENIZER.encode("The cat").ids)
    measured(generation, 0, num_prompt, (SAT, -0.25), (SAT, -0.25), (THE, -3.0))
    take(generation, (0, SAT, 0))
    measured(generation, 0, num_prompt + 1, (ON, -math.inf), (CAT, -0.5), (THE, -1.0))
    take(generation, (0, ON, LENGTH))
    sat = {"token": " sat", "id": SAT, "logprob": -0.25, "bytes": list(b" sat")}
    cat = {"token": " cat", "id": CAT, "logprob": -0.5, "bytes": list(b" cat")}
    on = {"token": " on", "id": ON, "logprob": LEAST_LOGPROB, "bytes": list(b" on")}
    assert [json.loads(one["logprobs"][0]) for one in said(sender)] == [
        {"content": [{**sat, "top_logprobs": [sat]}]},
        {"content": [{**on, "top_logprobs": [cat]}]}]


def test_a_prompt_is_measured_once_even_if_it_was_computed_twice(begin):
    generation, sender = begin(prompt_logprobs=0, stream=True, n=2)
    ids = TOKENIZER.encode("The cat").ids
    for _ in range(2):
        for position in range(1, len(ids)):
            measured(generation, 0, position, (ids[position], -1.0))
    take(generation, (1, SAT, 0), (0, SAT, 0))
    take(generation, (1, SAT, LENGTH), (0, SAT, LENGTH))
    told = [json.loads(one["logprobs"][0]) for one in said(sender)]
    [prompt] = [one["prompt"] for one in told if "prompt" in one]
    assert prompt[0] is None
    assert [entry["id"] for entry in prompt[1:]] == ids[1:]
    assert "prompt" in told[0]
    assert said(sender)[0]["sequence_index"] == [0]


def test_a_request_that_ends_before_its_prompt_is_measured_says_so(begin):
    generation, sender = begin(prompt_logprobs=0)
    generation.end("deadline")
    generation.deliver(METRICS)
    assert set(json.loads(said(sender)[0]["logprobs"][0])["prompt"]) == {None}


def test_who_asks_for_no_log_probabilities_gets_an_empty_tensor(begin):
    generation, sender = begin()
    take(generation, (0, SAT, LENGTH))
    [logprobs] = [tensor.as_numpy() for tensor in sender.sent[0].output_tensors()
                  if tensor.name() == "logprobs"]
    assert logprobs.shape == (1, 0)


@pytest.mark.parametrize(("options", "message"), [
    ({"n": 6}, "n: 6 is not allowed; allowed: 1 to max_sequences, 5"),
    ({"min_tokens": 11}, "min_tokens: 11 is not allowed; allowed: 0 to max_tokens, 10"),
    ({"min_tokens": 3, "max_tokens": 2}, "min_tokens: 3 is not allowed"),
    ({"max_tokens": 100}, "max_tokens: 100 is not allowed"),
    ({"logit_bias": ((LIMITS.vocab_size, 1.0),)}, f"logit_bias: {LIMITS.vocab_size} is not"),
    ({"bad_words": ("a", "é" * 20)}, "bad_words: 'éééé"),
])
def test_what_the_model_cannot_do_is_refused(begin, options, message):
    with pytest.raises(InvalidArgument) as info:
        begin(**options)
    assert info.value.message.startswith(message)

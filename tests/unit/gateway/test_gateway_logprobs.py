import json

import pytest

from tritonlm.gateway.openai.logprobs import CompletionLogprobs, chat_logprobs


def entry(text, logprob=-1.0, alternatives=()):
    raw = text if isinstance(text, bytes) else text.encode()
    return {"token": raw.decode(errors="replace"), "id": 7, "logprob": logprob, "bytes": list(raw),
            "top_logprobs": list(alternatives)}


def told(content, prompt=None):
    return json.dumps({"content": content} | ({} if prompt is None else {"prompt": prompt}))


def test_offsets_count_characters_over_pieces():
    record = CompletionLogprobs(0, "", [])
    first = record.read(told([entry("ab"), entry(b"\xce")]), "ab")
    second = record.read(told([entry(b"\xa9"), entry("c")]), "Ωc")
    assert (first["text_offset"], second["text_offset"]) == ([0, 2], [2, 3])


@pytest.mark.parametrize("prompt", ["The cat", None])
def test_the_first_token_of_an_echo_is_what_the_others_leave(prompt):
    record = CompletionLogprobs(0, prompt, [])
    got = record.read(told([entry("!")], [None, entry(" cat")]), "The cat!")
    assert got["tokens"] == ["The", " cat", "!"]
    assert got["token_logprobs"] == [None, -1.0, -1.0]
    assert got["text_offset"] == [0, 3, 7]


def test_an_echo_of_one_id_is_what_the_output_leaves():
    got = CompletionLogprobs(0, None, []).read(told([entry("!")], [None]), "The!")
    assert (got["tokens"], got["text_offset"]) == (["The", "!"], [0, 3])


def test_each_sequence_of_a_prompt_has_its_echo():
    first, second = (CompletionLogprobs(0, None, echoed) for echoed in [[]] for _ in range(2))
    first.read(told([entry("!")], [None, entry(" cat")]), "The cat!")
    got = second.read(told([entry("?")]), "The cat?")
    more = second.read(told([entry("!")]), "!")
    assert (got["tokens"], got["text_offset"]) == (["The", " cat", "?"], [0, 3, 7])
    assert (more["tokens"], more["text_offset"]) == (["!"], [8])


def test_the_token_itself_is_among_its_alternatives():
    got = CompletionLogprobs(1, "", []).read(told([entry("a", -3.0, [entry("b", -0.1)])]), "a")
    assert got["top_logprobs"] == [{"b": -0.1, "a": -3.0}]


def test_a_token_that_was_not_measured_is_left_out():
    assert chat_logprobs(told([entry("a"), None]))["content"] == [
        {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}]


def test_no_log_probabilities_make_an_empty_list():
    assert chat_logprobs("") == {"content": [], "refusal": None}


def test_an_echo_that_was_cut_short_before_it_was_measured_has_no_entries():
    record = CompletionLogprobs(1, "The cat", [])
    assert record.read(told([], [None, None, None]), "The cat")["tokens"] == []

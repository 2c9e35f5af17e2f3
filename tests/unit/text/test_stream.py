from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small_tokenizers import BYTE_TOKENS, CORPUS, KINDS, SPECIAL_TOKENS, build_tokenizer

from tritonlm.text.stream import MAX_WINDOW_IDS, TextStream

MAX_EXAMPLES = 60
build = cache(build_tokenizer)
every_kind = pytest.mark.parametrize("kind", KINDS)


def ids_of(kind, tokens):
    return [build(kind).token_to_id(token) for token in tokens]


def decode(kind, ids):
    return build(kind).decode(list(ids), skip_special_tokens=True)


def open_stream(kind, stop=(), include_stop=False, prompt_ids=(), num_early_ids=0):
    return TextStream(lambda ids: decode(kind, ids), stop, include_stop, prompt_ids=prompt_ids,
                      byte_ids=frozenset(ids_of(kind, BYTE_TOKENS)),
                      num_early_ids=num_early_ids,
                      special_ids=frozenset(ids_of(kind, SPECIAL_TOKENS)))


def push_all(stream, pushes):
    return [stream.push(ids, i == len(pushes) - 1) for i, ids in enumerate(pushes)]


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def cut_at_stop(text, stop, include_stop, early_end=0):
    """The reference: the stop text that starts first, the shortest of those, if it ends late."""
    starts = sorted((start, len(s)) for s in stop for start in range(len(text))
                    if text.startswith(s, start) and start + len(s) > early_end)
    if not starts:
        return text
    start, length = starts[0]
    return text[:start + length] if include_stop else text[:start]


@st.composite
def sequences(draw, kind):
    """Ids that mix pieces of real text with any ids at all, and a split of them into pushes."""
    texts = st.sampled_from([*CORPUS, "👍🏽 東京 ￿é", "\n\n\n", "   ", "����a"]).map(
        lambda text: build(kind).encode(text, add_special_tokens=False).ids)
    pieces = texts.flatmap(lambda ids: st.tuples(
        st.just(ids), st.integers(0, len(ids)), st.integers(0, len(ids)))).map(
        lambda cut: cut[0][min(cut[1:]):max(cut[1:])])
    anything = st.lists(st.integers(0, build(kind).get_vocab_size() - 1), max_size=8)
    repeated = st.tuples(st.integers(0, build(kind).get_vocab_size() - 1),
                         st.integers(1, 40)).map(lambda pair: [pair[0]] * pair[1])
    parts = draw(st.lists(st.one_of(pieces, anything, repeated), max_size=8))
    ids = [i for part in parts for i in part]
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=len(ids))))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


@st.composite
def stop_texts(draw, text):
    """Pieces of `text`, which will be found, and texts that may not be."""
    position = st.integers(0, len(text))
    pieces = st.tuples(position, st.integers(1, 8)).map(lambda p: text[p[0]:p[0] + p[1]])
    return draw(st.lists(st.one_of(pieces, st.text("the cat\ufffd", min_size=1, max_size=4)),
                         max_size=4).map(lambda stops: [stop for stop in stops if stop]))


@every_kind
@settings(max_examples=MAX_EXAMPLES)
@given(data=st.data())
def test_the_chunks_are_the_text_up_to_the_first_stop(kind, data):
    pushes = data.draw(sequences(kind))
    full = decode(kind, [i for ids in pushes for i in ids])
    stop = data.draw(stop_texts(full))
    include_stop = data.draw(st.booleans())
    chunks = push_all(open_stream(kind, stop, include_stop), pushes)
    assert text_of(chunks) == cut_at_stop(full, stop, include_stop)
    assert chunks[-1].is_stopped == any(s in full for s in stop)


@every_kind
@settings(max_examples=MAX_EXAMPLES)
@given(data=st.data())
def test_as_many_ids_are_used_as_it_takes_to_stop_one_by_one(kind, data):
    pushes = data.draw(sequences(kind))
    ids = [i for push in pushes for i in push]
    stop = data.draw(stop_texts(decode(kind, ids)))
    one_by_one = open_stream(kind, stop)
    expected = next((n for n, i in enumerate(ids, 1) if one_by_one.push([i], False).is_stopped),
                    len(ids))
    num_used = 0
    for chunk in push_all(open_stream(kind, stop), pushes):
        num_used += chunk.num_ids
        if chunk.is_stopped:
            break
    assert num_used == expected


@every_kind
@settings(max_examples=MAX_EXAMPLES)
@given(data=st.data())
def test_a_chunk_is_decoded_from_its_window_alone(kind, data):
    for chunk in push_all(open_stream(kind), data.draw(sequences(kind))):
        start, end = chunk.span
        assert chunk.window.dtype == np.int32
        assert decode(kind, chunk.window)[start:end] == chunk.text


@every_kind
@settings(max_examples=MAX_EXAMPLES)
@given(data=st.data())
def test_a_prompt_comes_first_and_is_not_searched(kind, data):
    prompt, *pushes = data.draw(sequences(kind).filter(lambda pushes: len(pushes) > 1))
    prompt = prompt + build(kind).encode("cat", add_special_tokens=False).ids
    full = decode(kind, [*prompt, *(i for ids in pushes for i in ids)])
    end = len(decode(kind, prompt))
    stop = data.draw(stop_texts(full))
    chunks = push_all(open_stream(kind, stop, prompt_ids=prompt), pushes)
    assert text_of(chunks) == full[:end] + cut_at_stop(full[end:], stop, include_stop=False)


@every_kind
@settings(max_examples=MAX_EXAMPLES)
@given(data=st.data())
def test_stop_texts_that_end_in_early_ids_do_not_count(kind, data):
    pushes = data.draw(sequences(kind))
    place = data.draw(st.integers(0, len(pushes)))
    pushes.insert(place, build(kind).encode("cat", add_special_tokens=False).ids)
    early = [i for ids in pushes[:place + 1] for i in ids]
    full = decode(kind, [i for ids in pushes for i in ids])
    stop = data.draw(stop_texts(full))
    expected = cut_at_stop(full, stop, False, early_end=len(decode(kind, early)))
    if data.draw(st.booleans()):
        pushes = [[i] for ids in pushes for i in ids] + [[]]
    chunks = push_all(open_stream(kind, stop, num_early_ids=len(early)), pushes)
    assert text_of(chunks) == expected


def test_a_stop_text_that_begins_in_an_early_id_counts():
    the, cat, sat = ids_of("word_piece", ["the", "cat", "sat"])
    stream = open_stream("word_piece", stop=["cat sat", "cat", "the"], num_early_ids=2)
    chunks = push_all(stream, [[the, cat], [sat], [cat], []])
    assert (text_of(chunks), chunks[1].is_stopped) == ("the ", True)


def test_an_emoji_of_several_tokens_is_held_back_until_whole():
    ids = build("byte_level").encode("a👍b", add_special_tokens=False).ids
    stream = open_stream("byte_level")
    assert len(ids) == 6
    assert [stream.push([i], False).text for i in ids] == ["a", "", "", "", "👍", "b"]


def test_byte_tokens_are_held_back_while_the_next_one_may_spoil_them():
    a, *thumb, end = ids_of("byte_fallback", ["a", *(f"<0x{b:02X}>" for b in "👍".encode()), "t"])
    stream = open_stream("byte_fallback")
    assert [stream.push([i], False).text for i in (a, *thumb, end)] == ["a", "", "", "", "", "👍t"]
    stream = open_stream("byte_fallback")
    assert push_all(stream, [[a], thumb, thumb[:1]])[-1].text == "�" * 5


def test_a_special_token_between_two_bytes_does_not_part_them():
    first, second = ids_of("byte_fallback", ["<0xC3>", "<0xA9>"])
    [special] = ids_of("byte_fallback", ["</s>"])
    stream = open_stream("byte_fallback")
    assert text_of(push_all(stream, [[first], [special], [second], []])) == "é"


def test_what_is_held_back_is_flushed_by_an_empty_final_push():
    ids = build("byte_level").encode("👍", add_special_tokens=False).ids
    stream = open_stream("byte_level", stop=["<end>"])
    assert stream.push(ids[:-1], False).text == ""
    assert stream.push([], True).text == "�"


def test_a_stop_text_over_several_pushes_never_leaks():
    ids = build("byte_level").encode("sat on the mat", add_special_tokens=False).ids
    stream = open_stream("byte_level", stop=["on the mat"])
    chunks = [stream.push([i], False) for i in ids]
    assert text_of(chunks) == "sat "
    assert [chunk.is_stopped for chunk in chunks][-2:] == [False, True]


def test_the_start_of_a_stop_text_is_delivered_once_it_goes_on_otherwise():
    stream = open_stream("word_piece", stop=["the cat"])
    the, dog = ids_of("word_piece", ["the", "dog"])
    assert [stream.push([i], False).text for i in (the, dog)] == ["", "the dog"]


def test_a_stop_text_that_starts_earlier_wins_over_one_that_is_complete_earlier():
    ids = build("byte_level").encode("on the mat", add_special_tokens=False).ids
    stream = open_stream("byte_level", stop=["the", "n the mat"])
    assert text_of(stream.push([i], False) for i in ids) == "o"


def test_after_a_stop_text_nothing_is_delivered():
    the, cat = ids_of("word_piece", ["the", "cat"])
    stream = open_stream("word_piece", stop=["the"], include_stop=True)
    assert stream.push([the, cat], False)[::3] == ("the", True)
    assert stream.push([cat], True)[::3] == ("", True)


@pytest.mark.parametrize(("kind", "token"), [
    ("byte_level", "a"), ("byte_level", "Ġcat"), ("byte_level", "ï"), ("byte_level", "į"),
    ("byte_level", "</s>"), ("byte_fallback", "▁"), ("byte_fallback", "cat"),
    ("byte_fallback", "</s>"), ("metaspace", "▁"), ("metaspace", "cat"),
    ("word_piece", "cat"), ("word_piece", "##at"), ("word_piece", "</s>"),
])
def test_the_work_of_a_push_does_not_grow_with_the_text(kind, token):
    lengths = []
    stream = TextStream(lambda ids: lengths.append(len(ids)) or decode(kind, ids),
                        stop=["aab", "cats"], special_ids=ids_of(kind, SPECIAL_TOKENS))
    for _ in range(500):
        stream.push(ids_of(kind, [token]), False)
    assert max(lengths) <= MAX_WINDOW_IDS + 1

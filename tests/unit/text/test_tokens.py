import pytest
from tests.small_tokenizers import CORPUS, build_tokenizer
from tokenizers import pre_tokenizers

from tritonlm.text.tokens import BYTE_LEVEL, TokenTexts


def token_texts(kind):
    tokenizer = build_tokenizer(kind)
    return tokenizer, TokenTexts(
        tokenizer.id_to_token, lambda ids: tokenizer.decode(list(ids)),
        tokenizer.encode("a", add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "metaspace"])
@pytest.mark.parametrize("text", [*CORPUS, "naïve 👍🏽 東京!"])
def test_the_bytes_of_the_tokens_are_those_of_their_text(kind, text):
    tokenizer, texts = token_texts(kind)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    raw = b"".join(texts[i].raw for i in ids)
    assert raw.decode().lstrip(" ") == text.lstrip(" ")


@pytest.mark.parametrize(("kind", "token", "text", "raw"), [
    ("byte_level", "Ġthe", " the", b" the"), ("byte_level", "Ã", "\ufffd", b"\xc3"),
    ("byte_level", "</s>", "</s>", b"</s>"), ("byte_fallback", "▁t", " t", b" t"),
    ("byte_fallback", "<0xC3>", "\ufffd", b"\xc3"), ("byte_fallback", "<0x0A>", "\n", b"\n"),
    ("metaspace", "▁t", " t", b" t"), ("word_piece", "##at", "at", b"at"),
])
def test_a_token_has_its_space_and_its_bytes(kind, token, text, raw):
    tokenizer, texts = token_texts(kind)
    assert texts[tokenizer.token_to_id(token)] == (text, raw)


def test_an_id_outside_the_vocabulary_has_no_text():
    assert token_texts("byte_level")[1][10**6] == ("", b"")


def test_the_alphabet_is_that_of_the_tokenizers_library():
    assert set(BYTE_LEVEL) == set(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    [(written, _)] = split.pre_tokenize_str("é👍東\n\t \x7f")
    assert bytes(BYTE_LEVEL[char] for char in written).decode() == "é👍東\n\t \x7f"

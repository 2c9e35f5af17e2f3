import threading

import numpy as np
import pytest
from tests.small_tokenizers import KINDS, build_tokenizer
from transformers import PreTrainedTokenizerFast

from tritonlm.config import ModelConfig
from tritonlm.contract import Prompt
from tritonlm.errors import InvalidArgument
from tritonlm.text.encoding import Encoder

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<s>{{ message.role }}: {{ message.content + '' }}</s>"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def open_encoder(tmp_path_factory):
    def open_kind(kind="byte_level", chat_template=CHAT_TEMPLATE, change=lambda tokenizer: None):
        tokenizer = build_tokenizer(kind)
        change(tokenizer)
        folder = tmp_path_factory.mktemp(kind)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                chat_template=chat_template).save_pretrained(folder)
        return Encoder(ModelConfig(model=str(folder)))
    return open_kind


@pytest.fixture(scope="module")
def encoder(open_encoder):
    return open_encoder()


def chat(role, content="Hi"):
    return Prompt(messages=({"role": role, "content": content},))


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_gets_the_tokenizers_special_tokens(open_encoder, kind):
    ids = open_encoder(kind).encode(Prompt(text="The cat sat"))
    assert ids.dtype == np.int32
    assert ids.tolist() == build_tokenizer(kind).encode("The cat sat").ids
    assert ids[0] == build_tokenizer(kind).token_to_id("<s>")


def test_messages_have_the_special_tokens_of_their_template_only(encoder):
    ids = encoder.encode(chat("user", "The cat"))
    expected = build_tokenizer("byte_level").encode("<s>user: The cat</s>assistant:",
                                            add_special_tokens=False)
    assert ids.tolist() == expected.ids


def test_ids_are_returned_as_they_are(encoder):
    ids = np.array([5, 6], np.int32)
    assert encoder.encode(Prompt(ids=ids)) is ids


@pytest.mark.parametrize(("prompt", "reason"), [
    (chat("tool"), "no tools here"),
    (chat("user", 7), "template"),
    (chat("user", "\ud83d"), "surrogates"),
])
def test_messages_that_the_template_refuses_are_the_callers_error(encoder, prompt, reason):
    with pytest.raises(InvalidArgument, match=f"messages: .*{reason}"):
        encoder.encode(prompt)


def test_tools_reach_a_template_that_takes_them_and_no_other(open_encoder, encoder):
    prompt = Prompt(messages=chat("user").messages, tools=({"name": "cat"},))
    with_tools = open_encoder(chat_template="{% for tool in tools %}{{ tool.name }}{% endfor %}")
    assert with_tools.decode(with_tools.encode(prompt).tolist()) == "cat"
    with pytest.raises(InvalidArgument, match=r"tools: .*chat template takes none"):
        encoder.encode(prompt)


def test_messages_need_a_chat_template(open_encoder):
    encoder = open_encoder(chat_template=None)
    with pytest.raises(InvalidArgument, match=r"messages: .*no chat template; use text_input"):
        encoder.encode(chat("user"))


def test_a_text_without_tokens_is_refused(open_encoder):
    encoder = open_encoder("word_piece", change=drop_special_tokens)
    with pytest.raises(InvalidArgument, match=r"text_input: ' ' .*at least one token"):
        encoder.encode(Prompt(text=" "))


def test_a_bad_prompt_does_not_fail_the_others(encoder):
    prompts = [Prompt(text="The cat"), chat("tool"), chat("user"), Prompt(ids=np.array([1])),
               Prompt(text="sat")]
    results = encoder.encode_batch(prompts)
    assert isinstance(results[1], InvalidArgument)
    for i in (0, 2, 3, 4):
        np.testing.assert_array_equal(results[i], encoder.encode(prompts[i]))


def test_decoding_leaves_special_tokens_out_and_spaces_alone(encoder):
    ids = encoder.encode(Prompt(text="  The cat , didn 't"))
    assert encoder.decode(ids.tolist()) == "  The cat , didn 't"


@pytest.mark.parametrize(("kind", "tokens"), [
    ("byte_fallback", ["<0xC3>", "</s>", "<0xA9>", "a"]), ("byte_level", ["Ã", "©", "<s>", "a"]),
])
def test_its_streams_know_byte_tokens_and_special_tokens(open_encoder, kind, tokens):
    stream = open_encoder(kind).open_stream(stop=["a"])
    ids = [build_tokenizer(kind).token_to_id(token) for token in tokens]
    chunks = [stream.push([i], False) for i in ids]
    assert "".join(chunk.text for chunk in chunks) == "é"
    assert chunks[-1].is_stopped


def test_a_tokenizers_own_truncation_is_off(open_encoder):
    encoder = open_encoder(change=lambda tokenizer: tokenizer.enable_truncation(4))
    assert encoder.encode(Prompt(text="The cat sat on the mat")).size > 4


def test_other_threads_go_on_while_a_long_text_is_encoded(encoder):
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    encoder.encode(Prompt(text="The cat sat on the mat. " * 20_000))
    done.set()
    thread.join()
    assert len(ticks) > 20


@pytest.mark.parametrize("content", [None, "{}", "not JSON"])
def test_a_checkpoint_without_a_usable_tokenizer_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InvalidArgument, match=r"model: .*must have a tokenizer") as info:
        Encoder(ModelConfig(model=str(tmp_path)))
    assert "\n" not in info.value.message


def drop_special_tokens(tokenizer):
    tokenizer.post_processor = None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text", "word"), [
    ("The cat sat", "cat"), ("T(cat sat", "cat"), ("T\ncat sat", " cat"),
])
def test_a_text_is_spelled_as_inside_other_text(open_encoder, kind, text, word):
    encoder = open_encoder(kind)
    ids = tuple(encoder.encode(Prompt(text=text)).tolist())
    spellings = encoder.spellings(word)
    assert 1 <= len(spellings) <= 2
    assert any(ids[start : start + len(spelling)] == spelling
               for spelling in spellings for start in range(len(ids)))


def test_a_text_of_spaces_has_a_spelling(encoder):
    assert encoder.spellings("  ")


def test_tokens_have_texts(encoder):
    ids = encoder.encode(Prompt(text="naïve cats")).tolist()
    assert b"".join(encoder.token_texts[i].raw for i in ids) == "<s>naïve cats".encode()

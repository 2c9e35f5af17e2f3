"""Prompts to token ids and back, as the checkpoint's own tokenizer has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tritonlm.config import ModelConfig
from tritonlm.contract import Prompt
from tritonlm.errors import InvalidArgument
from tritonlm.text.stream import Ids, TextStream
from tritonlm.text.tokens import BYTE_TOKENS, TokenTexts

JINJA_CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
JINJA_TEXT = re.compile(r"""'[^']*'|"[^"]*\"""")


class Encoder:
    """The tokenizer of a checkpoint. Methods may be called from several threads at once."""

    def __init__(self, config: ModelConfig) -> None:
        """Load the tokenizer; raises `InvalidArgument` if `config.model` has no usable one."""
        self._tokenizer = _load(config)
        # The first call may change the tokenizer (it takes its own truncation off); now no other
        # thread uses it.
        self._tokenize([""], add_special_tokens=True)
        vocab = self._tokenizer.get_vocab()
        added = self._tokenizer.added_tokens_decoder.items()
        self._byte_ids = frozenset(vocab[token] for token in BYTE_TOKENS.keys() & vocab.keys())
        self._special_ids = frozenset(i for i, token in added
                                      if token.special and not self.decode([i]))
        anchor = self._tokenizer.encode("a", add_special_tokens=False)
        self.token_texts = TokenTexts(self._tokenizer.convert_ids_to_tokens, self.decode, anchor)

    def encode(self, prompt: Prompt) -> NDArray[np.int32]:
        """Token ids [n], n > 0, of a prompt; raises `InvalidArgument`.

        A text gets the tokenizer's special tokens; messages have those of their chat template.
        """
        [result] = self.encode_batch([prompt])
        if isinstance(result, InvalidArgument):
            raise result
        return result

    def encode_batch(
        self, prompts: Sequence[Prompt]
    ) -> list[NDArray[np.int32] | InvalidArgument]:
        """For each prompt what `encode` returns or raises; the texts are encoded together."""
        results: dict[int, NDArray[np.int32] | InvalidArgument] = {}
        texts: dict[int, str] = {}
        for i, prompt in enumerate(prompts):
            try:
                if prompt.ids is None:
                    texts[i] = self._text(prompt)
                else:
                    results[i] = prompt.ids
            except InvalidArgument as error:
                results[i] = error
        for is_chat in (False, True):
            group = [i for i in texts if (prompts[i].messages is not None) == is_chat]
            ids = self._tokenize([texts[i] for i in group], add_special_tokens=not is_chat)
            results |= zip(group, ids, strict=True)
        return [_require_tokens(prompt, results[i]) for i, prompt in enumerate(prompts)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out and spaces left as they are."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True,
                                           clean_up_tokenization_spaces=False)
        return text

    def open_stream(
        self, stop: Sequence[str] = (), include_stop: bool = False, prompt_ids: Ids = (),
        num_early_ids: int = 0,
    ) -> TextStream:
        """A stream of the text of ids that are yet to come; see `TextStream`."""
        return TextStream(self.decode, stop, include_stop, byte_ids=self._byte_ids,
                          special_ids=self._special_ids, prompt_ids=prompt_ids,
                          num_early_ids=num_early_ids)

    def spellings(self, text: str) -> tuple[tuple[int, ...], ...]:
        """How the tokenizer spells `text` inside other text, after a space and without one."""
        bare = text.lstrip(" ") or text
        spelled = (tuple(self._inner_ids(variant)) for variant in (" " + bare, bare))
        return tuple(dict.fromkeys(ids for ids in spelled if ids))

    def _inner_ids(self, text: str) -> list[int]:
        """The ids of `text` when it does not come first: then it may get a space of its own."""
        alone, before, both = self._tokenize([text, "\n", "\n" + text], add_special_tokens=False)
        is_apart = np.array_equal(both[: before.size], before)
        ids: list[int] = (both[before.size :] if is_apart else alone).tolist()
        return ids

    def _text(self, prompt: Prompt) -> str:
        if prompt.text is not None:
            return prompt.text
        messages = list(prompt.messages or ())
        if not self._tokenizer.chat_template:
            reason = "this model has no chat template; use text_input"
            raise InvalidArgument("messages", messages, reason)
        tools = list(prompt.tools) or None
        if tools and not _takes_tools(self._tokenizer.get_chat_template(tools=tools)):
            raise InvalidArgument("tools", tools, "this model's chat template takes none")
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False,
                                                            add_generation_prompt=True)
            text.encode()
        # A template is a program of the checkpoint: what it cannot handle may raise anything.
        except Exception as error:
            reason = f"the model's chat template refuses it: {_first_line(error)}"
            raise InvalidArgument("messages", messages, reason) from error
        return text

    def _tokenize(self, texts: list[str], add_special_tokens: bool) -> list[NDArray[np.int32]]:
        if not texts:
            return []
        encoding = self._tokenizer(texts, add_special_tokens=add_special_tokens, verbose=False,
                                   return_attention_mask=False, return_token_type_ids=False)
        return [np.array(ids, np.int32) for ids in encoding["input_ids"]]


def _takes_tools(template: str) -> bool:
    """Whether a chat template reads the variable `tools`; most that do not would ignore them."""
    code = "".join(JINJA_CODE.findall(template))
    return re.search(r"\btools\b", JINJA_TEXT.sub("", code)) is not None


def _load(config: ModelConfig) -> Any:
    try:
        return AutoTokenizer.from_pretrained(config.model, revision=config.revision)
    # Missing, malformed and unknown files raise anything, from OSError to Rust's bare Exception.
    except Exception as error:
        needed = f"it must have a tokenizer that transformers loads: {_first_line(error)}"
        raise InvalidArgument("model", config.model, needed) from error


def _require_tokens(
    prompt: Prompt, result: NDArray[np.int32] | InvalidArgument
) -> NDArray[np.int32] | InvalidArgument:
    if isinstance(result, InvalidArgument) or result.size:
        return result
    field, value = ("messages", prompt.messages) if prompt.messages else ("text_input", prompt.text)
    return InvalidArgument(field, value, "it must have at least one token")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]

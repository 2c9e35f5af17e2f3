"""Texts and pairs to rows of token ids, as the checkpoint's own tokenizer has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.encoders.config import PLACES, QWEN3_RERANKER, RerankConfig
from tritonlm.encoders.rows import Ids, Item, Row
from tritonlm.errors import InvalidArgument

QUERY, DOCUMENT = PLACES


class RowEncoder:
    """The tokenizer of a checkpoint, and what a row may be; one thread uses it at a time."""

    def __init__(self, checkpoint: Checkpoint, template: str | None = None) -> None:
        """With a `template`, pairs become one text; raises `InvalidArgument`."""
        self.tokenizer = checkpoint.tokenizer()
        self.max_row_len = checkpoint.max_row_len(self.tokenizer)
        self._vocab_size = checkpoint.text_config.vocab_size
        self._num_types = getattr(checkpoint.text_config, "type_vocab_size", 0)
        self._truncate = checkpoint.settings.truncate
        sentence = checkpoint.read_json("sentence_bert_config.json")
        self._is_lower_case = bool(sentence.get("do_lower_case"))
        self._template = None if template is None else _split(template)
        self._tokenize([("",)])  # the first call may change the tokenizer's own truncation
        if self._template is not None:
            self._check_room(self._template)

    def encode(self, items: Sequence[Item]) -> list[Row | InvalidArgument]:
        """The row of each item, or why there is none; the texts are encoded together."""
        texts = [item for item in items if not isinstance(item, Row)]
        rows = iter(self._rows(texts) if texts else [])
        return [self._checked(item if isinstance(item, Row) else next(rows)) for item in items]

    def _check_room(self, template: tuple[str, ...]) -> None:
        """Raise `InvalidArgument` if the template leaves none for a query and a document."""
        ids = self.tokenizer("".join(template), add_special_tokens=False)["input_ids"]
        if len(ids) >= self.max_row_len:
            raise InvalidArgument("max_model_len", self.max_row_len,
                                  f"the prompt template alone has {len(ids)} tokens")

    def _rows(self, texts: Sequence[tuple[str, ...]]) -> list[Row]:
        if self._is_lower_case:
            texts = [tuple(text.lower() for text in row) for row in texts]
        return self._tokenize(texts) if self._template is None else self._fill(texts)

    def _fill(self, pairs: Sequence[tuple[str, ...]]) -> list[Row]:
        """Rows by the template; one that is too long loses the end of its document."""
        assert self._template is not None
        before, between, after = self._template
        end = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        bodies = self.tokenizer([f"{before}{query}{between}{document}"
                                 for query, document in pairs],
                                add_special_tokens=False, verbose=False)["input_ids"]
        num_kept = self.max_row_len - len(end) if self._truncate else None
        return [Row(np.array([*body[:num_kept], *end], np.int32)) for body in bodies]

    def _tokenize(self, texts: Sequence[tuple[str, ...]]) -> list[Row]:
        options: dict[str, Any] = {"truncation": False}
        if self._truncate:
            options = {"truncation": True, "max_length": self.max_row_len}
        encoding = self.tokenizer(*map(list, zip(*texts, strict=True)), **options,
                                  return_attention_mask=False, verbose=False)
        types = encoding.get("token_type_ids") or [None] * len(texts)
        return [Row(np.array(ids, np.int32), own and np.array(own, np.int32))
                for ids, own in zip(encoding["input_ids"], types, strict=True)]

    def _checked(self, row: Row) -> Row | InvalidArgument:
        if not 1 <= row.ids.size <= self.max_row_len:
            return InvalidArgument("num_input_tokens", row.ids.size,
                                   f"allowed: 1 to {self.max_row_len} tokens")
        refusal = _beyond("input_ids", row.ids, self._vocab_size)
        if refusal is None and row.type_ids is not None and self._num_types:  # else they are unused
            refusal = _beyond("token_type_ids", row.type_ids, self._num_types)
        return refusal or row


def _beyond(name: str, ids: Ids, size: int) -> InvalidArgument | None:
    """The first of `ids` that an embedding of that size has not, refused: it would fail others."""
    bad = ids[(ids < 0) | (ids >= size)]
    return InvalidArgument(name, int(bad[0]), f"allowed: 0 to {size - 1}") if bad.size else None


def pair_encoder(checkpoint: Checkpoint) -> RowEncoder:
    """For queries and documents, as the checkpoint's kind wants them."""
    assert isinstance(checkpoint.settings, RerankConfig)
    usual = QWEN3_RERANKER if checkpoint.is_causal else None
    return RowEncoder(checkpoint, checkpoint.settings.prompt_template or usual)


def _split(template: str) -> tuple[str, str, str]:
    """What stands before the query, between it and the document, and after that."""
    before, _, rest = template.partition(QUERY)
    between, _, after = rest.partition(DOCUMENT)
    return before, between, after

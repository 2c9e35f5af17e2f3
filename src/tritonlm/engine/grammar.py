"""What holds the text of an answer: a grammar, and how far a request has come in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par
from numpy.typing import NDArray

from tritonlm.errors import InvalidArgument

Guide = tuple[str, str]
"""One of `options.GUIDES`, and its text."""
WORD_BITS = 32
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
"""The defaults, which bound a mask to some 15 ms, and less memory."""
SILENT = 0


class Grammar:
    """The state of one request in its grammar."""

    def __init__(self, guide: Guide, matcher: LLMatcher, vocab_size: int) -> None:
        self._guide = guide
        self._matcher = matcher
        self._vocab_size = vocab_size

    @classmethod
    def compile(cls, guide: Guide, source: str, tokenizer: LLTokenizer) -> Grammar:
        """The beginning of the grammar that `guide` is and the library calls `source`."""
        matcher = LLMatcher(tokenizer, source, log_level=SILENT, limits=LIMITS)
        return cls(guide, matcher, tokenizer.vocab_size)

    @property
    def error(self) -> InvalidArgument | None:
        """Why the grammar is of no more use; None while it is."""
        return refusal(self._guide, self._matcher.get_error()) if self._matcher.is_error() else None

    def copy(self) -> Grammar:
        """The same state for another request."""
        return Grammar(self._guide, self._matcher.deep_copy(), self._vocab_size)

    def accept(self, token_id: int) -> None:
        """The request goes on with `token_id`, which its mask allows."""
        self._matcher.consume_token(token_id)

    @staticmethod
    def masks(grammars: Sequence[Grammar]) -> NDArray[np.int32]:
        """What each of n grammars allows next, a bit a token: int32 [n, vocabulary / 32].

        An end of sequence is allowed exactly where the grammar is complete.
        """
        num_words = -(-grammars[0]._vocab_size // WORD_BITS)
        masks = np.zeros((len(grammars), num_words), np.int32)
        matchers = [(grammar._matcher, place) for place, grammar in enumerate(grammars)]
        fill_next_token_bitmask_par(_executor(), matchers, masks)
        return masks


def refusal(guide: Guide, reason: str) -> InvalidArgument:
    """The error of a guide that is no usable grammar."""
    return InvalidArgument(*guide, " ".join(reason.replace("<non-verbose/>", "").split()))


@cache
def _executor() -> LLExecutor:
    """Threads that make the masks of a step."""
    return LLExecutor()

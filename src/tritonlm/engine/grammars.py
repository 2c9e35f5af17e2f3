"""The grammars that answers are held to: compiled beside the engine's steps, and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from llguidance import LLTokenizer

from tritonlm.engine.grammar import Grammar, Guide, refusal
from tritonlm.engine.grammar_trial import STACK_BYTES, Trial

NUM_COMPILERS = 4
"""Grammars that are compiled at once: a slow one holds up none of the next three."""
NUM_KEPT = 64


class Grammars:
    """Compiles each grammar once, while it is among the `NUM_KEPT` that were used last."""

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer]) -> None:
        """`make_tokenizer` is called once, with the first grammar; it may raise `ValueError`."""
        self._make_tokenizer = make_tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._local = threading.local()
        self._compilers = ThreadPoolExecutor(NUM_COMPILERS, "grammars")
        self._kept: OrderedDict[Guide, Future[Grammar]] = OrderedDict()

    def compile(self, guide: Guide) -> Future[Grammar]:
        """The beginning of a grammar, to be copied; it is there soon, or `InvalidArgument`.

        Who needs it no more may cancel it.
        """
        if guide not in self._kept or self._kept[guide].cancelled():
            threading.stack_size(4 * STACK_BYTES)  # of the compilers, which are started here
            self._kept[guide] = self._compilers.submit(self._compile, guide)
            threading.stack_size(0)
            if len(self._kept) > NUM_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(guide)
        return self._kept[guide]

    def _compile(self, guide: Guide) -> Grammar:
        if not hasattr(self._local, "trial"):
            self._local.trial = Trial()
        source = self._local.trial.source(guide)
        with self._lock:
            try:
                self._tokenizer = self._tokenizer or self._make_tokenizer()
            except ValueError as error:
                raise refusal(guide, str(error)) from error
        grammar = Grammar.compile(guide, source, self._tokenizer)
        if grammar.error:
            raise grammar.error
        return grammar

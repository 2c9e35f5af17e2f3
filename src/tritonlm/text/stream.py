"""A growing sequence of token ids in, its text out: each character once, when it is certain.

The text of a token depends on its neighbours: a character may be spread over several tokens,
and the first token of a sequence may lose its space. So ids are decoded in a window of recent
ids, and what of the window's text was delivered before is left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonlm.text.stops import find_partial_stop, find_stop

MAX_WINDOW_IDS = 16
TAIL_IDS = 6
"""Ids that stay as context when a window has grown too long."""
REPLACEMENT = "\ufffd"

Ids = Sequence[int] | NDArray[np.int32]


class Chunk(NamedTuple):
    """Text to deliver, and how a decoder comes to the same text from ids alone."""

    text: str
    window: NDArray[np.int32]
    """Ids [n] with `decode(window)[span[0]:span[1]] == text`; empty where the text is."""
    span: tuple[int, int]
    is_stopped: bool
    """A stop text was found: this is the last text."""
    num_ids: int
    """How many of the pushed ids were used: all, or those up to the end of the stop text."""


class TextStream:
    """The text of one sequence, chunk by chunk.

    The texts of all chunks together are `decode(all ids)` up to the first stop text, however the
    ids are spread over the pushes. `stop` has no empty texts. `byte_ids` are the tokens of single
    bytes of a vocabulary with byte fallback, `special_ids` those that `decode` leaves out;
    `Encoder.open_stream` knows both. The text of `prompt_ids` comes before all else, and may hold
    stop texts. So may that of the first `num_early_ids` pushed ids: a stop text counts if it ends
    after them.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        include_stop: bool = False,
        *,
        byte_ids: Container[int] = (),
        special_ids: Container[int] = (),
        prompt_ids: Ids = (),
        num_early_ids: int = 0,
    ) -> None:
        self._decode = decode
        self._stop = stop
        self._include_stop = include_stop
        self._byte_ids = byte_ids
        self._special_ids = special_ids
        self._num_delivered = 0
        self._is_stopped = False
        self._pending: list[int] = []
        """Byte tokens at the end that have to wait."""
        self._window, self._pending = self._settle(_as_list(prompt_ids))
        self._prompt_end = len(_certain(decode(self._window)))
        self._num_early_ids = num_early_ids
        self._early_end = 0

    def push(self, ids: Ids, is_final: bool) -> Chunk:
        """Take the next ids, any number of them; a final push delivers all that was held back."""
        if self._is_stopped:
            return Chunk("", np.empty(0, np.int32), (0, 0), True, 0)
        values = _as_list(ids)
        self._pass_early(values[: self._num_early_ids])
        settled, pending = self._settle(values, is_final)
        text = self._decode([*self._window, *settled])
        end, self._is_stopped = self._find_end(text if is_final else _certain(text), is_final)
        num_ids = self._num_ids_to_stop(values) if self._is_stopped else len(values)
        self._window += settled
        self._pending = pending
        chunk = self._chunk(text, end, num_ids)
        self._num_delivered += len(chunk.text)
        self._trim(text)
        return chunk

    def _settle(self, ids: Sequence[int], is_final: bool = False) -> tuple[list[int], list[int]]:
        """The ids that can be decoded after the window, and byte tokens that have to wait.

        Byte fallback decodes adjacent byte tokens as a whole: one more of them may turn a valid
        text into replacement characters, and the other way round.
        """
        visible = [*self._pending, *(i for i in ids if i not in self._special_ids)]
        end = len(visible)
        while not is_final and end and visible[end - 1] in self._byte_ids:
            end -= 1
        return visible[:end], visible[end:]

    def _pass_early(self, ids: Sequence[int]) -> None:
        """Note where the text of `ids`, which are early, ends; half a character does not count."""
        if not ids:
            return
        settled, pending = self._settle(ids)
        text = self._decode([*self._window, *settled, *pending])
        if text.endswith(REPLACEMENT):
            text = _certain(self._decode([*self._window, *settled]))
        self._early_end = len(text)
        self._num_early_ids -= len(ids)

    def _find_end(self, text: str, is_final: bool) -> tuple[int, bool]:
        """Where in the window's certain text the part ends that can go, and if a stop text is why.

        A stop text waits while one that starts before it may still come.
        """
        start = max(self._num_delivered, self._prompt_end)
        fresh = text[start:]
        found = find_stop(fresh, self._stop, self._early_end - start)
        partial = len(fresh) if is_final else find_partial_stop(fresh, self._stop)
        if found is None or partial < found[0]:
            return start + partial, False
        return start + found[self._include_stop], True

    def _num_ids_to_stop(self, ids: Sequence[int]) -> int:
        """How many of `ids`, pushed by themselves, would have shown the stop text."""
        def is_stopped(num_ids: int) -> bool:
            settled, _ = self._settle(ids[:num_ids])
            return self._find_end(_certain(self._decode([*self._window, *settled])), False)[1]

        return bisect_left(range(len(ids)), True, key=is_stopped)

    def _chunk(self, text: str, end: int, num_ids: int) -> Chunk:
        start = self._num_delivered
        if end <= start:
            return Chunk("", np.empty(0, np.int32), (0, 0), self._is_stopped, num_ids)
        window = np.array(self._window, np.int32)
        return Chunk(text[start:end], window, (start, end), self._is_stopped, num_ids)

    def _trim(self, text: str) -> None:
        """Shorten the window to its last ids if what follows them will decode the same.

        So it is once the tail has a text (its first token has lost its space, if it does that),
        unless a character is cut: then its halves, apart, make more characters than the whole.
        """
        if len(self._window) <= MAX_WINDOW_IDS:
            return
        tail = self._decode(self._window[-TAIL_IDS:])
        held = text[self._num_delivered:]
        if not tail or not tail.endswith(held):
            return
        if tail[0] == REPLACEMENT:
            head = self._decode(self._window[:-TAIL_IDS])
            if len(head) + len(tail) > len(text):
                return
        del self._window[:-TAIL_IDS]
        self._num_delivered = len(tail) - len(held)
        self._prompt_end -= len(text) - len(tail)
        self._early_end -= len(text) - len(tail)


def _as_list(ids: Ids) -> list[int]:
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _certain(text: str) -> str:
    """`text` without a last character that may be the first bytes of another one."""
    return text.removesuffix(REPLACEMENT)

"""Stop texts in a text that is still growing."""

from __future__ import annotations

from collections.abc import Sequence


def find_stop(text: str, stops: Sequence[str], min_end: int = 0) -> tuple[int, int] | None:
    """Start and end of the first stop text in `text`, the shorter one where two start alike.

    Those that end at `min_end` or before do not count.
    """
    starts = ((text.find(stop, max(min_end - len(stop) + 1, 0)), stop) for stop in stops)
    return min(((start, start + len(stop)) for start, stop in starts if start >= 0), default=None)


def find_partial_stop(text: str, stops: Sequence[str]) -> int:
    """Start of the longest end of `text` that may become a stop text; the length if there is none.

    Only unfinished stop texts count: one that `text` ends with as a whole is found by `find_stop`.
    """
    return len(text) - max((_overlap(text, stop) for stop in stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)

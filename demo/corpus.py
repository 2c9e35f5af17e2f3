"""The play as training text: speeches, documents of consecutive speeches, and dialogues."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SPEECH = re.compile(r"^(?P<speaker>.+):\n(?P<words>.+(?:\n.+)*)", re.MULTILINE)
SPEECHES_PER_DOCUMENT = range(4, 21)
TURNS_PER_DIALOGUE = range(2, 9, 2)


class Speech(NamedTuple):
    """What one character says before another speaks; `words` has one or more lines."""

    speaker: str
    words: str


def parse_speeches(text: str) -> list[Speech]:
    """The speeches of a play of paragraphs `NAME:` and lines; names without lines are left out."""
    return [Speech(**match.groupdict()) for match in SPEECH.finditer(text)]


def split_speeches(
    speeches: Sequence[Speech], held_out: float
) -> tuple[Sequence[Speech], Sequence[Speech]]:
    """The speeches for training, and those of about the last `held_out` (0 to 1) of the text."""
    num_training_chars = (1 - held_out) * len(join_speeches(speeches))
    num_chars = -len("\n\n")
    for index, speech in enumerate(speeches):
        num_chars += len(join_speeches([speech])) + len("\n\n")
        if num_chars > num_training_chars:
            return speeches[:index], speeches[index:]
    return speeches, []


def join_speeches(speeches: Sequence[Speech]) -> str:
    """The speeches as they stand in the play."""
    return "\n\n".join(f"{speaker}:\n{words}" for speaker, words in speeches)


def cut_documents(speeches: Sequence[Speech], rng: random.Random) -> list[str]:
    """The whole play in documents of a few speeches each, cut at random."""
    return [join_speeches(run) for run in _runs(speeches, SPEECHES_PER_DOCUMENT, rng)]


def cut_dialogues(speeches: Sequence[Speech], rng: random.Random) -> list[list[dict[str, str]]]:
    """Chat messages: each speech is the user's, the one that follows it the assistant's answer.

    The cut is random, so that a speech is now the one's and now the other's; at most two speeches
    at either end are left out.
    """
    start = rng.randrange(2)
    end = start + (len(speeches) - start) // 2 * 2
    return [
        [{"role": ("user", "assistant")[turn % 2], "content": speech.words}
         for turn, speech in enumerate(run)]
        for run in _runs(speeches[start:end], TURNS_PER_DIALOGUE, rng)
    ]


def _runs(
    speeches: Sequence[Speech], lengths: Sequence[int], rng: random.Random
) -> Iterator[Sequence[Speech]]:
    start = 0
    while start < len(speeches):
        length = rng.choice(lengths)
        yield speeches[start:start + length]
        start += length

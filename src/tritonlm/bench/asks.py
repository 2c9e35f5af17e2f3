"""The prompts of a load: random ones, or those of a file."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from tritonlm.bench.load import Load
from tritonlm.errors import InvalidArgument

CHARS_PER_TOKEN = 6
"""At least, of a random text; the prompt is cut to its length."""
LETTERS = np.array([*string.ascii_lowercase, " ", " "])
WARM_UP_SEED = 10**6
"""Beyond the seed of the load: warm-up requests fill no prefix cache for it."""


@dataclass(frozen=True)
class Ask:
    """A prompt, and how long its answer may be."""

    prompt: str | tuple[int, ...]
    max_tokens: int
    cut_to: int | None = None
    """Tokens that the server cuts the prompt to."""


def warm_ups(load: Load) -> list[Ask]:
    """What the process asks first."""
    return _share(load, list(_asks(load, load.num_warmups, load.seed + WARM_UP_SEED)))


def measured(load: Load) -> list[Ask]:
    """What it asks then; raises `InvalidArgument` for a file that cannot be used."""
    return _share(load, list(_asks(load, load.num_prompts, load.seed)))


def _share(load: Load, asks: list[Ask]) -> list[Ask]:
    return asks[load.place :: load.num_processes]


def _asks(load: Load, count: int, seed: int) -> Iterator[Ask]:
    if load.prompts is not None:
        return islice(cycle(_read(Path(load.prompts), load.output_len)), count)
    return _random_asks(load, count, np.random.default_rng(seed))


def _random_asks(load: Load, count: int, random: np.random.Generator) -> Iterator[Ask]:
    inputs = _lengths(load.input_len, load.range_ratio, count, random)
    outputs = _lengths(load.output_len, load.range_ratio, count, random)
    for num_inputs, num_outputs in zip(inputs, outputs, strict=True):
        if load.asks_in_ids:
            ids = random.integers(0, load.vocab_size, num_inputs).tolist()
            yield Ask(tuple(ids), num_outputs)
        else:
            text = "".join(random.choice(LETTERS, CHARS_PER_TOKEN * num_inputs))
            yield Ask(text, num_outputs, cut_to=num_inputs)


def _lengths(mean: int, ratio: float, count: int, random: np.random.Generator) -> list[int]:
    low, high = max(1, round(mean * (1 - ratio))), round(mean * (1 + ratio))
    lengths: list[int] = random.integers(low, high + 1, count).tolist()
    return lengths


def _read(path: Path, max_tokens: int) -> list[Ask]:
    try:
        lines = path.read_text().split("\n")  # and not at what a text may have, such as U+2028
    except (OSError, ValueError) as error:
        raise InvalidArgument("prompts", str(path), f"it cannot be read: {error}") from None
    asks = [_parse(f"{path}:{number}", line, max_tokens)
            for number, line in enumerate(lines, 1) if line.strip()]
    if not asks:
        raise InvalidArgument("prompts", str(path), "it must have a line")
    return asks


def _parse(place: str, line: str, max_tokens: int) -> Ask:
    try:
        given = json.loads(line)
    except ValueError:
        given = None
    if not isinstance(given, dict) or given.keys() - {"prompt", "max_tokens"}:
        raise InvalidArgument(place, line, 'allowed: {"prompt": TEXT, "max_tokens": NUMBER}')
    prompt, limit = given.get("prompt"), given.get("max_tokens", max_tokens)
    if not isinstance(prompt, str) or not prompt:
        raise InvalidArgument(f"{place}: prompt", prompt, "allowed: a text that is not empty")
    if not isinstance(limit, int) or limit < 1:
        raise InvalidArgument(f"{place}: max_tokens", limit, "allowed: 1 and more")
    return Ask(prompt, limit)

"""A request's tensors as the items that are to be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonlm.contract import (
    NO_OPTIONS,
    NUM_INPUT_TOKENS,
    TOKEN_IDS,
    TOKEN_TYPE_IDS,
    parse_traceparent,
)
from tritonlm.encoders.rows import Item, Row
from tritonlm.errors import InvalidArgument
from tritonlm.values import text_value

IDS = TOKEN_IDS[0].name
BESIDE_IDS = (NUM_INPUT_TOKENS.name, TOKEN_TYPE_IDS.name)
QUEUE_PARAMETERS = frozenset({"priority", "timeout"})
"""For Triton's own queue."""


def parse_items(
    tensors: Mapping[str, NDArray[Any]], text_names: Sequence[str]
) -> list[Item]:
    """One item a row; raises `InvalidArgument`."""
    given = [name for name in text_names if name in tensors]
    if (IDS in tensors) == bool(given) or (given and len(given) < len(text_names)):
        names = " and ".join(name for name in (*text_names, IDS) if name in tensors)
        raise InvalidArgument("inputs", names or "nothing",
                              f"give either {' and '.join(text_names)}, or {IDS}")
    if IDS in tensors:
        return list(_rows(tensors))
    for name in BESIDE_IDS:
        if name in tensors:
            raise InvalidArgument(name, list(tensors[name].shape), f"it needs {IDS}")
    columns = [[_text(name, place, value) for place, value in enumerate(tensors[name].flat)]
               for name in text_names]
    return list(zip(*columns, strict=True))


def refuse_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise `InvalidArgument` for a request parameter other than the context of a trace."""
    parse_traceparent(parameters)
    for name in sorted(parameters.keys() - NO_OPTIONS - QUEUE_PARAMETERS):
        raise InvalidArgument(name, parameters[name], "unknown: this model takes tensors alone")


def _rows(tensors: Mapping[str, NDArray[Any]]) -> list[Row]:
    ids, types = tensors[IDS], tensors.get(TOKEN_TYPE_IDS.name)
    if types is not None and types.shape != ids.shape:
        raise InvalidArgument(TOKEN_TYPE_IDS.name, list(types.shape),
                              f"it needs the shape of {IDS}, {list(ids.shape)}")
    lengths = tensors.get(NUM_INPUT_TOKENS.name, np.full(len(ids), ids.shape[1]))
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= ids.shape[1]:
        raise InvalidArgument(NUM_INPUT_TOKENS.name, lengths.reshape(-1).tolist(),
                              f"allowed: 1 to {ids.shape[1]}, the length of {IDS}")
    return [Row(own[:length], None if types is None else types[place, :length])
            for place, (own, length) in enumerate(zip(ids, lengths.flat, strict=True))]


def _text(name: str, place: int, value: Any) -> str:
    return text_value(f"{name}[{place}]", value)

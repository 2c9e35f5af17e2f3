"""A batch as bytes, on its way from the leader to its followers."""

from __future__ import annotations

from dataclasses import fields

import msgspec
import numpy as np

from tritonlm.engine.batch import Batch

NAMES = tuple(field.name for field in fields(Batch))
Column = tuple[str, tuple[int, ...], bytes]


def encode(batch: Batch) -> bytes:
    """`batch` as msgpack: its arrays as type, shape and content; numbers as arrays of none."""
    columns = [np.asarray(getattr(batch, name)) for name in NAMES]
    return msgspec.msgpack.encode([(column.dtype.str, column.shape, column.tobytes())
                                   for column in columns])


def decode(message: bytes) -> Batch:
    """The batch that was encoded."""
    columns = msgspec.msgpack.decode(message, type=list[Column])
    values = {name: np.frombuffer(bytearray(content), dtype).reshape(shape)
              for name, (dtype, shape, content) in zip(NAMES, columns, strict=True)}
    return Batch(**values | {"num_decodes": int(values["num_decodes"])})  # type: ignore[arg-type]

"""How much the holders of keys may do: counted together for all workers of a gateway."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tritonlm.gateway.failures import TooManyRequests
from tritonlm.gateway.keys import ApiKey
from tritonlm.gateway.settings import MAX_WORKERS

MINUTE_S = 60.0
COLUMNS = 1 + MAX_WORKERS
"""Of a key's row: when its bucket is full again, and how many requests run in each worker."""
MUTEX_BYTE = 1 << 40
"""Place of a lock in the file, far behind its content; those before it are the workers'."""


class Limits:
    """Admits requests; the table is a file that workers share, each with a column of its own.

    The locks are the kernel's: they end with their worker, whose column the next one takes over.
    """

    def __init__(
        self, keys: Sequence[ApiKey], path: Path, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`path` is made by the first who comes; all must have the same keys."""
        self._rows = {key.name: row for row, key in enumerate(keys)}
        self._clock_s = clock_s
        self._file = path.open("a+b")
        shape = (max(len(keys), 1), COLUMNS)
        self._file.truncate(math.prod(shape) * np.dtype(np.float64).itemsize)
        self._table = np.memmap(self._file, np.float64, "r+", shape=shape)
        self._column = self._take_column()
        self._table[:, self._column] = 0

    def enter(self, key: ApiKey) -> None:
        """A request begins; raises `TooManyRequests`, and then it has not begun."""
        row = self._table[self._rows[key.name]]
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, MUTEX_BYTE)
        try:
            if key.max_concurrent is not None and row[1:].sum() >= key.max_concurrent:
                raise TooManyRequests(f"{key.max_concurrent} requests of this key are running, "
                                      "the most that may")
            if key.requests_per_minute is not None:
                self._take_token(row, key.requests_per_minute)
            row[self._column] += 1
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, MUTEX_BYTE)

    def leave(self, key: ApiKey) -> None:
        """A request that has begun is over."""
        self._table[self._rows[key.name], self._column] -= 1

    def _take_token(self, row: np.ndarray[tuple[int], np.dtype[np.float64]], rate: int) -> None:
        """A bucket of `rate` tokens fills up within a minute; what is stored is when it is full."""
        now_s = self._clock_s()
        full_s = max(row[0], now_s) + MINUTE_S / rate
        if full_s - now_s > MINUTE_S + 1e-6:
            raise TooManyRequests(f"this key has had its {rate} requests a minute",
                                  full_s - now_s - MINUTE_S)
        row[0] = full_s

    def _take_column(self) -> int:
        for column in range(1, COLUMNS):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, MUTEX_BYTE + column)
                return column
            except OSError:
                continue
        raise AssertionError("more workers than the settings allow")


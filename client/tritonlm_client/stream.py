"""An answer that is coming, for code without asyncio."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from tenacity import Retrying, sleep_using_event

from tritonlm.errors import NotFound, Unavailable
from tritonlm_client.attempts import Attempts
from tritonlm_client.errors import DeadlineExceeded
from tritonlm_client.results import Chunk
from tritonlm_client.retry import Retry
from tritonlm_client.transport import Transport


class Stream:
    """An answer that is coming: iterate over its chunks, once.

    Leaving the loop early, `cancel`, and the end of a `with` block all make the server stop.
    """

    def __init__(self, attempts: Attempts[Transport], models: Sequence[str], retry: Retry) -> None:
        """`models` are tried one after the other."""
        self.request_id = attempts.request.id
        self.model = models[0]
        """The one that answers, once it does."""
        self._attempts = attempts
        self._models = models
        self._retry = retry
        self._rest: Iterator[Chunk] = iter(())
        self._cancelled = threading.Event()
        attempts.open_ahead()

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks as they come; raises `ServingError`."""
        num_more = self._retry.num_more_begins
        try:
            while True:
                try:
                    yield from self._chunks()
                    return
                except DeadlineExceeded:
                    raise
                except Unavailable:
                    if not num_more:
                        raise
                num_more -= 1
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Hang up: the server stops, and iteration ends without an error; any thread may do it."""
        self._cancelled.set()
        attempt = self._attempts.current
        if attempt is not None:
            attempt.call.cancel()
            attempt.end()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _chunks(self) -> Iterator[Chunk]:
        first = self._begin()
        if first is not None:
            yield self._attempts.checked(first)
            for chunk in self._rest:
                yield self._attempts.checked(chunk)

    def _begin(self) -> Chunk | None:
        """The first chunk, from whichever model and server gives one."""
        rules = self._retry.rules(self._attempts.deadline, lambda: not self._cancelled.is_set())
        begin = Retrying(**rules, sleep=sleep_using_event(self._cancelled))
        for model in self._models[:-1]:
            with suppress(Unavailable, NotFound):
                return begin(self._first_chunk, model)
        return begin(self._first_chunk, self._models[-1])

    def _first_chunk(self, model: str) -> Chunk | None:
        if self._cancelled.is_set():
            return None
        for attempt in self._attempts.round(model):
            with attempt:
                self.model = model
                self._rest = iter(self._attempts.open(attempt))
                if self._cancelled.is_set():  # it was meanwhile
                    attempt.call.cancel()
                return next(self._rest, None)
        return None

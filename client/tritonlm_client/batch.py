"""Many prompts at once, the answers in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import length_hint
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from tritonlm.errors import InvalidArgument, ServingError
from tritonlm_client.requests import Prompt
from tritonlm_client.results import Completion
from tritonlm_client.stream import Stream


def check_concurrency(concurrency: int) -> None:
    """Raise `InvalidArgument` for a number that cannot be."""
    if concurrency < 1:
        raise InvalidArgument("concurrency", concurrency, "allowed: 1 and more")


class Batch:
    """Iterate over it once: the answers to prompts, in order; `concurrency` of them run at once.

    What still runs when the iteration is left is cancelled.
    """

    def __init__(
        self, open_stream: Callable[[Prompt], Stream], prompts: Iterable[Prompt], concurrency: int,
        progress: bool, keep_errors: bool,
    ) -> None:
        """With `keep_errors` an error stands in its answer's place, else it is raised."""
        check_concurrency(concurrency)
        self._open_stream = open_stream
        self._prompts = prompts
        self._concurrency = concurrency
        self._progress = progress
        self._keep_errors = keep_errors
        self._running: set[Stream] = set()
        self._is_closed = False

    def __iter__(self) -> Iterator[Completion | ServingError]:
        pool = ThreadPoolExecutor(self._concurrency)
        waiting: deque[Future[Completion | ServingError]] = deque()
        total = length_hint(self._prompts) or None
        try:
            with tqdm(total=total, disable=not self._progress, unit="prompt") as bar:
                for prompt in self._prompts:
                    waiting.append(pool.submit(self._answer, prompt, bar))
                    # Those at the end go on while the first is slow, but not without end.
                    if len(waiting) >= 2 * self._concurrency:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
        finally:
            self._is_closed = True
            for stream in tuple(self._running):
                stream.cancel()
            pool.shutdown(cancel_futures=True)

    def _answer(self, prompt: Prompt, bar: Any) -> Completion | ServingError:
        try:
            with self._open_stream(prompt) as stream:
                self._running.add(stream)
                if self._is_closed:
                    stream.cancel()
                try:
                    return Completion.join(stream.request_id, list(stream), stream.model)
                finally:
                    self._running.discard(stream)
        except ServingError as error:
            if self._keep_errors:
                return error
            raise
        finally:
            bar.update()

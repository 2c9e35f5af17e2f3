"""The ends of requests that no engine brings about: errors, and replies to cancellations."""

from __future__ import annotations

import logging
from collections import deque

from tritonlm.backend.arrivals import Cancellation
from tritonlm.backend.epilogue import Epilogue
from tritonlm.backend.generation import CANCELLED_VALUES, Answer, Generation
from tritonlm.errors import NotFound, ServingError
from tritonlm.logs import fields

LOG = logging.getLogger(__name__)


class Endings:
    """Sends them, and tells the epilogue; belongs to the sending thread.

    An error that cannot be sent, as when there is no shared memory even for that, is kept and
    sent later: whoever asked is not left without an end, and nobody else ends with them.
    """

    def __init__(self, epilogue: Epilogue) -> None:
        self._epilogue = epilogue
        self._unsent: deque[tuple[Answer, Exception]] = deque()

    def fail(
        self, answer: Answer, error: Exception, is_refusal: bool,
        generation: Generation | None = None,
    ) -> None:
        """End a request with `error`."""
        if not self._has_sent(answer, error):
            LOG.warning("an error cannot be sent now, and will be later",
                        extra=fields(request_id=answer.request_id))
        code = error.code if isinstance(error, ServingError) else ServingError.code
        self._epilogue.tell(answer, "refused" if is_refusal else "failed", code.lower(),
                            generation, str(error))

    def reply(self, cancellation: Cancellation, num_cancelled: int) -> None:
        """Say how many requests a cancellation has ended."""
        if num_cancelled == 0:
            self.fail(cancellation.answer, NotFound(
                f"request_id: no request {cancellation.request_id!r} is running"), is_refusal=True)
            return
        try:
            cancellation.answer.send(CANCELLED_VALUES, is_final=True)
        except Exception as error:
            self.fail(cancellation.answer, error, is_refusal=False)
            return
        self._epilogue.tell(cancellation.answer, "finished", "cancel")

    def retry(self) -> None:
        """Send what could not be sent before."""
        for _ in range(len(self._unsent)):
            self._has_sent(*self._unsent.popleft())

    def _has_sent(self, answer: Answer, error: Exception) -> bool:
        """Whether it is sent; else it is kept."""
        try:
            answer.fail(error)
        except Exception:
            self._unsent.append((answer, error))
            return False
        return True

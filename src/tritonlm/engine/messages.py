"""What front ends and engine say to each other: msgpack over ZeroMQ, arrays as raw bytes.

front end → engine: Hello, Submit, Cancel, CancelById        (several in one message)
engine → front end: Ready, Tokens, Failed, Refused, CancelReply, Stats, Resources, Goodbye
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from tritonlm.errors import EngineFailure, InvalidArgument, ServingError, from_code

NUM_PRIORITIES = 4
"""Classes of requests: urgent, high, normal and low, by number."""
NORMAL = 2
STEP_SIZES = tuple(2**power for power in range(12))
"""Requests in a step: the bounds that steps are counted by."""


class Hello(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A front end presents itself; the engine answers with Ready."""


class Submit(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A request: `key` is its number in the front end, `token_ids` int32 bytes of the prompt."""

    key: int
    request_id: str
    token_ids: bytes
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    deadline_s: float = math.inf
    """On the machine's monotonic clock, which all its processes share."""
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids and what is added to their logits."""
    banned: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must not come about."""
    num_logprobs: int = -1
    """Alternatives to report for each output token; -1: report nothing."""
    num_prompt_logprobs: int = -1
    priority: int = NORMAL
    """0 (urgent) to `NUM_PRIORITIES` - 1 (low)."""
    user: str = ""
    """On whose behalf: users of a class take turns."""
    guide: tuple[str, str] | None = None
    """The option that holds the answer to a grammar, and its text."""

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.token_ids) // np.dtype(np.int32).itemsize

    def prompt(self) -> NDArray[np.int32]:
        """The prompt's ids, int32 [n]."""
        return np.frombuffer(self.token_ids, np.int32)


class Cancel(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The front end wants no more of its request `key`: nothing is answered."""

    key: int


class CancelById(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Cancel every request called `request_id`, whichever front end it came through."""

    key: int
    request_id: str


class Ready(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The engine runs; the limits that requests are checked against."""

    max_model_len: int
    vocab_size: int


class Logprobs(msgspec.Struct, array_like=True, frozen=True):
    """Log probabilities of n tokens, and of the k most likely ones in the place of each.

    int64 keys and int32 positions in prompt and output, [n]; int32 token ids and float32 values,
    [n, 1 + k], the token itself in front.
    """

    keys: bytes
    positions: bytes
    token_ids: bytes
    values: bytes

    def arrays(
        self,
    ) -> tuple[list[int], list[int], NDArray[np.int32], NDArray[np.float32]]:
        """Keys, positions, token ids and values."""
        keys: list[int] = np.frombuffer(self.keys, np.int64).tolist()
        positions: list[int] = np.frombuffer(self.positions, np.int32).tolist()
        return (keys, positions, np.frombuffer(self.token_ids, np.int32).reshape(len(keys), -1),
                np.frombuffer(self.values, np.float32).reshape(len(keys), -1))


class Starts(msgspec.Struct, array_like=True, frozen=True):
    """Requests with their first token: int64 keys, float64 times of admission, int32 numbers of
    prompt tokens that were in the prefix cache, each [n]. Times are of the monotonic clock.
    """

    keys: bytes
    admitted_s: bytes
    num_cached: bytes

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int32]]:
        """Keys, times and numbers."""
        return (np.frombuffer(self.keys, np.int64), np.frombuffer(self.admitted_s, np.float64),
                np.frombuffer(self.num_cached, np.int32))


class Tokens(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """One step's news: int64 keys, int32 token ids (-1: none), uint8 finish reason codes."""

    keys: bytes
    token_ids: bytes
    reasons: bytes
    logprobs: tuple[Logprobs, ...] = ()
    """Of requests that asked for them; their prompts' may come before any token."""
    at_s: float = 0.0
    """When the step was read back, on the monotonic clock."""
    starts: Starts | None = None
    """Of the requests whose first token is here."""

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        """Keys, token ids and reasons, each [n]."""
        return (np.frombuffer(self.keys, np.int64), np.frombuffer(self.token_ids, np.int32),
                np.frombuffer(self.reasons, np.uint8))


class Failed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The requests `keys` (int64 bytes) are over; `code` is that of a class of errors."""

    keys: bytes
    message: str
    code: str = EngineFailure.code

    def request_keys(self) -> list[int]:
        """The keys."""
        keys: list[int] = np.frombuffer(self.keys, np.int64).tolist()
        return keys

    def error(self) -> ServingError:
        """What their clients are told."""
        if self.code == InvalidArgument.code:
            return from_code(self.code, self.message)
        return EngineFailure(f"the engine failed: {self.message}")


class Refused(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """There is no room for the request `key` now: `message` says why, and when to retry."""

    key: int
    message: str


class CancelReply(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """How many requests a CancelById ended."""

    key: int
    num_cancelled: int


class Stats(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The engine's gauges, sent when they change and at most ten times a second."""

    num_running: int
    num_waiting: int
    num_blocks_used: int
    """Blocks of the KV cache that requests hold; those kept for their content alone are free."""
    num_blocks: int
    num_waiting_by_priority: tuple[int, ...] = (0,) * NUM_PRIORITIES
    oldest_wait_s: float = 0.0
    """How long the request has waited that has waited longest."""
    num_batch_requests: int = 0
    """Of the last step, as are the tokens; 0 when nothing runs."""
    num_batch_tokens: int = 0
    num_prefix_tokens_looked_up: int = 0
    """Tokens of admitted requests, since the start."""
    num_prefix_tokens_hit: int = 0
    """How many of them were in the prefix cache."""
    num_preemptions: int = 0
    """Requests that gave up blocks and row to be computed again later, since the start."""
    num_steps_by_size: tuple[int, ...] = (0,) * (len(STEP_SIZES) + 1)
    """Steps of at most each of `STEP_SIZES` requests and more than the one before, since the
    start; and of more than all of them.
    """
    num_step_requests: int = 0
    """The sizes of all these steps together."""


class Resources(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """What the engine's process and its GPU use, sent every other second if it has changed."""

    memory_bytes: int
    """Resident, of the process."""
    gpu_memory_used_bytes: int = 0
    """Of the whole GPU, whoever uses it; 0 without one."""
    gpu_memory_bytes: int = 0
    gpu_usage: float | None = None
    """Share of the last while in which the GPU computed, 0 to 1; None if nobody tells."""


class Goodbye(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The engine was told to stop."""


ToEngine = Hello | Submit | Cancel | CancelById
ToFrontEnd = Ready | Tokens | Failed | Refused | CancelReply | Stats | Resources | Goodbye

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(list[ToEngine]).decode
decode_to_front_end = msgspec.msgpack.Decoder(ToFrontEnd).decode

"""What the engine needs of a device: to launch a step, and to read its tokens back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tritonlm.engine.batch import Batch, Int32
from tritonlm.engine.token_logprobs import TokenLogprobs


class LaunchedStep(Protocol):
    """A step that is under way."""

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        """What requests asked to know; to be read after `tokens`."""

    def tokens(self) -> Int32:
        """Wait for the step; the ids sampled for `batch.sampled`, in that order, int32 [m].

        Raises RuntimeError when the step has failed. Called once, in the order of the launches.
        """


class StepRunner(Protocol):
    """Runs steps on a device, one after the other."""

    def launch(self, batch: Batch) -> LaunchedStep:
        """Start to compute `batch`; raises RuntimeError when that is not possible.

        Each step sees all that the steps launched before it do: the KV cache that they write, and
        the tokens that they sample. So blocks and rows pass from one request to another between
        launches, without a word to the device.

        Where `batch.pending` is set, the last token of that request is `PENDING` in
        `batch.token_ids`: it is the token that the step launched last has sampled for the same
        row, and has yet to be read back. A device that is launched ahead keeps `last_token`,
        [rows of the table]: it writes there what it samples for `batch.rows[batch.sampled]`, and
        takes from there what is pending.

        The batch is the device's own. The request table may be read until this returns and not
        later, when the next step is being scheduled: its `num_tokens` are then still those before
        this step, that is the numbers in their requests of the tokens that the step samples.
        """


@dataclass(frozen=True)
class FinishedStep:
    """A step that is over when it is launched."""

    token_ids: Int32
    logprobs: Sequence[TokenLogprobs] = ()

    def tokens(self) -> Int32:
        """The sampled ids."""
        return self.token_ids


@dataclass(frozen=True)
class SynchronousRunner:
    """A function that computes a batch as a runner, for an engine of depth 0."""

    run: Callable[[Batch], FinishedStep]

    def launch(self, batch: Batch) -> FinishedStep:
        """Compute `batch`."""
        return self.run(batch)

"""A forward whose launches are recorded once for each of some shapes, and then replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

import torch

from tritonlm.encoders.shapes import Shape, Shapes
from tritonlm.errors import first_line

LOG = logging.getLogger(__name__)
MASK = "attention_mask"
MIN_GAIN = 1.25
"""Times as fast that a replay is at least: batches that are replayed have more padding."""

Inputs: TypeAlias = dict[str, torch.Tensor]
"""`input_ids`, `attention_mask` and perhaps `token_type_ids`, int64 [rows, length] each."""
Forward: TypeAlias = Callable[[Inputs], torch.Tensor]
"""From inputs to float32 [rows, width]."""


@dataclass(frozen=True)
class Recording:
    """What a function launched, and the tensor that a replay overwrites with its result."""

    output: torch.Tensor
    replay: Callable[[], None]


class Recorder(Protocol):
    """Records what functions launch on a device; all recordings share memory."""

    def record(self, function: Callable[[], torch.Tensor]) -> Recording:
        """Raise an error if the function does what cannot be replayed."""

    def seconds(self, function: Callable[[], torch.Tensor]) -> float:
        """How long it takes, host and device together."""


@dataclass(frozen=True)
class _Graph:
    """A recording for one shape, and the inputs that it reads."""

    inputs: Inputs
    recording: Recording

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        for name, tensor in self.inputs.items():
            tensor.copy_(inputs[name])
        self.recording.replay()
        return self.recording.output.clone()  # other graphs use this memory, too


class CapturedForward:
    """Computes what `forward` does, by a graph where there is one for the shape of the inputs."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._shapes: Shapes | None = None
        self._graphs: dict[Shape, _Graph] = {}

    @property
    def num_graphs(self) -> int:
        """Shapes that have one."""
        return len(self._graphs)

    def padded(self, own: Shape) -> Shape:
        """What a batch is to be padded to: the shape of a graph, if one suits it."""
        around = self._shapes and self._shapes.around(own)
        return around if around in self._graphs else own

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        """Float32 [rows, width]."""
        return self._graphs.get(Shape(*inputs[MASK].shape), self._forward)(inputs)

    def capture(
        self, shapes: Shapes, recorder: Recorder, draw: Callable[[Shape], Inputs],
        max_error: float, progress: Callable[[list[Shape]], Iterable[Shape]],
    ) -> None:
        """Make the graphs that pay, or none if one fails or is wrong, which the log says.

        `draw` makes inputs of a shape, with padding; results may differ by `max_error`, relatively.
        """
        self._shapes, every = shapes, shapes.all()
        for shape in progress(every):
            try:
                graph = self._capture(recorder, draw(shape))
                _check(graph, self._forward, draw(shape), max_error)
                if self._pays(graph, recorder):
                    self._graphs[shape] = graph
            except Exception as error:
                self._graphs.clear()
                LOG.warning("there are no CUDA graphs, and batches are slower: %d rows of %d "
                            "tokens cannot be captured: %s", *shape, first_line(error))
                return
        LOG.info("CUDA graphs for batches of %d shapes, of %d tried", self.num_graphs, len(every))

    def _capture(self, recorder: Recorder, inputs: Inputs) -> _Graph:
        return _Graph(inputs, recorder.record(partial(self._forward, inputs)))

    def _pays(self, graph: _Graph, recorder: Recorder) -> bool:
        """Whether it is faster than `forward` is where nothing is padding, which is simpler."""
        whole = graph.inputs | {MASK: torch.ones_like(graph.inputs[MASK])}
        eager_s, replay_s = (recorder.seconds(partial(compute, whole))
                             for compute in (self._forward, graph))
        return eager_s >= MIN_GAIN * replay_s


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value; NaN if there is one in either."""
    scale = float(expected.abs().max()) or 1.0
    return float((got - expected).abs().max()) / scale


def _check(graph: _Graph, forward: Forward, inputs: Inputs, max_error: float) -> None:
    """Raise an error if the graph does not compute what `forward` does."""
    error = relative_error(graph(inputs), forward(inputs))
    if not error <= max_error:
        raise RuntimeError(f"a replay comes out differently, by {error:.1%}")

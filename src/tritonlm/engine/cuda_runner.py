"""Runs batches on a GPU: compiled, captured in graphs, and read back a step later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tritonlm.config import ModelConfig
from tritonlm.engine.attention.interface import use_attention
from tritonlm.engine.attention.paged import PagedAttention
from tritonlm.engine.batch import Batch, Int32
from tritonlm.engine.cache import KVCache
from tritonlm.engine.choosing import choose
from tritonlm.engine.compiled import CompiledSteps
from tritonlm.engine.device import put
from tritonlm.engine.drawing import draw
from tritonlm.engine.last_layer import WantedRows
from tritonlm.engine.loading import LoadedModel
from tritonlm.engine.step_inputs import StepBuffer, StepInputs
from tritonlm.engine.table import RequestTable
from tritonlm.engine.tensor_parallel.group import Group
from tritonlm.engine.token_logprobs import TokenLogprobs

SMALL_GRAPHS = (1, 2, 4, 8)
GRAPH_STEP = 16
"""Between the batch sizes of larger graphs."""
MIN_STEP_TOKENS = 8
"""What a model is checked with must fit into a step."""


@dataclass(frozen=True)
class Launched:
    """A step under way; its tokens are on their way back."""

    host_tokens: torch.Tensor
    is_done: torch.cuda.Event
    logprobs: Sequence[TokenLogprobs]

    def tokens(self) -> Int32:
        """The sampled ids, int32 [m]; waits for them."""
        self.is_done.synchronize()
        tokens: Int32 = self.host_tokens.numpy()
        return tokens


@dataclass(frozen=True)
class _Computed:
    """What a step leaves on the device."""

    token_ids: torch.Tensor
    """int64 [T], those that were sampled a step before included."""
    logits: torch.Tensor
    """As many as were wanted, in the type of the model, [n, V]."""
    drawn: torch.Tensor
    """Tokens, int32 [n]; those of `batch.sampled`, then of padding."""


@dataclass(frozen=True)
class _Graph:
    """A captured step of up to `size` requests with one token each, and what it leaves behind."""

    size: int
    buffer: StepBuffer
    graph: torch.cuda.CUDAGraph
    computed: _Computed


class CudaRunner:
    """A model, its cache, and steps that are launched without waiting for the one before.

    The device keeps the last token of each row of the table, so that a step can be launched
    before the host knows what the one before has sampled.
    """

    def __init__(
        self, model: LoadedModel, table: RequestTable, num_blocks: int, config: ModelConfig
    ) -> None:
        self._model, self._table, self._config = model, table, config
        self._cache = KVCache(model.layers, num_blocks * config.block_size,
                              model.cache_dtype, model.device)
        self._max_requests = config.max_num_seqs
        most_kv_heads = max(shape.num_kv_heads for shape in model.layers.values())
        self._arrivals = torch.zeros(self._max_requests * most_kv_heads, dtype=torch.int32,
                                     device=model.device)
        self._last_token = torch.zeros(table.num_rows + 1, dtype=torch.int32, device=model.device)
        self._forward = self._forward_one = _bind_forward(model)
        self._graphs: list[_Graph] = []
        self._group = Group.of_process()
        # A batch of more requests or of one token would be compiled for that number alone.
        self._mixed = self._make_buffer(max(config.step_tokens, MIN_STEP_TOKENS),
                                        max(self._max_requests, 2))

    def compile(
        self, steps: CompiledSteps, progress: Callable[[Sequence[int]], Iterable[int]]
    ) -> None:
        """Have the model compiled, for one token and for any number of them."""
        # The numbers of tokens and of requests are not one number where they happen to be equal.
        torch.fx.experimental._config.use_duck_shape = False
        # What is compiled for any number suits this one best.
        one, many = 1, max(self._max_requests, 2)
        forward = self._forward
        torch._dynamo.mark_dynamic(self._last_token, 0)
        for size in progress((one, many)):
            inputs = self._make_buffer(size, size).inputs(size, size, is_decode=True)
            columns = inputs.columns()
            with torch.inference_mode(), use_attention(self._attention(inputs)):
                if size == one:
                    # Products with one token become reductions, as fast as memory.
                    self._forward_one = steps.compile(
                        "one", forward, (self._last_token, *columns), dynamic=False,
                        options={"coordinate_descent_tuning": True})
                    continue
                for column in columns:
                    torch._dynamo.mark_dynamic(column, 0)
                self._forward = steps.compile("many", forward, (self._last_token, *columns))
        # At the first call it is settled how the kernels are cut: so that they suit long steps.
        with torch.inference_mode():
            self._compute(self._mixed.inputs(self._mixed.num_tokens, many, is_decode=False))

    def capture(self, progress: Callable[[Sequence[int]], Iterable[int]]) -> None:
        """Capture a graph for each of a range of batch sizes, the largest first."""
        sizes = _graph_sizes(self._max_requests)
        pool = torch.cuda.graph_pool_handle()
        with torch.inference_mode():
            graphs = [self._capture(size, pool) for size in progress(sizes[::-1])]
        self._graphs = graphs[::-1]

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Launched:
        """Start `batch` after what was launched before."""
        graph, num_asked = self._find_graph(batch), batch.asked.size
        if graph is None:
            computed = self._run(batch)
        else:
            graph.buffer.fill(batch)
            graph.graph.replay()
            computed = graph.computed
        rows = batch.rows[batch.sampled]
        others = np.flatnonzero(~self._table.sampling.is_drawable[rows])
        drawn = computed.drawn[: rows.size]
        if self._group.rank or not (others.size or num_asked):  # the leader alone chooses
            return self._read_back(drawn, ())
        # What the kernel cannot draw is chosen here, beside the graph.
        rest = replace(batch, sampled=batch.sampled[others])
        newest = computed.token_ids[self._put(rest.last_places)]
        logits = computed.logits[self._put(num_asked + others)]
        chosen = choose(computed.logits[:num_asked], logits, rest, self._table, newest)
        drawn[self._put(others)] = chosen.token_ids.int()
        self._last_token[self._put(rows[others]).long()] = chosen.token_ids.int()
        return self._read_back(drawn, chosen.logprobs)

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        """What the model predicts after the last token of each of `batch.sampled`, float32."""
        return self._run(batch).logits[: batch.sampled.size].float()

    def _run(self, batch: Batch) -> _Computed:
        """Compute any batch, with the logits after its tokens `asked` in front."""
        self._mixed.fill(batch)
        inputs = self._mixed.inputs(max(batch.token_ids.size, 2), max(self._max_requests, 2),
                                    is_decode=False)
        return self._compute(inputs, self._put(batch.asked) if batch.asked.size else None)

    def _compute(self, inputs: StepInputs, places: torch.Tensor | None = None) -> _Computed:
        """Run the model and draw, with the logits after the tokens `places` in front of others."""
        self._group.share(self._last_token)  # which the leader alone draws
        forward = self._forward_one if inputs.token_ids.numel() == 1 else self._forward
        with use_attention(self._attention(inputs)):
            token_ids, logits = forward(self._last_token, *inputs.columns(places))
        drawn = draw(logits[-inputs.places.numel() :], inputs.draws, self._last_token)
        return _Computed(token_ids, logits, drawn)

    def _attention(self, inputs: StepInputs) -> PagedAttention:
        return PagedAttention(self._cache, self._config.block_size, inputs.paged, self._arrivals)

    def _read_back(self, tokens: torch.Tensor, logprobs: Sequence[TokenLogprobs]) -> Launched:
        """Start the way back to the host."""
        host_tokens = torch.empty(tokens.shape[0], dtype=torch.int32, pin_memory=True)
        host_tokens.copy_(tokens, non_blocking=True)
        is_done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        is_done.record()
        return Launched(host_tokens, is_done, logprobs)

    def _find_graph(self, batch: Batch) -> _Graph | None:
        num_requests = batch.rows.size
        if batch.asked.size or not batch.num_decodes == batch.sampled.size == num_requests:
            return None
        return next((graph for graph in self._graphs if graph.size >= num_requests), None)

    def _capture(self, size: int, pool: Any) -> _Graph:
        buffer = self._make_buffer(size, size)
        inputs = buffer.inputs(size, size, is_decode=True)
        self._compute(inputs)  # what is compiled at the first call must not be captured
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            computed = self._compute(inputs)
        # Graphs follow each other, so their logits, the most of what they leave, may share memory.
        return _Graph(size, buffer, graph, replace(computed, logits=_lend(computed.logits)))

    def _make_buffer(self, num_tokens: int, num_requests: int) -> StepBuffer:
        return StepBuffer(num_tokens, num_requests, self._table, self._model.device)

    def _put(self, values: NDArray[Any]) -> torch.Tensor:
        return put(values, self._model.device)


def _graph_sizes(most: int) -> list[int]:
    """Batch sizes up to `most`, which is one of them."""
    sizes = (*SMALL_GRAPHS, *range(GRAPH_STEP, most, GRAPH_STEP))
    return [*(size for size in sizes if size < most), most]


class _Lent:
    """Memory of a tensor, which it does not keep."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.__cuda_array_interface__ = tensor.view(torch.uint8).__cuda_array_interface__


def _lend(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as long as nothing else is put in its place."""
    lent: torch.Tensor = torch.as_tensor(_Lent(tensor), device=tensor.device)
    return lent.view(tensor.dtype)


def _bind_forward(model: LoadedModel) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """The model as a function of a step's columns, which are those of `StepInputs`.

    It gives the token ids, int64 [T], and the logits at the places that are wanted, [n, V].
    """
    module = model.module
    can_choose = model.can_choose_logits
    last = [name for name, part in module.named_modules() if isinstance(part, WantedRows)]

    def forward(
        last_token: torch.Tensor, token_ids: torch.Tensor, token_rows: torch.Tensor,
        positions: torch.Tensor, wanted: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sampled_before = last_token[token_rows.clamp(min=0)]
        ids = torch.where(token_rows >= 0, sampled_before, token_ids).long()
        for name in last:
            module.get_submodule(name).places = wanted
        kept = {"logits_to_keep": wanted} if can_choose else {}
        logits: torch.Tensor = module(input_ids=ids[None], position_ids=positions.long()[None],
                                      use_cache=False, **kept).logits[0]
        return ids, logits if can_choose else logits[wanted]

    return forward

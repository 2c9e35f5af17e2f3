"""From settings to an engine that is known to compute what its model computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from tritonlm.config import ModelConfig
from tritonlm.engine.batch import Batch, build_batch
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.cache import FP8, bytes_per_slot
from tritonlm.engine.cache_size import choose_num_blocks
from tritonlm.engine.compiled import CompiledSteps, keep_compiled
from tritonlm.engine.device import is_out_of_memory
from tritonlm.engine.engine import Engine
from tritonlm.engine.grammar_tokenizer import load_grammar_tokenizer
from tritonlm.engine.grammars import Grammars
from tritonlm.engine.last_layer import trim_last_layer
from tritonlm.engine.loading import LoadedModel, load_model
from tritonlm.engine.merging import merge_projections
from tritonlm.engine.messages import Ready
from tritonlm.engine.rotary import keep_rotations
from tritonlm.engine.runner import Runner
from tritonlm.engine.scheduler import Scheduler
from tritonlm.engine.step_runner import StepRunner, SynchronousRunner
from tritonlm.engine.step_tokens import choose_step_tokens
from tritonlm.engine.table import MAX_STOP_IDS, RequestTable
from tritonlm.engine.tensor_parallel.group import Group
from tritonlm.errors import InvalidArgument, first_line

if TYPE_CHECKING:
    from tritonlm.engine.cuda_runner import CudaRunner

MAX_RELATIVE_ERROR = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2, FP8: 0.3}
"""By the least precise type that keys and values go through."""
MAX_EOS_IDS = MAX_STOP_IDS // 2
LAUNCHED_AHEAD = 1
"""Steps that a GPU is given before an earlier one is read back."""


@dataclass(frozen=True)
class DeviceSide:
    """What takes steps: the same in all processes that share a model."""

    config: ModelConfig
    model: LoadedModel
    table: RequestTable
    num_blocks: int
    runner: StepRunner
    depth: int
    """Steps that `runner` may be given before an earlier one is read back."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and the limits that its front ends hold requests to."""

    engine: Engine
    limits: Ready


def build_engine(
    config: ModelConfig,
    report: Callable[[str], None],
    load: Callable[[ModelConfig, Callable[[str], None]], LoadedModel] = load_model,
) -> BuiltEngine:
    """Load the model of `config` and make its engine; raises `InvalidArgument`.

    `report` gets a line of progress at a time.
    """
    device_side = build_device_side(config, report, load)
    config, model, table = device_side.config, device_side.model, device_side.table
    grammars = Grammars(partial(load_grammar_tokenizer, config, model.vocab_size,
                                model.eos_ids[:MAX_EOS_IDS]))
    scheduler = Scheduler(table, BlockPool(device_side.num_blocks), config, grammars)
    return BuiltEngine(Engine(scheduler, device_side.runner, depth=device_side.depth),
                       Ready(table.token_ids.shape[1], model.vocab_size))


def build_device_side(
    config: ModelConfig,
    report: Callable[[str], None],
    load: Callable[[ModelConfig, Callable[[str], None]], LoadedModel] = load_model,
) -> DeviceSide:
    """Load the model of `config`, or this process's part of it; raises `InvalidArgument`.

    All processes that share a model do this at the same time.
    """
    model = load(config, report)
    group = Group.of_process()
    step_tokens = group.least(choose_step_tokens(config, model), model.device)
    config = replace(config, max_num_batched_tokens=step_tokens)
    num_blocks = group.least(choose_num_blocks(config, model), model.device)
    num_slots = num_blocks * config.block_size
    max_model_len = min(model.max_model_len, num_slots)
    if config.max_model_len is not None and max_model_len < config.max_model_len:
        raise InvalidArgument("max_model_len", config.max_model_len,
                              f"the KV cache holds {num_slots} tokens; raise kv_cache_gib")
    cache_gib = num_slots * bytes_per_slot(model.layers, model.cache_dtype) / 2**30
    report(f"KV cache of {num_slots:,} tokens, {cache_gib:.2f} GiB, in {num_blocks:,} blocks; "
           f"up to {config.max_num_seqs} requests at once, {max_model_len:,} tokens each, "
           f"{step_tokens:,} tokens a step")
    has_fast_path = config.compile and model.device.type == "cuda"
    depth = LAUNCHED_AHEAD if has_fast_path else 0
    table = RequestTable(config.max_num_seqs * (1 + depth), max_model_len, config.block_size,
                         np.array(model.eos_ids[:MAX_EOS_IDS], np.int32))
    runner = (_fast_runner(config, model, table, num_blocks, report) if has_fast_path
              else _plain_runner(config, model, table, num_blocks))
    return DeviceSide(config, model, table, num_blocks, runner, depth)


def _plain_runner(
    config: ModelConfig, model: LoadedModel, table: RequestTable, num_blocks: int
) -> StepRunner:
    runner = Runner(model, num_blocks, config.block_size)
    _check_attention(config, model, runner.logits)
    return SynchronousRunner(partial(runner.run, table=table))


def _fast_runner(
    config: ModelConfig, model: LoadedModel, table: RequestTable, num_blocks: int,
    report: Callable[[str], None],
) -> StepRunner:
    from tritonlm.engine.cuda_runner import CudaRunner  # noqa: PLC0415  needs a GPU's packages

    # Its kernels for products of few rows are faster: 3 % of the whole with 32 requests.
    torch.backends.cuda.preferred_blas_library("cublaslt")
    folder = keep_compiled()
    merge_projections(model.module)
    keep_rotations(model.module)
    trim_last_layer(model.module)
    runner = CudaRunner(model, table, num_blocks, config)
    _check_attention(config, model, runner.logits)
    report(f"compiling, which takes minutes the first time and seconds later; kept in {folder}")
    _make_fast(runner, CompiledSteps(folder, model.module, report), model, report)
    return runner


def _make_fast(
    runner: CudaRunner, steps: CompiledSteps, model: LoadedModel, report: Callable[[str], None]
) -> None:
    """Compile and capture; raises `InvalidArgument` for a model that cannot be compiled.

    One that cannot be captured waits for the device within a step: transformers' experts do so in
    all types but bfloat16.
    """
    kind, dtype = type(model.module).__name__, str(model.dtype).removeprefix("torch.")
    try:
        runner.compile(steps, partial(tqdm, desc="tritonlm: compiling", unit="variant"))
    except Exception as error:  # torch has many reasons
        if is_out_of_memory(error):
            raise
        raise InvalidArgument("compile", True, f"{kind} cannot be compiled, with false it is "
                              f"served as it is: {first_line(error)}") from error
    try:
        runner.capture(partial(tqdm, desc="tritonlm: capturing graphs", unit="graph"))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        report(f"{kind} in {dtype} cannot be captured in CUDA graphs, and its kernels are launched "
               f"one by one, which is slower: {first_line(error)}")


def _check_attention(
    config: ModelConfig, model: LoadedModel, compute_logits: Callable[[Batch], torch.Tensor]
) -> None:
    """Refuse a model that says something else with paged attention than with its own, or nothing.

    Two requests share a batch, and one of them comes in two chunks: so a layer that keeps a state
    of its own, or looks at its neighbours in the batch, is found out.
    """
    kind = type(model.module).__name__
    try:
        all_logits = _sample_logits(config, model, compute_logits)
    except Exception as error:  # whatever the model's code raises
        if is_out_of_memory(error):
            raise
        raise InvalidArgument("model", config.model, f"{kind} does not run with paged attention: "
                              f"{first_line(error)}") from error
    for sample, logits in zip(model.samples, all_logits, strict=True):
        distance = (logits[-1] - sample.logits).norm() / sample.logits.norm()
        if not distance <= MAX_RELATIVE_ERROR[model.cache_dtype]:
            raise InvalidArgument("model", config.model, f"{kind} computes something else with "
                                  f"paged attention (error {distance:.2g})")


def _sample_logits(
    config: ModelConfig, model: LoadedModel, compute_logits: Callable[[Batch], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is predicted after the last token of each of the model's two samples."""
    long, short = (np.array(sample.token_ids, np.int32) for sample in model.samples)
    block_size = config.block_size
    table = RequestTable(2, long.size, block_size, np.zeros(0, np.int32))
    num_blocks = table.blocks_for(long.size)
    for row, prompt in enumerate((long, short)):
        table.token_ids[row, : prompt.size] = prompt
        table.num_tokens[row] = prompt.size
        table.block_tables[row] = np.arange(num_blocks) + row * num_blocks
    rows = np.arange(2, dtype=np.int32)
    short_logits = compute_logits(build_batch(table, rows, np.array([4, short.size], np.int32)))
    table.num_computed[0] = 4
    long_logits = compute_logits(build_batch(table, rows[:1], np.array([long.size - 4], np.int32)))
    return long_logits, short_logits

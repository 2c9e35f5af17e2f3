"""What a model needs when it is loaded, told from its files: nothing is loaded for it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from tritonlm.config import ModelConfig
from tritonlm.encoders.config import TaskConfig
from tritonlm.server.checkpoint import PICKLES, SAFETENSORS

GIB = 2**30
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
STORED_BYTES = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}
"""Of an element in a file of safetensors; all other types have one byte."""
INT4_BYTES = 0.5 + 4 / 64
"""Of an element of a matrix in NF4: a block of 64 elements has a scale in float32."""
LOOKED_UP = ("embed", "wte", "wpe", "lm_head")
"""In names of matrices that are not quantised."""
HOST_PROCESS_BYTES = {"generate": int(0.8 * GIB), "embed": int(0.6 * GIB),
                      "rerank": int(0.6 * GIB), "classify": GIB // 2}
"""Of Python, torch and transformers in all processes of a model on a CPU, as measured."""
DEVICE_PROCESS_BYTES = GIB
"""On a GPU: a CUDA context, graphs, and what a step computes with."""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
WIDTHS = ("hidden_size", "n_embd", "d_model")
LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
"""What a checkpoint's config calls them, by family."""


class MemoryNeed(NamedTuple):
    """Bytes, on the device that computes."""

    weights: int
    kv_cache: int
    processes: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)

    def __str__(self) -> str:
        return (f"{self.total / GIB:.2f} GiB (weights {self.weights / GIB:.2f}, KV cache "
                f"{self.kv_cache / GIB:.2f}, processes {self.processes / GIB:.2f})")


def estimate(folder: Path, config: ModelConfig | TaskConfig, task: str, device: str) -> MemoryNeed:
    """What the model of the checkpoint in `folder` needs on `device`, cpu or cuda."""
    checkpoint = read_config(folder)
    dtype = _dtype(config, checkpoint, device)
    weights = _weights_bytes(folder, DTYPE_BYTES[dtype], getattr(config, "quantization", "none"))
    if not any(folder.glob(SAFETENSORS)):  # pickles tell nothing unless they are loaded
        stored = sum(file.stat().st_size for file in folder.glob(PICKLES))
        weights = stored * DTYPE_BYTES[dtype] // DTYPE_BYTES[_stored_dtype(checkpoint)]
    num_processes, num_copies, cache = 1, 1.0, 0.0
    if isinstance(config, ModelConfig):
        cache = (config.kv_cache_gib or default_kv_cache_gib(folder, config, device)) * GIB
        num_copies = 1 / config.tensor_parallel
        if device == "cpu":  # on GPUs each process has its own
            num_processes = config.num_engines * config.tensor_parallel
            num_copies = config.num_engines
    fixed = HOST_PROCESS_BYTES[task] if device == "cpu" else DEVICE_PROCESS_BYTES
    return MemoryNeed(int(num_copies * weights), int(num_processes * cache),
                      num_processes * fixed)


def default_kv_cache_gib(folder: Path, config: ModelConfig, device: str) -> float:
    """1 GiB, or what one request of the greatest length needs."""
    return max(1.0, math.ceil(100 * longest_request_bytes(folder, config, device) / GIB) / 100)


def longest_request_bytes(folder: Path, config: ModelConfig, device: str) -> int:
    """KV cache of one request of `max_model_len` tokens, in each process; 0 if unknown."""
    checkpoint = read_config(folder)
    layers, heads, width = (_first(checkpoint, names) for names in (LAYERS, HEADS, WIDTHS))
    length = config.max_model_len or _first(checkpoint, LENGTHS)
    if not (layers and heads and width and length):
        return 0
    num_kv_heads = checkpoint.get("num_key_value_heads") or heads
    head_dim = checkpoint.get("head_dim") or width // heads
    size = 1 if config.kv_cache_dtype == "fp8" else DTYPE_BYTES[_dtype(config, checkpoint, device)]
    num_bytes = 2 * layers * num_kv_heads * head_dim * length * size
    return int(num_bytes / config.tensor_parallel)


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config; of one for several kinds of input, that of its language model."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return {**config, **config.get("text_config", {})}


def _dtype(config: ModelConfig | TaskConfig, checkpoint: dict[str, Any], device: str) -> str:
    """What weights are computed in."""
    if config.dtype != "auto":
        return config.dtype
    if device == "cpu":
        return "float32"
    return _stored_dtype(checkpoint) if isinstance(config, ModelConfig) else "bfloat16"


def _stored_dtype(checkpoint: dict[str, Any]) -> str:
    stored = str(checkpoint.get("dtype") or checkpoint.get("torch_dtype"))
    return stored if stored in DTYPE_BYTES else "float32"


def _weights_bytes(folder: Path, size: int, quantization: str) -> int:
    return int(sum(_tensor_bytes(name, tensor, size, quantization)
                   for file in folder.glob(SAFETENSORS)
                   for name, tensor in _read_header(file).items() if name != "__metadata__"))


def _read_header(file: Path) -> dict[str, Any]:
    """Names, types and shapes of a file's tensors."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
        return header


def _tensor_bytes(name: str, tensor: dict[str, Any], size: int, quantization: str) -> float:
    num_elements: int = math.prod(tensor["shape"])
    if tensor["dtype"] not in {"F64", "F32", "BF16", "F16"}:
        return num_elements * STORED_BYTES.get(tensor["dtype"], 1)
    is_matrix = len(tensor["shape"]) == 2 and not any(part in name for part in LOOKED_UP)
    if quantization == "int4" and is_matrix:
        return num_elements * INT4_BYTES
    return num_elements * size


def _first(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if config.get(name)), None)

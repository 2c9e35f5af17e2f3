"""Loading a checkpoint with transformers' own code, and refusing what cannot be served."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from math import inf

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from tritonlm.config import ModelConfig
from tritonlm.engine.attention.interface import ATTENTION_NAME, UnsupportedAttention, use_attention
from tritonlm.engine.cache import CACHE_DTYPES, LayerShape
from tritonlm.engine.device import choose_device
from tritonlm.engine.rotary import pin_rotations
from tritonlm.engine.tensor_parallel.group import Group
from tritonlm.engine.tensor_parallel.sharding import CannotShard, shard
from tritonlm.errors import InvalidArgument, first_line

QUANTIZATION_PACKAGES = ("accelerate", "bitsandbytes")
MAX_LEN_WITHOUT_LIMIT = 8192
"""Length of models whose checkpoint names none."""
FULL, SLIDING = "full_attention", "sliding_attention"
MIN_FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Sample:
    """A prompt, and the logits after its last token, float32 [V], by the model as it came."""

    token_ids: tuple[int, ...]
    logits: torch.Tensor


@dataclass(frozen=True)
class LoadedModel:
    """A model whose attention is ours."""

    module: PreTrainedModel
    layers: dict[int, LayerShape]
    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    """Of keys and values in the KV cache."""
    max_model_len: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    samples: tuple[Sample, ...]
    """What the model said with its own attention, to check ours against."""

    @cached_property
    def can_choose_logits(self) -> bool:
        """Whether the model computes the logits of some tokens alone: `logits_to_keep`."""
        return "logits_to_keep" in inspect.signature(self.module.forward).parameters


class _Probe:
    """Stands in for paged attention once, to see the shape and the window of every layer."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}
        self._windows: dict[int, int | None] = {}

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        scale: float, window: int | None = None, softcap: float | None = None,
    ) -> torch.Tensor:
        if layer in self.layers:
            raise UnsupportedAttention(f"layer {layer} attends more than once")
        self.layers[layer] = LayerShape(key.shape[1], key.shape[2], value.shape[2])
        self._windows[layer] = window
        return query.new_zeros(*query.shape[:2], value.shape[2])

    def check(self, config: PreTrainedConfig, max_model_len: int) -> None:
        """Raise `UnsupportedAttention` unless all layers were seen to attend as `config` says."""
        num_layers, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
        if sorted(self.layers) != list(range(num_layers)):
            raise UnsupportedAttention(f"{len(self.layers)} of its {num_layers} layers use it")
        same = [SLIDING if window else FULL] * num_layers
        # A sample is shorter than a window: its logits cannot show that one is missing.
        for layer, layer_type in enumerate(getattr(config, "layer_types", None) or same):
            if layer_type not in (FULL, SLIDING):
                raise UnsupportedAttention(f"layer {layer} is of {layer_type}; "
                                           f"allowed: {FULL}, {SLIDING}")
            seen, expected = self._windows[layer], window if layer_type == SLIDING else None
            if seen != expected and min(seen or inf, expected or inf) < max_model_len:
                raise UnsupportedAttention(f"layer {layer}, of {layer_type}, asks for a window of "
                                           f"{seen}, not {expected}")


def load_model(config: ModelConfig, report: Callable[[str], None]) -> LoadedModel:
    """The model of `config` on its device; raises `InvalidArgument` for what cannot be served.

    `report` gets a line of progress at a time. In a process that shares the model with others,
    its part of it.
    """
    device, group = choose_device(config.device), Group.of_process()
    module = _read_checkpoint(config, device)
    if group.size > 1:
        try:
            shard(module, group)
        except CannotShard as error:
            raise InvalidArgument("tensor_parallel", group.size,
                                  f"{type(module).__name__}: {error}") from None
        report(f"part {group.rank + 1} of {group.size} of the model")
    return adopt_module(config, module.to(device), report)


def adopt_module(
    config: ModelConfig, module: PreTrainedModel, report: Callable[[str], None]
) -> LoadedModel:
    """Give `module` our attention, in place; raises `InvalidArgument` if it cannot take it."""
    device = module.device
    module.requires_grad_(False).eval()
    num_bytes = sum(p.numel() * p.element_size() for p in module.parameters())
    report(f"loaded {type(module).__name__}, {module.num_parameters() / 1e6:,.1f} M parameters, "
           f"{num_bytes / 2**30:.2f} GiB as {str(module.dtype).removeprefix('torch.')} on {device}")
    max_model_len = _max_model_len(config, module)
    pin_rotations(module, max_model_len)
    samples = tuple(_sample(config.model, module, length) for length in (7, 4))
    return LoadedModel(
        module=module,
        layers=_probe_layers(config.model, module, max_model_len),
        device=device,
        dtype=module.dtype,
        cache_dtype=_cache_dtype(config, module),
        max_model_len=max_model_len,
        vocab_size=module.get_input_embeddings().num_embeddings,
        eos_ids=_eos_ids(module),
        samples=samples,
    )


def _read_checkpoint(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    dtype = config.dtype
    if dtype == "auto" and device.type == "cpu":
        dtype = "float32"
    name, revision = config.model, config.revision
    if os.sep in name and not os.path.isdir(name) and name.startswith((".", "/", "~")):
        raise InvalidArgument("model", name, "there is no such folder")
    quantization = _quantization(config.quantization)
    try:
        checkpoint_config = AutoConfig.from_pretrained(name, revision=revision)
        module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            name, config=checkpoint_config, revision=revision, dtype=dtype,
            quantization_config=quantization)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise InvalidArgument("model", name, f"it cannot be loaded: {first_line(error)}") from error
    return module


def _quantization(name: str) -> BitsAndBytesConfig | None:
    """How transformers is to quantise weights; raises `InvalidArgument` where it cannot."""
    if name == "none":
        return None
    missing = [package for package in QUANTIZATION_PACKAGES if find_spec(package) is None]
    if missing:
        raise InvalidArgument(
            "quantization", name, f"{' and '.join(missing)} must be installed: "
                                  "pip install -c constraints.txt -e '.[quantization]'")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


@torch.inference_mode()
def _sample(name: str, module: PreTrainedModel, length: int) -> Sample:
    vocab_size = module.get_input_embeddings().num_embeddings
    token_ids = tuple((length + 31 * place) % vocab_size for place in range(length))
    try:
        logits = module(torch.tensor([token_ids], device=module.device), use_cache=False).logits
    except Exception as error:
        raise InvalidArgument("model", name, f"{type(module).__name__} does not run on plain "
                                             f"token ids: {first_line(error)}") from error
    return Sample(token_ids, logits[0, -1].float())


def _probe_layers(
    name: str, module: PreTrainedModel, max_model_len: int
) -> dict[int, LayerShape]:
    """Switch `module` to our attention and run three tokens through it."""
    kind, probe = type(module).__name__, _Probe()
    try:
        module.set_attn_implementation(ATTENTION_NAME)
        with use_attention(probe), torch.inference_mode():
            tokens = torch.zeros(1, 3, dtype=torch.long, device=module.device)
            module(input_ids=tokens, position_ids=tokens, use_cache=False)
        probe.check(module.config.get_text_config(), max_model_len)
    except Exception as error:
        raise InvalidArgument("model", name, f"{kind} cannot take a paged attention: "
                                             f"{first_line(error)}") from error
    return probe.layers


def _cache_dtype(config: ModelConfig, module: PreTrainedModel) -> torch.dtype:
    dtype: torch.dtype = CACHE_DTYPES.get(config.kv_cache_dtype, module.dtype)
    if dtype == module.dtype:
        return dtype
    if (module.device.type == "cuda"
            and torch.cuda.get_device_capability(module.device) < MIN_FP8_CAPABILITY):
        raise InvalidArgument("kv_cache_dtype", config.kv_cache_dtype, "this GPU has no 8-bit "
                              "floats, which came with compute capability 8.9; allowed: auto")
    return dtype


def _max_model_len(config: ModelConfig, module: PreTrainedModel) -> int:
    text_config = module.config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None)
    asked = config.max_model_len
    if limit is not None and asked is not None and asked > limit:
        raise InvalidArgument("max_model_len", asked, f"the checkpoint is made for at most {limit}")
    return int(asked or limit or MAX_LEN_WITHOUT_LIMIT)


def _eos_ids(module: PreTrainedModel) -> tuple[int, ...]:
    generation = getattr(module, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    if eos is None:
        eos = module.config.get_text_config().eos_token_id
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list | tuple) else (int(eos),)

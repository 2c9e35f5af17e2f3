"""Compiled code, kept in files so that only the first start takes long."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from tritonlm.engine.tensor_parallel.group import Group

VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
FORWARD = Callable[..., tuple[torch.Tensor, torch.Tensor]]
ENGINE_FOLDER = Path(__file__).parent


def keep_compiled() -> Path:
    """Have torch and Triton keep what they compile in the user's cache, if not told where.

    Returns the folder for what is ours.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tritonlm"
    for variable, name in VARIABLES.items():
        os.environ.setdefault(variable, str(cache / name))
    return cache / "steps"


class CompiledSteps:
    """Functions of one model, compiled once for good: tracing a model anew takes half a minute."""

    def __init__(
        self, folder: Path, module: torch.nn.Module, report: Callable[[str], None]
    ) -> None:
        """What is compiled for `module`, as it is, has a folder of its own in `folder`."""
        self._folder = folder / fingerprint(module)
        self._module, self._report = module, report

    def compile(
        self, name: str, function: FORWARD, arguments: tuple[torch.Tensor, ...], **settings: Any
    ) -> FORWARD:
        """`function`, which has the model as its variable `module`, compiled for such `arguments`.

        Their dimensions that are marked as dynamic may be of any size but 0 and 1. `settings` are
        those of torch.compile.
        """
        path = self._folder / f"{name}-{_signature(arguments)}.bin"
        try:
            return self._load(path, function)
        except FileNotFoundError:
            pass
        except Exception as error:  # whatever reading a damaged file raises
            self._report(f"{path} is of no use, compiling anew: {error}")
        try:
            return self._make(path, function, arguments, settings)
        except Exception as error:  # torch has many reasons
            self._report(f"what is compiled cannot be kept: {str(error).splitlines()[0]}")
            compiled: FORWARD = torch.compile(function, **settings)
            compiled(*arguments)
            return compiled

    def _load(self, path: Path, function: FORWARD) -> FORWARD:
        with path.open("rb") as file:
            kept: Any = torch.compiler.load_compiled_function(
                file, f_globals=function.__globals__, external_data={"module": self._module})
        kept.disable_guard_check()
        return cast(FORWARD, kept)

    def _make(
        self, path: Path, function: FORWARD, arguments: tuple[torch.Tensor, ...],
        settings: dict[str, Any],
    ) -> FORWARD:
        torch._dynamo.config.enable_aot_compile = True
        # The engine calls it with what it was compiled for; guards on the model cannot be kept.
        options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        compiled: Any = torch.compile(function, fullgraph=True, **settings | {
            "options": settings.get("options", {}) | options})
        made = compiled.aot_compile((arguments, {}))
        made.disable_guard_check()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        made.save_compiled_function(str(draft), {"module": self._module})
        draft.replace(path)  # whoever reads it now sees it whole
        return cast(FORWARD, made)


def _signature(arguments: tuple[torch.Tensor, ...]) -> str:
    """Of what the compiled code takes for granted of `arguments`: it does not check."""
    facts = [(argument.dtype, argument.stride(),
              [-1 if place in getattr(argument, "_dynamo_dynamic_indices", ()) else size
               for place, size in enumerate(argument.shape)]) for argument in arguments]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def fingerprint(module: torch.nn.Module) -> str:
    """Of all that its compiled code depends on: code, config, tensors, device and versions."""
    digest = hashlib.sha256()
    for fact in _facts(module):
        digest.update(fact.encode() + b"\0")
    return digest.hexdigest()[:32]


def _kind_of(device: torch.device) -> str:
    """The same for all GPUs of a kind."""
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return repr((properties.name, properties.major, properties.minor,
                 properties.multi_processor_count, properties.total_memory))


def _facts(module: torch.nn.Module) -> Iterator[str]:
    yield str(Group.of_process())  # the rank is a part of the code
    yield from (sys.version, torch.__version__, transformers.__version__)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield f"{name} {tuple(tensor.shape)} {tuple(tensor.stride())} {tensor.dtype}"
    devices = {parameter.device for parameter in module.parameters()}
    for device in sorted(devices, key=str):
        yield str(device)
        yield _kind_of(device)
    yield str(getattr(module, "config", None))
    classes = {type(part) for part in module.modules()}
    files = {inspect.getfile(kind) for kind in classes if kind.__module__ != "builtins"}
    files |= {str(path) for path in ENGINE_FOLDER.rglob("*.py")}
    for path in sorted(files):
        yield hashlib.sha256(Path(path).read_bytes()).hexdigest()

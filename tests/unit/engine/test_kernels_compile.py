"""The kernels through Triton's compiler, for a GPU that need not be there.

The interpreter runs what the compiler may refuse.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

HOPPER = ("cuda", 90, 32)
COMPILE = """
import itertools
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tritonlm.engine.attention import cache_write, decode, prefill, splits, tile
from tritonlm.engine import drawing

def build(kernel, num_warps, constants, others):
    arguments = {name: others.get(name, "*i32" if name.endswith("_ptr") else "i32")
                 for name in kernel.arg_names if name not in constants}
    constants = {name: value for name, value in constants.items()}
    signature = arguments | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    compile(ASTSource(kernel, signature, places), target=GPUTarget(*%r),
            options={"num_warps": num_warps, "num_stages": 2})

HALVES = {name + "_ptr": "*bf16" for name in
          ("out", "query", "new_keys", "new_values", "keys", "values", "logits")}
FLOATS = {"slope": "fp32", "unit": "fp32", "averages_ptr": "*fp32", "weights_ptr": "*fp32"}
SHAPES = {
    "plain": tile.CacheShape(128, 16, 16 * 8 * 128, 8 * 128, 128),
    "padded": tile.CacheShape(80, 64, 64 * 8 * 80, 8 * 80, 80),
}
CACHES = {"bfloat16": {}, "8 bits": dict.fromkeys(("keys_ptr", "values_ptr"), "*fp8e4nv")}
for cache, kept in itertools.product(SHAPES.values(), CACHES.values()):
    HALVES |= dict.fromkeys(("keys_ptr", "values_ptr"), "*bf16") | kept
    for window, is_capped in ((0, False), (100, True)):
        layer = tile.Layer(2, cache, cache, window, is_capped)
        build(splits._find, 4, {"WINDOW": window, "TILE": 32, "REQUESTS": 32}, {})
        build(decode._decode, 2, {"LAYER": layer, "ROWS": 16, "TILE": 32,
                                  "CHUNK": 8}, HALVES | FLOATS)
        build(prefill._prefill, 4, {"LAYER": layer, "ROWS": 64, "TILE": 32,
                                    "REQUESTS": 32}, HALVES | FLOATS)
    build(cache_write._write, 4, {"HEADS": 8, "PADDED_HEADS": 8, "KEYS": cache,
                                  "VALUES": cache}, HALVES)
build(drawing._draw, 4, {"WORDS": 6, "BITS": 16, "IDS": 1024}, HALVES | {"tokens_ptr": "*i64"})
"""


@pytest.mark.timeout(300)
def test_kernels_compile_for_a_gpu_of_the_day():
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE % (HOPPER,)], env=environ,
                          capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

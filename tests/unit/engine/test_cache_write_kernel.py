"""Keys and values on their way into the paged cache."""

from __future__ import annotations

import pytest
import torch
from paged_cache import DEVICE, Layer, PagedCache, random

from tritonlm.engine.cache import FP8

pytest.importorskip("triton")

from tritonlm.engine.attention.cache_write import write_cache

pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan", "same_numbers")


@pytest.mark.parametrize("is_heads_first", [False, True])
@pytest.mark.parametrize("dims", [(64, 64), (80, 24)])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_write_cache(dims: tuple[int, int], is_heads_first: bool, index_dtype: torch.dtype) -> None:
    layer = Layer(4, 3, *dims, dtype=torch.float16)
    cache = PagedCache(layer, [20], is_heads_first)
    before = cache.keys.clone(), cache.values.clone()
    fused = random(5, layer.kv_heads, sum(dims) + 8, dtype=layer.dtype)
    new_keys, new_values = fused[..., : dims[0]], fused[..., 8 + dims[0]:]
    slots = torch.tensor([40, -1, 0, 17, -1], dtype=index_dtype, device=DEVICE)

    write_cache(cache.keys, cache.values, slots, new_keys, new_values)

    for written, old, new in zip((cache.keys, cache.values), before, (new_keys, new_values),
                                 strict=True):
        for token in (0, 2, 3):
            block, place = divmod(int(slots[token]), layer.block_size)
            old[block, place] = new[token]
        assert torch.equal(written.nan_to_num(9.5), old.nan_to_num(9.5))


def test_8_bits_hold_what_they_can() -> None:
    layer = Layer(2, 2, 16, 16, dtype=torch.float16, cache_dtype=FP8)
    cache = PagedCache(layer, [16])
    new = torch.tensor([1.0, -3.5, 448.0, 500.0, -60000.0, 0.0, 0.0625, 2**-9], device=DEVICE)
    new = new.repeat(2).half().expand(1, 2, 16)
    write_cache(cache.keys, cache.values, torch.tensor([3], device=DEVICE), new, new)
    for stored in (cache.keys[0, 3], cache.values[0, 3]):
        assert torch.equal(stored.float(), new[0].float().clamp(-448, 448))


def test_write_cache_takes_transposed_tokens() -> None:
    layer = Layer(2, 2, 16, 16)
    cache = PagedCache(layer, [16])
    new = random(2, 16, 3, dtype=layer.dtype).permute(2, 0, 1)
    write_cache(cache.keys, cache.values, torch.arange(3, device=DEVICE), new, new + 1)
    assert torch.equal(cache.keys[0, :3], new)
    assert torch.equal(cache.values[0, :3], new + 1)

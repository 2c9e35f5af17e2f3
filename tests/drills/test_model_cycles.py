"""Models that come and go leave nothing: no process, and no memory of the server.

One that finds no memory fails alone.
"""

from __future__ import annotations

import asyncio
import json

import psutil
import pytest
import torch
from tests.drills.load import STREAM, connect
from tests.drills.waiting import until
from tests.fakes.echo_store import echo_store
from tests.task_checkpoints import MAX_LEN, save_embedder
from transformers import AutoModel, BertConfig

from tritonlm.encoders.config import EmbedConfig
from tritonlm.errors import Unavailable
from tritonlm.manager.client import ManagerClient
from tritonlm.manager.limits import Limits
from tritonlm.server import model_processes
from tritonlm_client import AsyncClient

NUM_CYCLES = 10
WARM_UP = 2
"""Cycles in which the server's allocators and threads come to their size."""
MAX_GROWTH_MIB = 8
MAX_KEPT_BYTES = 32 * 2**20
"""On a GPU, of what the server itself takes later than at its start: no process has so little."""
NUM_STREAMS = 8
"""At once, while a model loads."""


@pytest.mark.timeout(300)
@pytest.mark.drill
async def test_loading_and_unloading_after_streams_leaves_no_memory_and_no_process():
    resident_mib = []
    with echo_store({"alpha": {}}, Limits(), step_ms=2) as served:
        tritonserver = psutil.Process(served.server.pid)
        async with ManagerClient("localhost", served.manager_port) as manager, connect() as session:
            for _ in range(NUM_CYCLES):
                await manager.do("load", "alpha")
                await asyncio.gather(*(_stream(session, served.server.http_url)
                                       for _ in range(32)))
                await manager.do("unload", "alpha")
                assert model_processes.find(served.server.run_dir) == []
                resident_mib.append(tritonserver.memory_info().rss / 2**20)
    assert resident_mib[-1] - resident_mib[WARM_UP - 1] < MAX_GROWTH_MIB, resident_mib


def on_gpu(test):
    for mark in (pytest.mark.gpu, pytest.mark.drill,
                 pytest.mark.timeout(900),  # compiling takes minutes the first time
                 pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")):
        test = mark(test)
    return test


@on_gpu
async def test_unloading_gives_a_gpu_its_memory_back():
    with echo_store({"alpha": {"device": "cuda", "kv_cache_gib": 1}}, Limits()) as served:
        use_engine(served, "alpha", "tritonlm.engine.worker")
        await _cycle_on_gpu(served, "alpha", 2**30, lambda session: asyncio.gather(*(
            _stream(session, served.server.http_url) for _ in range(NUM_STREAMS))))


@on_gpu
async def test_unloading_an_embedder_with_its_graphs_gives_a_gpu_its_memory_back(tmp_path):
    save_embedder(tmp_path)
    with echo_store({"alpha": {}}, Limits()) as served:
        served.store.add("texts", "embed", EmbedConfig(model=str(tmp_path), device="cuda"))
        await _cycle_on_gpu(served, "texts", MAX_KEPT_BYTES,
                            lambda session: _embed(session, served.server.http_url))


async def _cycle_on_gpu(served, name, least_bytes, use):
    """Load it, use it and unload it, twice."""
    before = _used_bytes()
    async with ManagerClient("localhost", served.manager_port) as manager, connect() as session:
        for _ in range(2):
            await manager.do("load", name)
            await use(session)
            assert _used_bytes() > before + least_bytes
            await manager.do("unload", name)
            await until(lambda: _used_bytes() <= before + MAX_KEPT_BYTES, _used_bytes)


def _used_bytes():
    num_free, num_bytes = torch.cuda.mem_get_info()
    return num_bytes - num_free


async def _embed(session, url):
    async with session.post(f"{url}/v2/models/texts/infer", json={"inputs": [
            {"name": "text_input", "shape": [2, 1], "datatype": "BYTES",
             "data": ["the cat", "the sun of York"]}]}) as answer:
        assert answer.status == 200, await answer.text()


def use_engine(served, name, module):
    """Have a model's processes start another engine than an echo."""
    for part in (name, f"{name}_complete"):
        code = served.store.folder / part / "1" / "model.py"
        code.write_text(code.read_text().replace("tests.fakes.echo_engine", module))


OUT_OF_MEMORY = """
import resource
import psutil
from transformers.models.bert import modeling_bert  # what is still to come is the weights
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 200 * 2**20,) * 2)
"""


def add_big_weights(served, folder):
    """An embedder of 88 million parameters, 336 MiB."""
    save_embedder(folder)
    AutoModel.from_config(BertConfig(
        vocab_size=160, hidden_size=2048, num_hidden_layers=3, num_attention_heads=16,
        max_position_embeddings=MAX_LEN,
    )).save_pretrained(folder)
    served.store.add("big", "embed", EmbedConfig(model=str(folder), device="cpu"))
    code = served.store.folder / "big" / "1" / "model.py"
    code.write_text(code.read_text() + OUT_OF_MEMORY)


def add_big_cache(served, _):
    """A language model that is small, and has 4 GiB for keys and values."""
    served.add("big", kv_cache_gib=4)
    use_engine(served, "big", "tests.fakes.hungry_engine")


@pytest.mark.drill
@pytest.mark.parametrize(("add", "reason"), [
    (add_big_weights, "model: .* there is not enough memory for it: .*allocate memory"),
    (add_big_cache, "there is not enough memory for the model and its KV cache, kv_cache_gib: .*"
                    "allocate memory"),
])
async def test_a_load_that_runs_out_of_memory_says_so_and_others_go_on(tmp_path, add, reason):
    """The system gives the model's process no more memory: what it meets is the real error."""
    with echo_store({"alpha": {}}, Limits(), step_ms=2) as served:
        add(served, tmp_path)
        async with ManagerClient("localhost", served.manager_port) as manager, connect() as session:
            await manager.do("load", "alpha")
            processes = {found.process for found in model_processes.find(served.server.run_dir)}
            loading = asyncio.create_task(manager.do("load", "big"))
            async with AsyncClient(served.server.grpc_url, "alpha") as client:
                await asyncio.gather(*(_streams_until(loading.done, client)
                                       for _ in range(NUM_STREAMS)))
            with pytest.raises(Unavailable, match=f"the model big cannot be loaded: {reason}"):
                await loading
            await _stream(session, served.server.http_url)
            assert processes == {
                found.process for found in model_processes.find(served.server.run_dir)}


async def _streams_until(is_over, client):
    """One after the other, at least one of them after that."""
    is_last = False
    while not is_last:
        is_last = is_over()
        chunks = [chunk async for chunk in client.stream("Hi", max_tokens=100, ignore_eos=True)]
        assert chunks[-1].finish_reason == "length"


async def _stream(session, url):
    async with session.post(f"{url}/v2/models/alpha/generate_stream",
                            json=STREAM | {"max_tokens": 100}) as answer:
        events = [json.loads(line.removeprefix(b"data: ")) async for line in answer.content
                  if line.startswith(b"data: ")]
    assert events[-1]["finish_reason"] == "length"

"""Several models behind one server that has room for one: loaded by request, changed under load."""

from __future__ import annotations

import asyncio
import json
import re
import time

import aiohttp
import pytest
from tests.drills.waiting import LIMIT_S, until
from tests.fakes.echo_store import echo_store
from tests.integration.gateway import get, post, running_gateway
from tests.task_checkpoints import save_classifier, save_cross_encoder, save_embedder
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.errors import NotFound, Unavailable
from tritonlm.manager.client import ManagerClient
from tritonlm.manager.limits import Limits
from tritonlm.server import model_processes

pytestmark = pytest.mark.timeout(300)  # each test loads several models
PROMPT = "ROMEO:"
PROMPT_IDS = [0, 850, 30]
MODELS = {"alpha": {"default_max_tokens": 30}, "beta": {}, "broken": {"model": "/no/such/folder"}}


@pytest.fixture(scope="module")
def served():
    with echo_store(MODELS, Limits(max_models=1, room_timeout_s=100)) as served:
        yield served


@pytest.fixture(scope="module")
def gateway(served):
    metrics_port = served.server.metrics_url.rsplit(":", 1)[1].removesuffix("/metrics")
    with running_gateway(
            f"{served.server.grpc_url}:{metrics_port}:{served.manager_port}") as url:
        yield url


@pytest.fixture
async def manager(served):
    async with ManagerClient("localhost", served.manager_port) as client:
        yield client


async def status(manager, name):
    return next(model for model in (await manager.status()).models if model.name == name)


async def until_status(manager, name, is_so):
    due_s = time.monotonic() + LIMIT_S
    while not is_so(found := await status(manager, name)):
        assert time.monotonic() < due_s, found
        await asyncio.sleep(0.02)


def processes_of(served, name):
    return [found for found in model_processes.find(served.server.run_dir)
            if found.model == name or found.model.startswith(f"{name}_")]


def series_of(served, name):
    """Our metrics of a model and its helpers that are on the server's page."""
    return re.findall(rf'^tritonlm_.*model="{name}(?:_\w+)?".*$',
                      get(served.server.metrics_url)[1].decode(), re.MULTILINE)


async def ask(session, gateway, model="alpha", **options):
    """The last event of a stream, and how many tokens it had; an error is raised."""
    body = {"model": model, "text_input": PROMPT, "ignore_eos": True, **options}
    async with session.post(f"{gateway}/generate_stream", json=body) as answer:
        events = [json.loads(line.removeprefix(b"data: ")) async for line in answer.content
                  if line.startswith(b"data: ")]
    assert answer.status == 200
    assert events[-1].get("finish_reason") == "length", events[-1]
    return events[-1]["num_output_tokens"]


async def test_models_are_loaded_by_request_and_make_room_for_each_other(gateway, served, manager):
    _, listed = get(f"{gateway}/v1/models")
    assert {model["id"] for model in json.loads(listed)["data"]} == {*MODELS}
    assert not processes_of(served, "alpha")
    for model, other in (("beta", "alpha"), ("alpha", "beta")):
        code, told = await asyncio.to_thread(
            post, f"{gateway}/v1/completions", {"model": model, "prompt": PROMPT, "max_tokens": 3})
        assert (code, told["usage"]["completion_tokens"]) == (200, 3), told
        loaded, unloaded = await status(manager, model), await status(manager, other)
        assert (loaded.state, unloaded.state) == ("ready", "unloaded")
        assert loaded.resident_bytes > 2**26 > unloaded.resident_bytes == 0
        assert processes_of(served, model)
        assert not processes_of(served, other), "what is unloaded has left processes"
        assert series_of(served, model)
        assert not series_of(served, other), "alerts would go by what it said last"
    code, told = await asyncio.to_thread(
        post, f"{gateway}/tokenize", {"model": "alpha", "prompt": PROMPT})
    assert (code, told["tokens"]) == (200, PROMPT_IDS)
    assert (await status(manager, "alpha")).num_loads == 1


async def test_a_model_in_use_stays_and_one_that_waits_gets_its_turn(gateway, manager):
    async with aiohttp.ClientSession() as session:
        long = asyncio.ensure_future(ask(session, gateway, max_tokens=200))
        await until_status(manager, "alpha", lambda status: status.num_leases)
        with pytest.raises(Unavailable, match="alpha is ready, and 1 requests use it"):
            await manager.do("unload", "alpha")
        waiting = asyncio.ensure_future(manager.lease("beta"))
        assert await long == 200
        await waiting
    assert (await status(manager, "alpha")).state == "unloaded"


async def test_a_load_that_fails_tells_why_and_the_others_go_on(gateway, manager):
    with pytest.raises(Unavailable, match="the model broken cannot be loaded: model: "
                                          "'/no/such/folder' is not allowed"):
        await manager.lease("broken")
    code, told = await asyncio.to_thread(
        post, f"{gateway}/v1/completions", {"model": "broken", "prompt": PROMPT})
    assert (code, told["error"]["code"]) == (503, "unavailable")
    assert "/no/such/folder" in told["error"]["message"]
    with pytest.raises(NotFound, match="'none' does not exist; there are: alpha, beta, broken"):
        await manager.lease("none")
    async with aiohttp.ClientSession() as session:
        assert await ask(session, gateway, max_tokens=3) == 3


@pytest.fixture
def tasks(served, tmp_path):
    """Models of tasks by name, each with what to ask of it, where; `repo add` adds them."""
    texts = ["the cat sat", "on the mat"]
    tasks = {"words": ("embed", save_embedder, "embeddings", {"input": texts}),
             "judge": ("rerank", save_cross_encoder, "rerank",
                       {"query": "a cat", "documents": texts}),
             "mood": ("classify", save_classifier, "classify", {"input": texts})}
    for name, (task, save, _, _) in tasks.items():
        done = CliRunner().invoke(app, [
            "repo", "add", name, "--from", str(save(tmp_path / name)), "--task", task,
            "--device", "cpu", "--repository", str(served.store.folder)])
        assert done.exit_code == 0, done.output
    yield {name: (path, body) for name, (_, _, path, body) in tasks.items()}
    for name in tasks:
        served.store.remove(name)


async def test_models_of_tasks_are_loaded_by_request_and_leave_nothing(
    gateway, served, manager, tasks
):
    await until(lambda: tasks.keys() <= {model["id"] for model in json.loads(
        get(f"{gateway}/v1/models")[1])["data"]}, "the gateway does not know what was added")
    for name, (path, body) in tasks.items():
        code, told = await asyncio.to_thread(post, f"{gateway}/v1/{path}", {"model": name, **body})
        assert code == 200, told
        assert len(told.get("data") or told["results"]) == 2
        assert (await status(manager, name)).state == "ready"
        running = {found.model for found in model_processes.find(served.server.run_dir)}
        assert running == {*served.store.read(name).parts}, "another has left processes"
        shown = [other for other in tasks if series_of(served, other)]
        assert shown == [name], "another has left metrics"
    await manager.do("unload", name)
    assert model_processes.find(served.server.run_dir) == []


async def test_a_change_of_version_drops_no_request(gateway, served, manager):
    """Version 1 has 30 tokens by default, version 2 has 20: each answer tells whose it is."""
    counts, is_over = [], asyncio.Event()

    async def client(session):
        while not is_over.is_set():
            counts.append(await ask(session, gateway))

    async with aiohttp.ClientSession() as session:
        long = asyncio.ensure_future(ask(session, gateway, max_tokens=500))
        clients = [asyncio.create_task(client(session)) for _ in range(4)]
        await until(lambda: 30 in counts, lambda: counts)
        served.add("alpha", 2, default_max_tokens=20)
        await manager.do("reload", "alpha")
        assert (await status(manager, "alpha")).versions == (1, 2)
        await until(lambda: 20 in counts, lambda: counts)
        for version, num_tokens in ((1, 30), (2, 20)):
            code, told = await asyncio.to_thread(
                post, f"{served.server.http_url}/v2/models/alpha_complete/versions/{version}/"
                "generate", {"text_input": PROMPT, "ignore_eos": True})
            assert (code, told["num_output_tokens"]) == (200, num_tokens), told
        served.store.remove("alpha", 1)
        await manager.do("reload", "alpha")
        num_before = len(counts)
        await until(lambda: len(counts) > num_before + 4, lambda: counts)
        is_over.set()
        await asyncio.gather(*clients)
        assert await long == 500
    first = counts.index(20)
    assert set(counts[first + 4 :]) == {20}, "the old version has had new requests"
    await until(lambda: {found.version for found in processes_of(served, "alpha")} == {2},
                lambda: processes_of(served, "alpha"))


async def test_a_model_that_nobody_uses_goes_in_time_unless_it_is_pinned():
    ttl_s = 1.0
    with echo_store({"alpha": {}, "beta": {}}, Limits(idle_ttl_s=ttl_s)) as served:
        async with ManagerClient("localhost", served.manager_port) as manager:
            lease, _ = await asyncio.gather(manager.lease("alpha"), manager.do("pin", "beta"))
            await asyncio.sleep(2 * ttl_s)
            assert (await status(manager, "alpha")).state == "ready", "it was in use"
            lease.release()
            await until(lambda: not processes_of(served, "alpha"), "its processes are still there")
            await until_status(manager, "alpha", lambda status: status.state == "unloaded")
            assert (await status(manager, "beta")).state == "ready"
            assert processes_of(served, "beta")

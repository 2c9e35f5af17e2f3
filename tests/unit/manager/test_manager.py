"""The manager over a fake server: what waits, what fails, what is told, over a real connection."""

import asyncio
import logging
import re
from dataclasses import replace

import pytest
from managed_models import GIB, entry, managed, states
from tests.drills.waiting import until

from tritonlm.errors import InvalidArgument, NotFound, Unavailable
from tritonlm.manager.client import ManagerClient


async def test_a_lease_loads_its_model_once_for_all():
    async with managed() as (client, control, _, _):
        await asyncio.gather(*(client.lease("a") for _ in range(5)))
        assert control.calls == [("load", "a")]
        [model, *_] = (await client.status()).models
        assert (model.state, model.num_leases, model.num_requests) == ("ready", 5, 5)


async def test_the_log_says_which_requests_wait_for_a_model(caplog):
    caplog.set_level(logging.INFO, "tritonlm.manager")
    async with managed() as (client, *_):
        await asyncio.gather(client.lease("a", "first"), client.lease("a", "second"))
        await client.lease("a", "third")
    waits = {record.fields["request_id"] for record in caplog.records
             if record.getMessage() == "the request waits for model a"}
    assert waits == {"first", "second"}


async def test_the_name_of_a_part_leases_its_model():
    async with managed() as (client, control, _, _):
        for name in ("a_tokenize", "a_text_generation"):
            (await client.lease(name)).release()
        assert control.calls == [("load", "a")]


async def test_a_model_makes_room_for_the_next_when_it_is_released():
    async with managed(max_models=1) as (client, control, _, _):
        lease = await client.lease("a")
        waiting = asyncio.ensure_future(client.lease("b"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        lease.release()
        await waiting
        assert control.calls == [("load", "a"), ("unload", "a"), ("load", "b")]
        assert await states(client) == {"a": "unloaded", "b": "ready", "c": "unloaded"}


async def test_leases_end_with_the_connection_that_has_them():
    async with managed(max_models=1) as (client, _, _, port):
        async with ManagerClient("localhost", port) as another:
            await another.lease("a")
        await client.lease("b")


async def test_who_gives_up_waiting_holds_nothing():
    async with managed() as (client, control, _, _):
        control.may_load.clear()
        waiting = asyncio.ensure_future(client.lease("a"))
        while not (model := (await client.status()).models[0]).num_waiting:
            await asyncio.sleep(0.01)
        assert model.num_waiting == 1
        assert re.fullmatch(r"1 of 3 parts, \d+ s", model.progress)
        waiting.cancel()
        control.may_load.set()
        while (await client.status()).models[0].state != "ready":
            await asyncio.sleep(0.01)
        await client.do("unload", "a")


async def test_a_failed_load_is_told_to_all_who_wait_and_others_go_on():
    async with managed() as (client, control, _, _):
        await client.lease("b")
        control.failure = "CUDA out of memory"
        failures = await asyncio.gather(*(client.lease("a") for _ in range(3)),
                                        return_exceptions=True)
        assert {str(failure) for failure in failures} == {
            "the model a cannot be loaded: CUDA out of memory"}
        assert all(isinstance(failure, Unavailable) for failure in failures)
        assert (await states(client))["b"] == "ready"


async def test_a_model_that_does_not_exist_and_one_that_never_fits_are_refused():
    async with managed(memory_budget_gib=0.5) as (client, _, _, _):
        with pytest.raises(NotFound, match="'x' does not exist; there are: a, b, c"):
            await client.lease("x")
        with pytest.raises(Unavailable, match=r"needs 1\.00 GiB: there is no room for it in the "
                                              r"budget of 0\.50 GiB"):
            await client.lease("a")


async def test_a_model_that_is_added_is_found():
    async with managed() as (client, _, repository, _):
        repository["new"] = entry("new")
        await client.lease("new")


async def test_a_load_counts_what_is_in_the_repository_by_then():
    async with managed(memory_budget_gib=2) as (client, _, repository, _):
        repository["a"] = entry("a", 1, 2)  # and nobody has asked for anything since
        (await client.lease("a")).release()
        assert (await client.status()).needed_bytes == 2 * GIB
        repository["b"] = entry("b", 1, 2, 3)
        with pytest.raises(Unavailable, match=r"needs 3\.00 GiB: there is no room"):
            await client.lease("b")


async def test_a_pinned_model_stays_until_it_is_unpinned():
    async with managed() as (client, _, _, _):
        await client.do("pin", "a")
        with pytest.raises(InvalidArgument, match="pinned"):
            await client.do("unload", "a")
        await client.do("unpin", "a")
        await client.do("unload", "a")
        assert (await states(client))["a"] == "unloaded"


async def test_a_new_version_is_loaded_beside_the_old_one_and_in_its_place():
    async with managed(memory_budget_gib=2) as (client, control, repository, _):
        await client.lease("a")
        repository["a"] = entry("a", 1, 2)
        await client.do("reload", "a")
        repository["a"] = entry("a", 2)
        await client.do("reload", "a")
        assert control.calls[1:] == [("reload", "a", 1, 2), ("reload", "a", 2)]
        assert (await client.status()).needed_bytes == GIB


async def test_a_version_that_has_no_room_or_fails_leaves_what_is_served():
    async with managed(memory_budget_gib=2.5) as (client, control, repository, _):
        await client.lease("a")
        repository["a"] = entry("a", 1, 2, 3)
        with pytest.raises(Unavailable, match=r"need 3\.00 GiB, more than the budget of 2\.50"):
            await client.do("reload", "a")
        repository["a"], control.failure = entry("a", 1, 2), "broken"
        with pytest.raises(Unavailable, match="broken"):
            await client.do("reload", "a")
        status = await client.status()
        assert (status.needed_bytes, status.models[0].state) == (GIB, "ready")
        with pytest.raises(Unavailable, match="not loaded"):
            await client.do("reload", "b")


async def test_a_version_that_fails_to_become_smaller_keeps_its_room():
    async with managed(memory_budget_gib=3) as (client, control, repository, _):
        repository["a"] = replace(entry("a"), versions={1: 2 * GIB})
        (await client.lease("a")).release()
        repository["a"] = entry("a")
        repository["b"] = replace(entry("b"), versions={1: 2 * GIB})
        control.may_load.clear()
        changing = asyncio.create_task(client.do("reload", "a"))
        await until(lambda: len(control.calls) == 2, control.calls)
        waiting = asyncio.create_task(client.lease("b"))
        while (await client.status()).models[1].num_requests == 0:
            await asyncio.sleep(0.01)
        assert len(control.calls) == 2, "there is no room for b beside what a may stay"
        control.failure = "broken"
        control.may_load.set()
        for asked in (changing, waiting):
            with pytest.raises(Unavailable, match="broken"):
                await asked
        assert control.calls[2:] == [("unload", "a"), ("load", "b")]


async def test_two_who_reload_at_once_take_turns():
    async with managed() as (client, control, _, _):
        await client.lease("a")
        await asyncio.gather(*(client.do("reload", "a") for _ in range(3)))
        assert control.calls[1:] == [("reload", "a", 1)] * 3


@pytest.mark.parametrize("verb", ["unload", "reload"])
async def test_what_has_begun_ends_also_if_whoever_asked_for_it_has_gone(verb):
    async with managed() as (client, control, _, port):
        (await client.lease("a")).release()
        control.may_unload.clear()
        control.may_load.clear()
        async with ManagerClient("localhost", port) as another:
            asking = asyncio.create_task(another.do(verb, "a"))
            await until(lambda: len(control.calls) == 2, control.calls)
        with pytest.raises(Unavailable):
            await asking
        control.may_unload.set()
        control.may_load.set()
        (await client.lease("a")).release()
        await client.do("unload", "a")
        assert (await states(client))["a"] == "unloaded"


async def test_who_unloads_what_is_being_unloaded_waits_for_its_end():
    async with managed() as (client, control, _, _):
        (await client.lease("a")).release()
        control.may_unload.clear()
        first = asyncio.create_task(client.do("unload", "a"))
        await until(lambda: len(control.calls) == 2, control.calls)
        second = asyncio.create_task(client.do("unload", "a"))
        assert (await states(client))["a"] == "unloading"  # which is answered after it was asked
        assert not second.done()
        control.may_unload.set()
        await asyncio.gather(first, second)
        assert (await states(client))["a"] == "unloaded"
        await client.do("unload", "a")
        assert control.calls == [("load", "a"), ("unload", "a")]


async def test_a_model_that_is_removed_while_it_waits_for_room_is_told_of():
    async with managed(max_models=1) as (client, _, repository, _):
        lease = await client.lease("a")
        waiting = asyncio.create_task(client.lease("b"))
        while (await client.status()).models[1].num_waiting == 0:
            await asyncio.sleep(0.01)
        del repository["b"]
        await client.status()
        lease.release()
        with pytest.raises(Unavailable, match="b cannot be loaded: it is in the repository no"):
            await waiting
        await client.lease("c")
        assert await states(client) == {"a": "unloaded", "c": "ready"}


async def test_a_model_that_is_removed_while_it_is_loaded_is_shown_until_it_is_unloaded():
    async with managed() as (client, _, repository, _):
        (await client.lease("a")).release()
        del repository["a"]
        assert await states(client) == {"a": "ready", "b": "unloaded", "c": "unloaded"}
        with pytest.raises(NotFound, match="in the repository no more; unload it"):
            await client.do("reload", "a")
        await client.do("unload", "a")
        assert await states(client) == {"b": "unloaded", "c": "unloaded"}


async def test_an_idle_model_goes_by_itself():
    async with managed(idle_ttl_s=0.1) as (client, _, _, _):
        (await client.lease("a")).release()
        while (await states(client))["a"] != "unloaded":
            await asyncio.sleep(0.02)

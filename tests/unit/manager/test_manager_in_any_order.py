"""Clients that do anything, at once, while the repository changes and loads fail."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from managed_models import GIB, FakeControl, entry, listening_to

from tritonlm.errors import ServingError, Unavailable
from tritonlm.manager.client import ManagerClient
from tritonlm.manager.limits import Limits

NAMES = "abcd"
NUM_CLIENTS, NUM_ACTIONS = 5, 40
TIMEOUT_S = 60


class Memory(FakeControl):
    """A server that counts what it has, and now and then fails."""

    def __init__(self, chance):
        super().__init__()
        self.chance = chance
        self.loaded = {}
        self.peak_bytes = 0

    async def load(self, entry):
        assert entry.parts[0] not in self.loaded, "it is loaded twice"
        self._hold(entry)
        try:
            await self._work()
        except Unavailable:
            del self.loaded[entry.parts[0]]
            raise

    async def reload(self, entry):
        await self._work()
        self._hold(entry)

    async def unload(self, entry):
        await asyncio.sleep(0.001)
        del self.loaded[entry.parts[0]]

    def _hold(self, entry):
        self.loaded[entry.parts[0]] = entry.memory_bytes
        self.peak_bytes = max(self.peak_bytes, sum(self.loaded.values()))

    async def _work(self):
        await asyncio.sleep(self.chance.choice([0, 0.001, 0.003]))
        if self.chance.random() < 0.2:
            raise Unavailable("broken")


class AnyClient:
    """Leases, gives up, loads and unloads, and hangs up with leases in hand."""

    def __init__(self, chance, control, repository, port):
        self.chance, self.control, self.repository, self.port = chance, control, repository, port

    async def run(self):
        for _ in range(NUM_ACTIONS // 8):
            async with ManagerClient("localhost", self.port) as client:
                for _ in range(8):
                    try:
                        await self.act(client, self.chance.choice(NAMES))
                    except ServingError:
                        pass

    async def act(self, client, name):
        verb = self.chance.choice(["lease"] * 6 + ["unload", "pin", "unpin", "reload", "edit"])
        if verb == "edit":
            if name in self.repository and self.chance.random() < 0.5:
                del self.repository[name]
            else:
                self.repository[name] = any_entry(self.chance, name)
        elif verb != "lease":
            await client.do(verb, name)
        else:
            asked = asyncio.create_task(client.lease(name))
            if not (await asyncio.wait({asked}, timeout=self.chance.choice([0, 0.002, 1])))[0]:
                asked.cancel()
                await asyncio.wait({asked})
                return
            lease = asked.result()
            assert name in self.control.loaded
            await asyncio.sleep(0.002)
            assert name in self.control.loaded, "it was unloaded in use"
            if self.chance.random() < 0.8:
                lease.release()


def any_entry(chance, name):
    versions = range(1, chance.choice([2, 3]))
    return replace(entry(name), versions={
        version: chance.choice([1, 2]) * GIB for version in versions})


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_in_use_goes_nothing_is_over_the_budget_and_nothing_is_left(
    seed, monkeypatch
):
    monkeypatch.setattr("tritonlm.manager.residency.FAILURE_KEPT_S", 0.002)
    chance = random.Random(seed)
    limits = Limits(max_models=chance.choice([None, 2]), memory_budget_gib=4,
                    idle_ttl_s=chance.choice([None, 0.01]), room_timeout_s=0.05)
    repository = {name: any_entry(chance, name) for name in NAMES}
    control = Memory(chance)
    async with listening_to(limits, control, repository) as (manager, port):
        clients = [AnyClient(chance, control, repository, port) for _ in range(NUM_CLIENTS)]
        await asyncio.wait_for(asyncio.gather(*(client.run() for client in clients)), TIMEOUT_S)
        async with ManagerClient("localhost", port) as client:
            await asyncio.wait_for(at_rest(client, control), TIMEOUT_S)
        assert not manager._futures
    assert control.peak_bytes <= limits.memory_bytes


async def at_rest(client, control):
    """Return when nobody has or wants anything, and the manager counts what there is."""
    while True:
        status = await client.status()
        if (status.needed_bytes == sum(control.loaded.values())
                and not any(model.num_leases or model.num_waiting for model in status.models)):
            return
        await asyncio.sleep(0.01)

"""A manager of three models over a fake server, and a client of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from tritonlm.errors import Unavailable
from tritonlm.manager.catalogue import Entry
from tritonlm.manager.client import ManagerClient
from tritonlm.manager.limits import Limits
from tritonlm.manager.manager import Manager
from tritonlm.manager.service import listening

GIB = 2**30


class FakeControl:
    """Loads when it is let, and notes what it was told to do."""

    def __init__(self):
        self.calls = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.may_unload = asyncio.Event()
        self.may_unload.set()
        self.failure = ""

    async def load(self, entry):
        self.calls.append(("load", entry.parts[0]))
        await self.may_load.wait()
        if self.failure:
            raise Unavailable(self.failure)

    async def reload(self, entry):
        self.calls.append(("reload", entry.parts[0], *sorted(entry.versions)))
        await self.may_load.wait()
        if self.failure:
            raise Unavailable(self.failure)

    async def unload(self, entry):
        self.calls.append(("unload", entry.parts[0]))
        await self.may_unload.wait()

    async def stubs(self, entry):
        return set()

    async def processes(self):
        return []

    async def num_ready(self, names):
        return 1

    async def close(self):
        pass


def entry(name, *versions):
    return Entry("generate", dict.fromkeys(versions or (1,), GIB),
                 (name, f"{name}_tokenize"), (f"{name}_text_generation",))


@asynccontextmanager
async def listening_to(limits, control, repository):
    """A manager, and its port."""
    manager = Manager(limits, control, lambda: dict(repository))
    await manager.start()
    async with listening(manager, "localhost", 0) as port:
        yield manager, port
    await manager.close()


@asynccontextmanager
async def managed(**limits):
    """A manager of models a, b and c, its control, its repository and a client."""
    control, repository = FakeControl(), {name: entry(name) for name in "abc"}
    async with (listening_to(Limits(**limits), control, repository) as (_, port),
                ManagerClient("localhost", port) as client):
        yield client, control, repository, port


async def states(client):
    return {model.name: model.state for model in (await client.status()).models}

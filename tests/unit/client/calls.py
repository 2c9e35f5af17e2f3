"""Scripts of a server in this process, and both clients' calls of it by one name."""

from __future__ import annotations

import asyncio
import time

from triton_service import chunk

from tritonlm_client import AsyncClient, Client

WAIT_S = 60
MIXED = [chunk("é", (5, 6), 0, num_output_tokens=(2,)),
         chunk("👋", (7,), 1, num_output_tokens=(3,)),
         chunk("", (), 2, "stop", num_output_tokens=(3,), is_final=True)]


def script_of(*responses):
    return lambda request, context: iter(responses)


def endless(request, context):
    index = 0
    while True:
        yield chunk("x", (1,), index)
        index += 1
        time.sleep(0.005)


class Sync:
    """Calls of the sync client, each with a client of its own."""

    def stream(self, url, prompt="Hi", **options):
        with Client(url) as client:
            return list(client.stream(prompt, **options))

    def call(self, url, method, *args, model="generate", **options):
        with Client(url, model) as client:
            return getattr(client, method)(*args, **options)


class Async:
    """The same calls of the asyncio client."""

    def stream(self, url, prompt="Hi", **options):
        async def read():
            async with AsyncClient(url) as client:
                return [chunk async for chunk in client.stream(prompt, **options)]
        return asyncio.run(read())

    def call(self, url, method, *args, model="generate", **options):
        async def call():
            async with AsyncClient(url, model) as client:
                return await getattr(client, method)(*args, **options)
        return asyncio.run(call())

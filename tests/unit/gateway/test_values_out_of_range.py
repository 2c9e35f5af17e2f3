"""Values that JSON can say and no message to a server can: refused by name, and never a 500."""

from __future__ import annotations

import aiohttp
import pytest

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.openai.embeddings import EmbeddingsBody, embeddings
from tritonlm.gateway.usage import Usage


async def never(request, send):
    raise AssertionError("it is refused before")


@pytest.mark.parametrize("n", [[1], {}])
async def test_a_number_that_is_none(gateway, n):
    async with gateway(never) as (url, _), aiohttp.ClientSession() as http, http.post(
            f"{url}/v1/completions", json={"model": "generate", "prompt": "Hi", "n": n}) as answer:
        told = await answer.json()
    assert (answer.status, told["error"]["param"]) == (400, "n")


@pytest.mark.parametrize(("field", "value"), [
    ("dimensions", 2**32 + 256), ("dimensions", 10**30), ("dimensions", 0),
    ("timeout_ms", 10**16), ("timeout_ms", 0)])
async def test_a_number_that_is_too_large_for_its_tensor(field, value):
    with pytest.raises(InvalidArgument, match=f"^{field}: "):
        await embeddings(None, EmbeddingsBody(model="embed", input="Hi", **{field: value}),
                         Usage())


@pytest.mark.parametrize("query", [
    f"session={'9' * 5000}.x", f"session={'9' * 300}.x", f"session=1.x&after={'9' * 5000}"])
async def test_a_socket_that_asks_for_no_session_there_can_be(gateway, query):
    async with gateway(never) as (url, _), aiohttp.ClientSession() as http, http.ws_connect(
            f"{url}/ws?{query}") as socket:
        assert (await socket.receive_json())["type"] == "error"

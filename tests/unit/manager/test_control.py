"""What a tritonserver is told, and in which order."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from managed_models import entry

from tritonlm.errors import Unavailable
from tritonlm.manager.control import ModelControl


@pytest.fixture
async def triton():
    """A server that notes what it is told, and fails for what is in `failing`."""
    async def change(request):
        told.append((request.match_info["verb"], request.match_info["name"]))
        if told[-1] in failing:
            return web.json_response({"error": f"no {told[-1][1]}"}, status=400)
        return web.Response()

    async def index(request):
        return web.json_response([])

    told, failing = [], set()
    app = web.Application()
    app.router.add_post("/v2/repository/index", index)
    app.router.add_post("/v2/repository/models/{name}/{verb}", change)
    async with TestServer(app) as server:
        control = ModelControl(str(server.make_url("")).rstrip("/"), list)
        yield control, told, failing
        await control.close()


async def test_a_load_that_fails_is_undone(triton):
    control, told, failing = triton
    failing.add(("load", "a_tokenize"))
    with pytest.raises(Unavailable, match="no a_tokenize"):
        await control.load(entry("a"))
    assert sorted(told[:2]) == [("load", "a"), ("load", "a_tokenize")]
    assert told[2:] == [("unload", name) for name in ("a_text_generation", "a", "a_tokenize")]


async def test_helpers_stay_as_they_are_if_a_new_version_fails(triton):
    control, told, failing = triton
    await control.reload(entry("a"))
    assert told == [("load", name) for name in ("a", "a_tokenize", "a_text_generation")]
    told.clear()
    failing.add(("load", "a"))
    with pytest.raises(Unavailable, match="no a"):
        await control.reload(entry("a"))
    assert told == [("load", "a")]

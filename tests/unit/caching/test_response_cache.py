"""Levels together: who is asked, what is copied up, what a broken one does."""

from __future__ import annotations

import asyncio
import logging
import resource
import shutil

import pytest
from prometheus_client import REGISTRY
from tests.running_redis import running_redis

from tritonlm.caching.disk_level import DiskLevel
from tritonlm.caching.guarded_level import RETRY_S
from tritonlm.caching.memory_level import MemoryLevel
from tritonlm.caching.redis_level import RedisLevel
from tritonlm.caching.response_cache import ResponseCache

LARGE = bytes(range(256)) * 400
"""Too large to be in the database of a folder: it has a file of its own."""


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class Named(MemoryLevel):
    """A level that notes what it is asked, and fails while `error` is set."""

    def __init__(self, name, clock):
        super().__init__(1000, clock)
        self.name = name
        self.asked = []
        self.error = None

    async def get(self, key):
        self.asked.append(key)
        self._fail()
        return await super().get(key)

    async def put(self, key, value, ttl_s):
        self._fail()
        self.last_ttl_s = ttl_s
        await super().put(key, value, ttl_s)

    def _fail(self):
        if self.error:
            raise self.error


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def levels(clock):
    return [Named(name, clock) for name in ("first", "second", "third")]


@pytest.fixture
def cache(levels, clock):
    return ResponseCache(levels, 60.0, clock)


def counted(name, **labels):
    return REGISTRY.get_sample_value(f"tritonlm_gateway_cache_{name}_total", labels) or 0.0


async def test_the_first_that_has_it_answers(cache, levels):
    await cache.put("k", b"value")
    hits = counted("lookups", level="first", outcome="hit")
    assert await cache.get("k") == b"value"
    assert [level.asked for level in levels] == [["k"], [], []]
    assert counted("lookups", level="first", outcome="hit") == hits + 1


async def test_what_a_lower_level_has_is_copied_up_with_the_time_that_it_has_left(
        cache, levels, clock):
    await cache.put("k", b"value")
    await levels[0].close()
    await levels[1].close()
    clock.now_s += 45
    assert await cache.get("k") == b"value"
    assert [level.last_ttl_s for level in levels] == [15.0, 15.0, 60.0]
    assert await cache.get("k") == b"value"
    assert [len(level.asked) for level in levels] == [2, 1, 1]
    clock.now_s += 16
    assert await cache.get("k") is None


async def test_a_level_that_keeps_too_long_is_not_believed(cache, levels, clock):
    await cache.put("k", b"value")
    entry = await levels[0].get("k")
    clock.now_s += 61
    await levels[0].put("k", entry, 1000)
    assert await cache.get("k") is None


async def test_an_entry_of_somebody_else_is_not_taken(cache, levels):
    await levels[0].put("k", b"short", 100)
    assert await cache.get("k") is None


async def test_an_entry_that_is_damaged_is_not_taken(cache, levels):
    await cache.put("k", b"a value")
    entry = await levels[0].get("k")
    for damaged in (entry[:-1], entry[:-1] + b"X", entry + b"e"):
        for level in levels:
            await level.put("k", damaged, 100)
        assert await cache.get("k") is None
    await levels[2].put("k", entry, 100)
    assert await cache.get("k") == b"a value"


@pytest.fixture
async def disk(tmp_path):
    """A cache in the folder of that name, and what it has of a large value."""
    cache = ResponseCache([DiskLevel(tmp_path, 1 << 20)], 60.0)
    await cache.put("k", LARGE)
    assert await cache.get("k") == LARGE
    yield cache
    await cache.close()


async def test_a_file_on_disk_that_is_damaged_is_a_miss(disk, tmp_path):
    [file] = tmp_path.rglob("*.val")
    file.write_bytes(file.read_bytes()[:-100])
    assert await disk.get("k") is None
    file.unlink()
    assert await disk.get("k") is None
    await disk.put("k", LARGE)
    assert await disk.get("k") == LARGE


async def test_a_disk_that_is_full_costs_no_answer(disk, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(LARGE) // 2, before[1]))
    try:
        await disk.put("l", LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    [record] = caplog.records
    assert "level disk failed, requests go on without it: [Errno 27] File too" in record.message
    assert await disk.get("l") is None


async def test_a_folder_that_is_damaged_costs_no_start_and_no_answer(levels, tmp_path, caplog):
    (tmp_path / "cache.db").write_bytes(b"garbage" * 1000)
    cache = ResponseCache([DiskLevel(tmp_path, 1 << 20), levels[0]], 60.0)
    await cache.put("k", b"value")
    assert await cache.get("k") == b"value"
    assert [record.message for record in caplog.records] == [
        "cache level disk failed, requests go on without it: file is not a database"]
    await cache.close()


@pytest.mark.skipif(not shutil.which("redis-server"),
                    reason="needs redis-server: apt-get install redis-server")
async def test_a_redis_that_ends_and_comes_back_fails_no_request(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("tritonlm.caching.guarded_level.RETRY_S", 0.0)
    with running_redis(tmp_path) as url:
        cache = ResponseCache([RedisLevel(url)], 60.0)
        await cache.put("k", b"value")
        assert await cache.get("k") == b"value"
    assert await cache.get("k") is None
    with running_redis(tmp_path):
        await cache.put("l", b"another")
        assert await cache.get("l") == b"another"
        await cache.close()
    assert len(caplog.records) == 2
    assert caplog.records[-1].message == "cache level redis works again"


async def test_a_broken_level_is_counted_told_once_and_left_alone(cache, levels, clock, caplog):
    levels[1].error = ConnectionError("no route")
    await levels[2].put("k", b"", 1)
    errors = counted("errors", level="second")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await cache.get("other") is None
        assert len(levels[1].asked) == 1
        clock.now_s += RETRY_S
    assert counted("errors", level="second") == errors + 1
    assert [record.message for record in caplog.records] == [
        "cache level second failed, requests go on without it: no route"]


async def test_the_other_levels_go_on_and_the_broken_one_comes_back(levels, clock, caplog,
                                                                    monkeypatch):
    monkeypatch.setattr("tritonlm.caching.guarded_level.RETRY_S", 0.0)
    cache = ResponseCache(levels, 60.0, clock)
    levels[0].error = OSError("full")
    await cache.put("k", b"value")
    assert await cache.get("k") == b"value"
    levels[0].error = None
    assert await cache.get("k") == b"value"
    assert len(caplog.records) == 2
    assert caplog.records[-1].message == "cache level first works again"
    assert await cache.get("k") == b"value"
    assert len(levels[1].asked) == 2


async def test_a_redis_that_hangs_is_not_waited_for_long(levels, clock):
    async def accept(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cache = ResponseCache([RedisLevel(f"redis://127.0.0.1:{port}"), levels[0]], 60.0, clock)
    errors = counted("errors", level="redis")
    await asyncio.wait_for(cache.put("k", b"value"), 20)
    assert await cache.get("k") == b"value"
    assert counted("errors", level="redis") == errors + 1
    await cache.close()
    server.close()


async def test_a_redis_that_is_not_there_costs_an_answer_nothing_but_time(levels, clock):
    cache = ResponseCache([levels[0], RedisLevel("redis://127.0.0.1:1")], 60.0, clock)
    await cache.put("k", b"value")
    assert await cache.get("k") == b"value"
    assert await cache.get("l") is None
    await cache.close()

"""Levels of the cache, each on its own: a real Redis, a real folder."""

from __future__ import annotations

import asyncio
import shutil
import time

import pytest
from tests.drills.waiting import LIMIT_S
from tests.running_redis import running_redis

from tritonlm.caching.disk_level import DiskLevel
from tritonlm.caching.memory_level import ENTRY_BYTES, MemoryLevel
from tritonlm.caching.redis_level import PREFIX, RedisLevel
from tritonlm.caching.settings import CacheSettings
from tritonlm.errors import InvalidArgument, StartFailure

WEEK_S = 7 * 86400.0


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A Redis of our own."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["memory", "redis", "disk"])
async def level(request, tmp_path):
    if request.param == "memory":
        level = MemoryLevel(1 << 20)
    elif request.param == "redis":
        level = RedisLevel(request.getfixturevalue("redis_url"))
        await level._redis.flushall()
    else:
        level = DiskLevel(tmp_path / "kept", 1 << 20)
    yield level
    await level.close()


async def test_a_level_keeps_bytes_as_they_are(level):
    value = bytes(range(256)) * 10
    assert await level.get("k") is None
    await level.put("k", value, WEEK_S)
    assert await level.get("k") == value
    await level.put("k", b"other", WEEK_S)
    assert await level.get("k") == b"other"
    assert await level.get("l") is None


async def test_a_level_forgets_what_is_out_of_time(level):
    await level.put("short", b"1", 0.05)
    await level.put("long", b"2", WEEK_S)
    deadline_s = time.monotonic() + LIMIT_S
    while await level.get("short") is not None:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
    assert await level.get("long") == b"2"


async def test_memory_has_room_for_so_many_bytes_and_drops_what_was_not_asked_for():
    level = MemoryLevel(3 * (ENTRY_BYTES + len("k...")))
    for key in "abc":
        await level.put(key, b"...", WEEK_S)
    assert await level.get("a") == b"..."
    await level.put("d", b"...", WEEK_S)
    assert [await level.get(key) for key in "abcd"] == [b"...", None, b"...", b"..."]
    await level.put("e", bytes(3 * ENTRY_BYTES), WEEK_S)
    assert await level.get("e") is None
    assert await level.get("a") == b"..."
    large = bytes(2 * ENTRY_BYTES)
    await level.put("a", large, WEEK_S)
    assert [await level.get(key) for key in "acd"] == [large, None, None]


async def test_redis_keeps_each_value_with_a_time_to_live(redis_url):
    level = RedisLevel(redis_url)
    await level.put("k", b"1", 100.0)
    assert 90_000 < await level._redis.pttl(PREFIX + "k") <= 100_000
    await level.close()


async def test_a_folder_outlives_its_process(tmp_path):
    first = DiskLevel(tmp_path, 1 << 20)
    await first.put("k", b"1", WEEK_S)
    await first.close()
    second = DiskLevel(tmp_path, 1 << 20)
    assert await second.get("k") == b"1"
    await second.close()


async def test_a_folder_does_not_grow_without_bound(tmp_path):
    level = DiskLevel(tmp_path, 1 << 20)
    for number in range(100):
        await level.put(str(number), bytes(50_000), WEEK_S)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 3 << 20
    assert await level.get("99") == bytes(50_000)
    await level.close()


@pytest.mark.parametrize(("wrong", "message"), [
    ({"memory_mib": -1}, "cache_mib: -1"), ({"redis": "localhost:6379"}, "cache_redis: '.hidden"),
    ({"disk_mib": 0}, "cache_disk_mib: 0"), ({"ttl_s": 0}, "cache_ttl_s: 0"),
])
def test_a_wrong_setting_is_named(wrong, message):
    with pytest.raises(InvalidArgument, match=message):
        CacheSettings(**wrong)


def test_levels_are_those_asked_for_the_fastest_first(tmp_path):
    assert CacheSettings().open() == []
    assert not CacheSettings().is_on
    settings = CacheSettings(1, "redis://localhost:1", tmp_path)
    assert [level.name for level in settings.open()] == ["memory", "redis", "disk"]


def test_a_library_that_is_missing_and_a_folder_that_cannot_be_are_told(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StartFailure, match=r"--cache-disk .*file/x: Not a directory"):
        CacheSettings(disk=file / "x").check()
    monkeypatch.setattr("tritonlm.caching.settings.find_spec", lambda _: None)
    with pytest.raises(StartFailure, match=r"--cache-redis .* pip install .* '\.\[cache\]'"):
        CacheSettings(redis="redis://localhost").check()

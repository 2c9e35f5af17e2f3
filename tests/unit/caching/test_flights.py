"""Equal work at the same time runs once."""

from __future__ import annotations

import asyncio

import pytest

from tritonlm.caching.flights import Flights, Reader


class Numbers:
    """Gives 1 and 2, a step each, when it may; fails before the step `fails_after`."""

    def __init__(self, known=None, fails_after=None):
        self.known = known
        self.fails_after = fails_after
        self._steps = asyncio.Semaphore(0)
        self.num_runs = 0
        self.num_cancelled = 0
        self.kept = []

    def allow(self, num_steps=100):
        for _ in range(num_steps):
            self._steps.release()

    async def find(self):
        return self.known

    async def run(self):
        self.num_runs += 1
        try:
            for number in range(3):
                if number == self.fails_after:
                    raise ValueError(f"run {self.num_runs}")
                if number:
                    yield [number]
                await self._steps.acquire()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    async def keep(self, items):
        self.kept.append(list(items))


@pytest.fixture
def flights():
    return Flights()


async def read_all(reader):
    try:
        return [item async for items in reader for item in items]
    finally:
        reader.close()


async def started(coroutine):
    task = asyncio.create_task(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_one_runs_and_all_read(flights):
    source = Numbers()
    readers = [Reader(flights, "k", source) for _ in range(10)]
    tasks = [await started(read_all(reader)) for reader in readers]
    source.allow()
    assert await asyncio.gather(*tasks) == [[1, 2]] * 10
    assert source.num_runs == 1
    assert source.kept == [[1, 2]]
    assert [reader.is_first for reader in readers] == [True] + [False] * 9
    assert len(flights) == 0


async def test_another_key_is_other_work(flights):
    source = Numbers()
    source.allow()
    assert await asyncio.gather(*(read_all(Reader(flights, key, source)) for key in "kl")) == [
        [1, 2]] * 2
    assert source.num_runs == 2


async def test_what_is_known_is_not_worked_for(flights):
    source = Numbers(known=[7])
    reader = Reader(flights, "k", source)
    assert await read_all(reader) == [7]
    assert reader.flight.was_known
    assert (source.num_runs, source.kept) == (0, [])


async def test_who_comes_late_gets_all_items(flights):
    source = Numbers()
    early = Reader(flights, "k", source)
    first = asyncio.create_task(early.__anext__())
    source.allow(1)
    assert await first == [1]
    late = Reader(flights, "k", source)
    assert not late.is_first
    source.allow()
    assert await asyncio.gather(read_all(early), read_all(late)) == [[2], [1, 2]]


async def test_the_work_goes_on_when_the_one_who_began_it_leaves(flights):
    source = Numbers()
    first, second = [await started(read_all(Reader(flights, "k", source))) for _ in range(2)]
    first.cancel()
    await asyncio.wait([first])
    source.allow()
    assert await second == [1, 2]
    assert (source.num_runs, source.num_cancelled) == (1, 0)


async def test_the_work_ends_when_nobody_reads(flights):
    source = Numbers()
    tasks = [await started(read_all(Reader(flights, "k", source))) for _ in range(2)]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    assert source.num_cancelled == 1
    assert source.kept == []
    assert len(flights) == 0
    source.allow()
    assert await read_all(Reader(flights, "k", source)) == [1, 2]


async def test_another_takes_over_when_the_first_fails(flights):
    source = Numbers(fails_after=0)
    tasks = [asyncio.create_task(read_all(Reader(flights, "k", source))) for _ in range(3)]
    source.allow()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(map(str, results)) == ["run 1", "run 2", "run 3"]
    assert source.kept == []
    source.fails_after = None
    assert await read_all(Reader(flights, "k", source)) == [1, 2]


async def test_one_that_fails_alone_takes_nobody_with_it(flights):
    broken, well = Numbers(fails_after=0), Numbers()
    well.allow()
    tasks = [asyncio.create_task(read_all(Reader(flights, "k", source)))
             for source in (broken, well, well)]
    failed, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(failed, ValueError)
    assert others == [[1, 2]] * 2
    assert well.num_runs == 1


async def test_who_has_read_something_is_told_of_the_failure(flights):
    source = Numbers(fails_after=2)
    readers = [Reader(flights, "k", source) for _ in range(2)]
    source.allow()
    results = await asyncio.gather(*(read_all(reader) for reader in readers),
                                   return_exceptions=True)
    assert [str(result) for result in results] == ["run 1"] * 2


async def test_closing_ends_the_work(flights):
    source = Numbers()
    Reader(flights, "k", source)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await flights.close()
    assert source.num_cancelled == 1
    assert len(flights) == 0

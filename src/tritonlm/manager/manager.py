"""Loads models when they are asked for, and unloads what is in the way."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tritonlm.errors import NotFound, ServingError, Unavailable
from tritonlm.logs import fields
from tritonlm.manager.catalogue import Catalogue, Entry
from tritonlm.manager.control import ModelControl
from tritonlm.manager.description import describe
from tritonlm.manager.limits import Limits
from tritonlm.manager.messages import ManagerStatus
from tritonlm.manager.process_watch import ProcessWatch
from tritonlm.manager.residency import Residency
from tritonlm.manager.resident import Resident, State

LOG = logging.getLogger(__name__)


class Manager:
    """The one place that decides what a tritonserver has loaded; belongs to an event loop."""

    def __init__(
        self, limits: Limits, control: ModelControl, catalogue: Catalogue,
        on_loss: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`on_loss` hears of a model that has lost a process, which the server cannot mend."""
        self._limits = limits
        self._control = control
        self._read_catalogue = catalogue
        self._residency = Residency(limits, time.monotonic)
        self._entries: dict[str, Entry] = {}
        self._names: dict[str, str] = {}
        """Of models, by those of their parts."""
        self._futures: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loaded: dict[str, Entry] = {}
        """What is loaded, or being loaded or unloaded, as it was when that began."""
        self._unloads: dict[str, asyncio.Task[None]] = {}
        """What is being unloaded."""
        self._reloading = asyncio.Lock()
        self._watch = ProcessWatch(on_loss)
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, pinned: Sequence[str] = (), preloaded: Sequence[str] = ()) -> None:
        """Read the repository, load those models, and watch from now on; raises `ServingError`."""
        await self.refresh()
        for name in pinned:
            self._residency.pin(name)
        await asyncio.gather(*(self.load(name) for name in dict.fromkeys((*pinned, *preloaded))))
        self._begin(self._watch.run())

    async def close(self) -> None:
        """Stop; the models stay as they are."""
        if self._timer is not None:
            self._timer.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._control.close()

    async def lease(self, name: str, request_id: str = "") -> int:
        """Return when the model is ready; it stays so until `release`. Raises `ServingError`.

        `name` may be that of a part of it.
        """
        if self._names.get(name) not in self._loaded:  # a load takes what is there by then
            await self.refresh()
        lease = self._residency.ask(self._names.get(name, name))
        self._futures[lease] = asyncio.get_running_loop().create_future()
        self._advance()
        if request_id and not self._futures[lease].done():
            LOG.info("the request waits for model %s", name, extra=fields(request_id=request_id))
        try:
            await self._futures[lease]
        except BaseException:
            self.release(lease)
            raise
        finally:
            del self._futures[lease]
        return lease

    def release(self, lease: int) -> None:
        """The request of that lease is over."""
        self._residency.release(lease)
        self._advance()

    async def load(self, name: str) -> None:
        """Return when the model is ready; raises `ServingError`."""
        self.release(await self.lease(name))

    async def unload(self, name: str) -> None:
        """Return when nothing of the model is left; raises `ServingError` if it is in use."""
        if self._residency.unload(name):
            self._unloads[name] = self._begin(self._unload(name))
        if name in self._unloads:
            await asyncio.shield(self._unloads[name])

    async def pin(self, name: str) -> None:
        """Load the model and keep it loaded; raises `ServingError`."""
        await self.refresh()
        self._residency.pin(name)
        try:
            await self.load(name)
        except ServingError:
            self._residency.unpin(name)
            raise

    async def unpin(self, name: str) -> None:
        """Treat it as any other model again."""
        self._residency.unpin(name)
        self._advance()

    async def reload(self, name: str) -> None:
        """Serve the versions that are in the repository now, and those alone.

        New requests go to the newest version once it is ready; those that run finish where they
        are. Raises `ServingError`, and then what was served still is.
        """
        await self._finish(self._reload(name))

    async def _reload(self, name: str) -> None:
        async with self._reloading:
            await self.refresh()
            if self._residency.find(name).state != State.READY:
                raise Unavailable(f"the model {name} is not loaded; its next load takes what is "
                                  "there")
            lease = self._residency.ask(name)
            try:
                await self._change(name, self._loaded[name], self._entries.get(name))
            finally:
                self._watch.follow(name, await self._control.stubs(self._loaded[name]))
                self._residency.resize(name, self._loaded[name].memory_bytes)
                self.release(lease)

    async def _change(self, name: str, before: Entry, after: Entry | None) -> None:
        """Serve the versions of `after` instead of those of `before`, with room for both."""
        if after is None:
            raise NotFound(f"the model {name!r} is in the repository no more; unload it")
        self._residency.resize(name, sum(
            max(entry.versions.get(version, 0) for entry in (before, after))
            for version in before.versions.keys() | after.versions.keys()))
        self._watch.leave(name)  # some of its processes end now
        await self._control.reload(after)
        self._loaded[name] = after

    async def refresh(self) -> None:
        """See which models there are."""
        self._entries = dict(await asyncio.to_thread(self._read_catalogue))
        self._names = {part: name for name, entry in self._entries.items()
                       for part in (*entry.parts, *entry.ensembles)}
        for name, entry in self._entries.items():
            self._residency.declare(name, entry.memory_bytes)
        for resident in self._residency.residents:
            if resident.name not in self._entries:
                self._residency.forget(resident.name)

    async def status(self) -> ManagerStatus:
        """All that is known now."""
        await self.refresh()
        processes = await self._control.processes()
        models = [await describe(resident, entry, self._control, processes)
                  for resident in self._residency.residents
                  if (entry := self._entry(resident)) is not None]
        budget = self._limits.memory_bytes
        return ManagerStatus(
            models=tuple(models), needed_bytes=self._residency.memory_bytes,
            budget_bytes=None if budget == math.inf else int(budget),
            max_models=self._limits.max_models)

    def _entry(self, resident: Resident) -> Entry | None:
        """What is loaded of it, else what would be; None if it is in the repository no more."""
        return self._loaded.get(resident.name) or self._entries.get(resident.name)

    def _advance(self) -> None:
        """Do what is to be done now, and come back when something is due."""
        for name, is_load in self._residency.plan():
            if is_load:  # what there was room for, also if the repository changes now
                self._begin(self._load(name, self._entries.get(name)))
            else:
                self._unloads[name] = self._begin(self._unload(name))
        for lease, error in self._residency.take_settled():
            future = self._futures.get(lease)
            if future is not None and not future.done():
                future.set_exception(error) if error else future.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._residency.due_s()
        if due_s < math.inf:
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, due_s - time.monotonic()), self._advance)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` to its end, also if whoever asked for it goes away."""
        await asyncio.shield(self._begin(work))

    async def _load(self, name: str, entry: Entry | None) -> None:
        LOG.info("loading model %s", name)
        try:
            if entry is None:  # it was there when it was asked for
                raise NotFound("it is in the repository no more")
            self._loaded[name] = entry
            await self._control.load(entry)
            self._watch.follow(name, await self._control.stubs(entry))
        except Exception as error:
            LOG.warning("model %s: %s", name, error)
            self._loaded.pop(name, None)
            self._residency.note_failed(name, str(error))
        else:
            self._residency.note_loaded(name)
        self._advance()

    async def _unload(self, name: str) -> None:
        LOG.info("unloading model %s", name)
        self._watch.leave(name)
        try:
            await self._control.unload(self._loaded[name])
        except Exception as error:  # the server is gone, and a new one has a new manager
            LOG.warning("model %s: %s", name, error)
        del self._loaded[name], self._unloads[name]
        self._residency.note_unloaded(name)
        self._advance()

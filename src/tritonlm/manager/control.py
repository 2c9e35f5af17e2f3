"""Loading and unloading by a tritonserver's own API, until nothing of a model is left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import psutil

from tritonlm.errors import Unavailable
from tritonlm.manager.catalogue import Entry

POLL_INTERVAL_S = 0.05
GONE_STATES = {None, "UNAVAILABLE"}
REASON = re.compile(r"state: (?:[A-Za-z ]+: )?(?:TritonModelException: )?(.*?)(?:\n\nAt:|;?\s*$)",
                    re.DOTALL)


class ModelProcess(NamedTuple):
    """A process that belongs to one of Triton's models."""

    model: str
    version: int
    is_stub: bool
    """Whether it runs the model's code for Triton; others are those that it has started."""
    process: psutil.Process


Processes: TypeAlias = Callable[[], list[ModelProcess]]


class ModelControl:
    """A tritonserver that runs with explicit model control.

    HTTP, since a load over gRPC keeps all other calls but inferences waiting until it is done.
    """

    def __init__(self, http_url: str, processes: Processes) -> None:
        self._url = f"{http_url}/v2/repository"
        self._processes = processes
        self._http: aiohttp.ClientSession | None = None

    async def load(self, entry: Entry) -> None:
        """Return when all of it is ready; raises `Unavailable`, and then it is unloaded again."""
        try:
            await self._load(entry.parts, entry.ensembles)
        except Unavailable:
            await self.unload(entry)
            raise

    async def reload(self, entry: Entry) -> None:
        """Serve the versions that are there now; those that stay are left alone.

        The part that does the task goes first: if its new version fails, the old one keeps its
        helpers.
        """
        task, *helpers = entry.parts
        await self._call(task, "load")
        await self._load(helpers, entry.ensembles)

    async def unload(self, entry: Entry) -> None:
        """Return when nothing of it is left: running requests go on for the model's own time."""
        names = (*entry.ensembles, *entry.parts)
        for name in names:
            await self._call(name, "unload")
        while await self._is_served(names) or of_model(entry, await self.processes()):
            await asyncio.sleep(POLL_INTERVAL_S)

    async def num_ready(self, names: Collection[str]) -> int:
        """How many of Triton's models of those names are ready."""
        return len({entry["name"] for entry in await self._index()
                    if entry["name"] in names and entry.get("state") == "READY"})

    async def processes(self) -> list[ModelProcess]:
        """Those of all models."""
        return await asyncio.to_thread(self._processes)

    async def stubs(self, entry: Entry) -> set[psutil.Process]:
        """Those that run the code of a model's versions: each of them is needed."""
        return {found.process for found in of_model(entry, await self.processes())
                if found.is_stub and found.version in entry.versions}

    async def close(self) -> None:
        """End the connections."""
        if self._http is not None:
            await self._http.close()

    async def _load(self, parts: Collection[str], ensembles: Collection[str]) -> None:
        loads = await asyncio.gather(*(self._call(part, "load") for part in parts),
                                     return_exceptions=True)
        for failure in loads:
            if isinstance(failure, BaseException):
                raise failure
        for ensemble in ensembles:
            await self._call(ensemble, "load")

    async def _is_served(self, names: Collection[str]) -> bool:
        return any(entry["name"] in names and entry.get("state") not in GONE_STATES
                   for entry in await self._index())

    async def _index(self) -> list[dict[str, Any]]:
        """Each version of each model: `name`, and `state` if it has ever been loaded."""
        index: list[dict[str, Any]] = await self._post(f"{self._url}/index")
        return index

    async def _call(self, name: str, verb: str) -> None:
        await self._post(f"{self._url}/models/{name}/{verb}")

    async def _post(self, url: str) -> Any:
        if self._http is None:
            # Each call has a connection: a load keeps all that share its connection waiting.
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None))
        try:
            async with self._http.post(url) as answer:
                text = await answer.text()
                if answer.status == HTTPStatus.OK:
                    return await answer.json(content_type=None) if text else None
        except aiohttp.ClientError as error:
            raise Unavailable(f"the server is gone: {error}") from None
        raise Unavailable(reason_of(text))


def of_model(entry: Entry, processes: Iterable[ModelProcess]) -> list[ModelProcess]:
    """Those of the `processes` that are the model's."""
    return [found for found in processes if found.model in entry.parts]


def reason_of(text: str) -> str:
    """Why Triton could not do it, in one line, from what it answered."""
    found = re.search(r'"error":"(.*)"', text, re.DOTALL)
    message = text
    if found:  # escapes as in JSON, which it is not always
        message = found[1].encode("latin-1", "backslashreplace").decode("unicode_escape")
    reason = REASON.search(message)
    return " ".join((reason[1] if reason else message).split())

"""The models of a store, as the manager needs to know them."""

from __future__ import annotations

import hashlib
import py_compile
from contextlib import suppress
from itertools import product
from pathlib import Path
from py_compile import PycInvalidationMode

from tritonlm.config import ModelConfig
from tritonlm.encoders.config import TaskConfig
from tritonlm.errors import ServingError
from tritonlm.manager.catalogue import Entry
from tritonlm.server.device import choose_device
from tritonlm.server.memory_need import estimate
from tritonlm.server.model_store import ModelStore, StoredModel


class StoreCatalogue:
    """Reads the store each time, but the files of a checkpoint once for the same settings."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._needs: dict[ModelConfig | TaskConfig, int] = {}
        self._compiled: set[Path] = set()

    def __call__(self) -> dict[str, Entry]:
        """All models that can be read; what is amiss with others, `tritonlm repo validate` says."""
        entries = {}
        for name in self._store.names():
            try:
                model = self._store.read(name)
            except ServingError:  # also of one that is removed just now
                continue
            needs = {version: self._need(config, model.task)
                     for version, config in model.versions.items()}
            self._compile(model)
            entries[name] = Entry(model.task, needs, model.parts, model.ensembles,
                                  _digest(model))
        return entries

    def _compile(self, model: StoredModel) -> None:
        """Have no `__pycache__` come into a version's folder when it is loaded.

        Triton would take the folder for changed, and load that version anew with the next one.
        """
        for part, version in product(model.parts, model.versions):
            code = self._store.folder / part / str(version) / "model.py"
            if code not in self._compiled and code.exists():
                with suppress(OSError):  # where this cannot be written, that cannot either
                    py_compile.compile(str(code),
                                       invalidation_mode=PycInvalidationMode.CHECKED_HASH)
                self._compiled.add(code)

    def _need(self, config: ModelConfig | TaskConfig, task: str) -> int:
        if config not in self._needs:
            device = choose_device(config.device)
            try:
                self._needs[config] = estimate(Path(config.model), config, task, device).total
            except Exception:  # its files may say anything; what is amiss, its load will tell
                return 0
        return self._needs[config]


def _digest(model: StoredModel) -> str:
    """Changes with the settings of any version."""
    return f"{model.name}:{hashlib.sha256(repr(model.versions).encode()).hexdigest()}"

"""The models of a store, as the manager needs to know them."""

from __future__ import annotations

from pathlib import Path

from tritonlm.config import ModelConfig
from tritonlm.encoders.config import TaskConfig
from tritonlm.errors import ServingError
from tritonlm.manager.catalogue import Entry
from tritonlm.server.device import choose_device
from tritonlm.server.memory_need import estimate
from tritonlm.server.model_store import ModelStore


class StoreCatalogue:
    """Reads the store each time, but the files of a checkpoint once for the same settings."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._needs: dict[ModelConfig | TaskConfig, int] = {}

    def __call__(self) -> dict[str, Entry]:
        """All models that can be read; what is amiss with others, `tritonlm repo validate` says."""
        entries = {}
        for name in self._store.names():
            try:
                model = self._store.read(name)
                needs = {version: self._need(config, model.task)
                         for version, config in model.versions.items()}
            except (ServingError, OSError, ValueError):
                continue
            entries[name] = Entry(model.task, needs, model.parts, model.ensembles,
                                  repr((name, model.versions)))
        return entries

    def _need(self, config: ModelConfig | TaskConfig, task: str) -> int:
        if config not in self._needs:
            self._needs[config] = estimate(Path(config.model), config, task,
                                           choose_device(config.device)).total
        return self._needs[config]

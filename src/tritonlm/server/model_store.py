"""A folder of models that a server loads as they are needed: Triton's own layout, written by tool.

Each model NAME is several of Triton's models: what does the task is called NAME, and its helpers
NAME_tokenize and so on. A version's settings are in `settings.json` of its folder, since to change
a config.pbtxt would have Triton load all versions again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonlm.config import VERSION_SETTINGS, ModelConfig, parse_settings, settings_texts
from tritonlm.encoders.config import CONFIGS, TaskConfig
from tritonlm.errors import InvalidArgument, NotFound
from tritonlm.server.queue_policy import with_queue_policy
from tritonlm.server.repository import CONFIG_NAME, FRONT_END, REPOSITORIES
from tritonlm.server.runtime import PROJECT
from tritonlm.server.store_change import changing

PARTS = {
    "generate": {"": "generate", "_tokenize": "tokenize", "_detokenize": "detokenize",
                 "_complete": "complete", "_text_generation": "text_generation"},
    "embed": {"": "embed", "_tokenize": "embed_tokenize", "_embedding": "embedding"},
    "rerank": {"": "rerank", "_tokenize": "rerank_tokenize", "_reranking": "reranking"},
    "classify": {"": "classify"},
}
"""What follows a model's name, and which of the checkout's models that is, by task."""
ENSEMBLES = {"text_generation", "embedding", "reranking"}
SETTINGS: dict[str, Any] = {"generate": ModelConfig, **CONFIGS}
"""Whose fields a task's settings are."""
SOURCES = (*REPOSITORIES, PROJECT / "task_repository")
SUFFIXES = sorted({suffix for parts in PARTS.values() for suffix in parts if suffix})
DEFAULT_FOLDER = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share",
                      "tritonlm", "models")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
BACKEND = re.compile(r"^from tritonlm\.backend\.(\w+) import", re.MULTILINE)
OWN_NAME = re.compile(r'^name: "\w+"', re.MULTILINE)
OTHER_NAME = re.compile(r'(?<=model_name: )"(\w+)"|(?<=string_value: )"(\w+)"')
"""Of a step of an ensemble, or of whose engines are used."""
COUNT = re.compile(r"(?<=count: )\d+")
ALL_VERSIONS = """
# Served are the versions whose folders are beside this file; each has settings of its own in it.
version_policy { all { } }
"""


@dataclass(frozen=True)
class StoredModel:
    """A model of the store."""

    name: str
    task: str
    versions: Mapping[int, ModelConfig | TaskConfig]

    @property
    def parts(self) -> tuple[str, ...]:
        """Triton's models that run by themselves."""
        return tuple(self.name + suffix for suffix, source in PARTS[self.task].items()
                     if source not in ENSEMBLES)

    @property
    def ensembles(self) -> tuple[str, ...]:
        """Those that are made of the parts."""
        return tuple(self.name + suffix for suffix, source in PARTS[self.task].items()
                     if source in ENSEMBLES)


class ModelStore:
    """Raises `InvalidArgument` or `NotFound` for a model that cannot be added or is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The models that are there."""
        return [path.name for path in sorted(self.folder.glob("*")) if self._task(path.name)]

    def read(self, name: str) -> StoredModel:
        """The model of that name."""
        task = self._check_there(name)
        return StoredModel(name, task, {
            version: self._read_settings(task, self.folder / name / str(version))
            for version in self.versions(name)})

    def versions(self, name: str) -> list[int]:
        """The numbers of a model's versions, in order."""
        return sorted(int(path.name) for path in (self.folder / name).glob("*")
                      if path.name.isdecimal())

    def check_new(self, name: str, task: str, version: int) -> None:
        """Raise `InvalidArgument` if such a model, or version of one, cannot be added."""
        if not NAME.fullmatch(name) or name.endswith(tuple(SUFFIXES)):
            raise InvalidArgument("name", name, "allowed: 1 to 40 letters, digits, '.', '_' and "
                                  f"'-', and none of the endings {', '.join(SUFFIXES)}")
        if task not in PARTS:
            raise InvalidArgument("task", task, f"allowed: {', '.join(PARTS)}")
        if version < 1:
            raise InvalidArgument("version", version, "allowed: 1 and more")
        there = self._task(name)
        if there is None:
            self._check_free(name, task)
        elif task != there:
            raise InvalidArgument("task", task, f"the other versions of {name} do {there}")
        elif version in self.versions(name):
            raise InvalidArgument("name", name, f"it is taken, and has a version {version}; "
                                                "remove that, or add another --version")

    def add(
        self, name: str, task: str, config: ModelConfig | TaskConfig, version: int = 1,
        front_ends: int = 1,
    ) -> StoredModel:
        """Write a model, or a further version of one; `config` is a whole and checked one."""
        with changing(self.folder, SUFFIXES) as draft:
            self.check_new(name, task, version)
            is_new = self._task(name) is None
            for suffix, source in PARTS[task].items():
                part = draft / (name + suffix)
                part.mkdir()
                text = _config(name, suffix, task, front_ends)
                has_policy = isinstance(config, TaskConfig) and config.queue_policy
                (part / CONFIG_NAME).write_text(with_queue_policy(text) if has_policy else text)
                _write_version(part, source, version, config)
            self._move(draft, name, version, is_new)
        return self.read(name)

    def remove(self, name: str, version: int | None = None) -> None:
        """Delete a model, or one of its versions, whatever their settings are."""
        self._check_there(name)  # before a folder is made that is not meant
        with changing(self.folder, SUFFIXES) as draft:
            self._check_there(name)
            place = draft / name
            if version is None:
                (self.folder / name).rename(place)
            else:
                self._check_removable(name, version)
                place.mkdir()
                (self.folder / name / str(version)).rename(place / str(version))

    def _task(self, name: str) -> str | None:
        """What the model of that name does; None if it is none, or only a part of one."""
        for code in sorted((self.folder / name).glob("[0-9]*/model.py")):
            with suppress(OSError, ValueError):  # one that goes just now, or is none of ours
                tasks = PARTS.keys() & set(BACKEND.findall(code.read_text()))
                if tasks:
                    return tasks.pop()
        return None

    def _check_there(self, name: str) -> str:
        """The task of a model that there is."""
        task = self._task(name)
        if task is None:
            raise NotFound(f"there is no model {name!r} in {self.folder}; there are: "
                           f"{', '.join(self.names()) or 'none'}")
        return task

    def _check_removable(self, name: str, version: int) -> None:
        versions = self.versions(name)
        if version not in versions:
            raise NotFound(f"{name} has no version {version}; it has: "
                           f"{', '.join(map(str, versions))}")
        if len(versions) == 1:
            raise InvalidArgument("version", version, f"it is the only one; remove {name} as a "
                                                      "whole")

    def _check_free(self, name: str, task: str) -> None:
        for suffix in PARTS[task]:
            if (self.folder / (name + suffix)).exists():
                raise InvalidArgument("name", name, f"{self.folder / (name + suffix)} is there "
                                                    "already")

    def _read_settings(self, task: str, version: Path) -> Any:
        path = version / VERSION_SETTINGS
        try:
            return parse_settings(SETTINGS[task], json.loads(path.read_bytes()))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InvalidArgument("settings", str(path), f"it cannot be read: {error}") from None

    def _move(self, draft: Path, name: str, version: int, is_new: bool) -> None:
        """Put all in place, what names the model last."""
        for part in sorted(draft.iterdir(), key=lambda path: path.name == name):
            if is_new:
                part.rename(self.folder / part.name)
            elif (part / str(version) / "model.py").exists():  # no ensemble
                (part / str(version)).rename(self.folder / part.name / str(version))


def _source(name: str) -> Path:
    return next(source / name for source in SOURCES if (source / name).is_dir())


def _config(name: str, suffix: str, task: str, front_ends: int) -> str:
    """The checkout's config as it is, but with the names of this model's parts."""
    source = PARTS[task][suffix]
    names = {other: name + end for end, other in PARTS[task].items()}
    text = (_source(source) / CONFIG_NAME).read_text()
    text = OWN_NAME.sub(f'name: "{name}{suffix}"', text)
    text = OTHER_NAME.sub(lambda it: f'"{names[it[1] or it[2]]}"', text)
    if source == FRONT_END:
        text = COUNT.sub(str(front_ends), text)
    return text if source in ENSEMBLES else text + ALL_VERSIONS


def _write_version(part: Path, source: str, version: int, config: ModelConfig | TaskConfig) -> None:
    """The folder of a version; an ensemble has one for ever, since its steps take the newest."""
    if source in ENSEMBLES:
        (part / "1").mkdir()
        (part / "1" / ".gitkeep").touch()
        return
    folder = part / str(version)
    folder.mkdir()
    shutil.copy(_source(source) / "1" / "model.py", folder)
    texts = {"model": config.model, **settings_texts(config)}  # also if it is the default
    (folder / VERSION_SETTINGS).write_text(json.dumps(texts, indent=2) + "\n")

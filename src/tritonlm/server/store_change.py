"""Changes of a store's folder: one at a time, and each as a whole or not at all.

A model is several folders. What comes or goes is moved through a draft folder beside them; the one
that names the model comes last and goes first. So a draft that has it, when its process has been
killed, tells of which model, or version, the others are to go too.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonlm.errors import InvalidArgument

DRAFT, LOCK_NAME = ".changing-", ".lock"


@contextmanager
def changing(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """The draft of a change; what killed ones have left is cleared before.

    `suffixes` follow a model's name in those of its helpers. Raises `InvalidArgument` for a folder
    that cannot be changed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK_NAME).open("w") as lock:  # on NFS a folder itself cannot be locked
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob(f"{DRAFT}*"):
                _clear(left, suffixes)
            draft = Path(tempfile.mkdtemp(dir=folder, prefix=DRAFT))
            try:
                yield draft
            finally:
                _clear(draft, suffixes)
    except OSError as error:
        raise InvalidArgument("repository", str(folder), str(error)) from None


def _clear(draft: Path, suffixes: Collection[str]) -> None:
    """Delete a draft, and with it the helpers of the model, or version of it, that it has."""
    for model in list(draft.iterdir()):
        if model.name.endswith(tuple(suffixes)):
            continue
        place = draft.parent / model.name
        helpers = [place.with_name(model.name + suffix) for suffix in suffixes]
        if place.exists():  # an ensemble has no code, and one folder for all versions
            helpers = [helper / version.name for helper in helpers for version in model.iterdir()
                       if (helper / version.name / "model.py").exists()]
        for helper in helpers:
            if helper.exists():
                helper.rename(draft / f"{helper.parent.name}-{helper.name}")
    shutil.rmtree(draft)

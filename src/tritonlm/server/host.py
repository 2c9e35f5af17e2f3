"""What a machine must have, checked with nothing installed: `python host.py VENV`.

Only the standard library, and what Python 3.7 can read, so that an old one can say that it is old.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MIN_PYTHON, MAX_PYTHON = (3, 10), (3, 13)
MIN_GLIBC = (2, 35)
FIRST_PYTHON_WITHOUT_NUMPY_WHEEL = (3, 13)
"""numpy 1.26 has wheels for older ones only."""
FIRST_PYTHON_WITH_BUNDLED_LIBRARY = (3, 13)
"""For this one tritonserver's wheel brings libpython along."""


def platform_problem(system: str = sys.platform, machine: str = "") -> str | None:
    """Why tritonserver's binaries cannot run on this kind of machine."""
    machine = machine or platform.machine()
    if system == "linux" and machine == "x86_64":
        return None
    return (f"{system} on {machine} is not supported: tritonserver's wheel is for Linux on x86-64; "
            "elsewhere give a server with --tritonserver, or use the container image")


def python_problem(version: tuple[int, int] = sys.version_info[:2]) -> str | None:
    """Why this Python cannot run the models."""
    if MIN_PYTHON <= version <= MAX_PYTHON:
        return None
    return (f"Python {_dotted(version)} is not supported: use {_dotted(MIN_PYTHON)} to "
            f"{_dotted(MAX_PYTHON)}, for example make serve PYTHON=python3.12")


def glibc_problem(version: str | None = None) -> str | None:
    """Why tritonserver cannot be linked here; `version` as `confstr` has it: "glibc 2.36"."""
    name, _, number = (_libc() if version is None else version).partition(" ")
    if name == "glibc" and tuple(int(part) for part in number.split(".")[:2]) >= MIN_GLIBC:
        return None
    return (f"tritonserver needs glibc {_dotted(MIN_GLIBC)} (Debian 12, Ubuntu 22.04, RHEL 10) "
            f"or newer; here is {name} {number}".rstrip())


def venv_problem() -> str | None:
    """Why no virtual environment can be made with this Python."""
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return None
    return f"Python's venv module is missing: apt-get install python{_version()}-venv"


def numpy_problem() -> str | None:
    """Why numpy 1.26 cannot be installed: it is built from source where it has no wheel."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if sys.version_info[:2] < FIRST_PYTHON_WITHOUT_NUMPY_WHEEL or (
            shutil.which("cc") and shutil.which("c++") and header.exists()):
        return None
    return (f"numpy 1.26 is built from source for Python {_version()}, and no C++ compiler or no "
            f"{header} was found: apt-get install build-essential python{_version()}-dev, "
            "or use make serve PYTHON=python3.12")


def libpython_problem() -> str | None:
    """Why tritonserver cannot run models with this Python, as far as can be told without it."""
    name = f"libpython{_version()}.so.1.0"
    own = Path(sysconfig.get_config_var("LIBDIR") or "") / name
    if sys.version_info[:2] >= FIRST_PYTHON_WITH_BUNDLED_LIBRARY or own.exists() or _loads(name):
        return None
    return f"tritonserver runs models with {name}: apt-get install libpython{_version()}"


def mixed_python_problem(venv: Path) -> str | None:
    """Why `venv`, made earlier, is not the one that this Python would make."""
    if (venv / "lib" / f"python{_version()}").is_dir():
        return None
    return (f"{venv} was made with another Python than {_version()}: "
            f"run make clean first, or say VENV=.venv-{_version()}")


def find_problems(venv: Path) -> Iterator[str | None]:
    """Every check of what `make` needs, in order; None where all is well."""
    yield platform_problem()
    yield python_problem()
    yield glibc_problem()
    yield libpython_problem()
    if venv.exists():
        yield mixed_python_problem(venv)
    else:
        yield venv_problem()
        yield numpy_problem()


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "an unknown libc"
    except (ValueError, OSError):
        return "a libc that is not glibc"


def _version() -> str:
    return _dotted(sys.version_info[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


if __name__ == "__main__":
    problem = next(filter(None, find_problems(Path(sys.argv[1]))), None)
    sys.exit(f"tritonlm: {problem}" if problem else 0)

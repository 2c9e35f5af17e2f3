import subprocess
import sys

import pytest

from tritonlm.server import host


def test_this_machine_passes():
    assert host.platform_problem() is None
    assert host.python_problem() is None
    assert host.glibc_problem() is None


@pytest.mark.parametrize(("system", "machine"), [("linux", "aarch64"), ("darwin", "x86_64")])
def test_another_platform_is_named(system, machine):
    assert host.platform_problem(system, machine).startswith(f"{system} on {machine} is not")


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_an_unsupported_python_is_told_which_ones_are(version):
    problem = host.python_problem(version)
    assert problem.startswith(f"Python 3.{version[1]} is not supported: use 3.10 to 3.13")


@pytest.mark.parametrize("version", ["glibc 2.31", "a libc that is not glibc"])
def test_a_libc_that_does_not_do_is_named(version):
    assert host.glibc_problem(version).endswith(f"or newer; here is {version}")


@pytest.mark.parametrize("version", ["glibc 2.35", "glibc 2.40", "glibc 3.0"])
def test_a_newer_glibc_passes(version):
    assert host.glibc_problem(version) is None


def test_a_missing_venv_module_is_named_with_its_package(monkeypatch):
    assert host.venv_problem() is None
    monkeypatch.delitem(sys.modules, "ensurepip", raising=False)
    monkeypatch.setattr(sys, "meta_path", [])
    minor = sys.version_info.minor
    assert host.venv_problem().endswith(f"apt-get install python3.{minor}-venv")


def test_a_python_without_numpy_wheel_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "FIRST_PYTHON_WITHOUT_NUMPY_WHEEL", (3, 10))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install build-essential" in host.numpy_problem()


def test_a_missing_libpython_is_named_with_its_package(monkeypatch):
    assert host.libpython_problem() is None
    monkeypatch.setattr(host, "FIRST_PYTHON_WITH_BUNDLED_LIBRARY", (4, 0))
    monkeypatch.setattr(host.sys, "version_info", (3, 9))
    assert host.libpython_problem() == (
        "tritonserver runs models with libpython3.9.so.1.0: apt-get install libpython3.9")


def run_as_script(venv):
    return subprocess.run([sys.executable, "-I", host.__file__, str(venv)], capture_output=True,
                          text=True, check=False)


def test_the_script_is_silent_where_all_is_well(tmp_path):
    (tmp_path / "lib" / f"python3.{sys.version_info.minor}").mkdir(parents=True)
    done = run_as_script(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_script_refuses_the_environment_of_another_python(tmp_path):
    (tmp_path / "lib" / "python3.8").mkdir(parents=True)
    done = run_as_script(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tritonlm: {tmp_path} was made with another Python")
    assert done.stderr.count("\n") == 1

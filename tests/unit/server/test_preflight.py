import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tritonlm.errors import StartFailure
from tritonlm.server import preflight
from tritonlm.server.runtime import Runtime


@pytest.fixture
def runtime(tmp_path):
    """An installation whose server and stub are a real program of this machine."""
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    stub.parent.mkdir(parents=True)
    for binary in (tmp_path / "tritonserver", stub):
        shutil.copy(shutil.which("true"), binary)
    return Runtime(binary=tmp_path / "tritonserver", backends=tmp_path / "backends",
                   caches=tmp_path, libraries=(), version=(2, 51))


def relink(binary: Path, library: bytes, instead: bytes):
    """Have `binary` need another library, of a name of the same length."""
    contents = binary.read_bytes()
    assert library in contents
    assert len(library) == len(instead)
    binary.write_bytes(contents.replace(library, instead))


def test_a_whole_installation_passes(runtime):
    preflight.check_libraries(runtime)


@pytest.mark.parametrize("binary", ["tritonserver", "triton_python_backend_stub"])
def test_a_missing_library_is_named(runtime, binary):
    path = runtime.binary if binary == "tritonserver" else runtime.stub
    relink(path, b"libc.so.6", b"libq.so.7")
    with pytest.raises(StartFailure, match=rf"^{binary} needs libq\.so\.7: install the package"):
        preflight.check_libraries(runtime)


def test_a_missing_version_of_a_library_is_named(runtime):
    relink(runtime.stub, b"GLIBC_2.34", b"GLIBC_9.34")
    with pytest.raises(StartFailure, match=r"^triton_python_backend_stub needs GLIBC_9\.34: "):
        preflight.check_libraries(runtime)


def test_a_server_without_python_backend_is_told(runtime):
    runtime.stub.unlink()
    with pytest.raises(StartFailure, match=r"no Python backend: .*stub is missing"):
        preflight.check_libraries(runtime)


def test_numpy_2_is_refused_with_the_command_that_helps(runtime):
    with pytest.raises(StartFailure, match=r"^numpy 2\.1\.0 .*pip install 'numpy<2'$") as caught:
        preflight.check_numpy(runtime, "2.1.0")
    assert sys.executable in caught.value.message


def test_numpy_1_passes(runtime):
    preflight.check_numpy(runtime, "1.26.4")
    preflight.check_numpy(runtime)


@pytest.mark.parametrize("version", [(2, 52), (3, 0), None])
def test_newer_servers_take_numpy_2(runtime, version):
    preflight.check_numpy(replace(runtime, version=version), "2.1.0")

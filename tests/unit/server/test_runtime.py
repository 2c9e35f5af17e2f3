import os
import sys
import zipfile

import pytest

from tritonlm.errors import StartFailure
from tritonlm.server import runtime

MINOR = sys.version_info.minor
SERVER = "pytriton/tritonserver"
FILES = [
    "nvidia_pytriton.libs/libserver.so", f"{SERVER}/bin/tritonserver",
    f"{SERVER}/backends/python/libtriton_python.so",
    f"{SERVER}/backends/python/triton_python_backend_utils.py",
    f"{SERVER}/python_backend_stubs/3.{MINOR}/triton_python_backend_stub",
    f"{SERVER}/python_backend_stubs/3.8/triton_python_backend_stub",
]


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """An index that has nothing but a wheel with the files that count."""
    info = "nvidia_pytriton-0.7.0.dist-info"
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "nvidia_pytriton-0.7.0-py3-none-any.whl", "w") as wheel:
        for name in FILES:
            wheel.writestr(name, name)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nvidia-pytriton\n"
                                           "Version: 0.7.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                                        "Tag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr(runtime, "CHECKOUT", tmp_path / "elsewhere")
    monkeypatch.setattr(runtime, "PREINSTALLED", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return index


def test_the_wheel_is_installed_once_with_this_pythons_stub(wheels, monkeypatch):
    found = runtime.find()
    assert found.binary.read_text() == f"{SERVER}/bin/tritonserver"
    assert found.stub.read_text().endswith(f"3.{MINOR}/triton_python_backend_stub")
    beside = {path.name for path in found.stub.parent.iterdir()}
    assert beside == {os.path.basename(name) for name in FILES[2:5]}

    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels.parent / "nothing"))
    assert runtime.find() == found


def test_a_failed_download_is_not_taken_for_an_installation(wheels, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels.parent / "nothing"))
    for _ in range(2):
        with pytest.raises(StartFailure, match=r"^pip could not install nvidia-pytriton==0\.7\.0"):
            runtime.find()
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    assert runtime.find().stub.exists()


def test_what_an_interrupted_installation_left_is_replaced(wheels):
    left = wheels.parent / "cache" / "tritonlm" / "unfinished"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    assert runtime.find().stub.exists()
    assert not left.exists()


def test_a_folder_that_cannot_be_written_is_one_line(wheels, monkeypatch):
    (wheels.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(wheels.parent / "file"))
    with pytest.raises(StartFailure, match=r"^tritonserver cannot be installed: .*Not a directory"):
        runtime.find()


def test_a_given_installation_is_used(tmp_path):
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.touch(0o755)
    (tmp_path / "TRITON_VERSION").write_text("2.61.0\n")
    found = runtime.find(tmp_path)
    assert (found.binary, found.version) == (binary, (2, 61))
    assert found.stub == tmp_path / "backends" / "python" / "triton_python_backend_stub"


def test_a_given_folder_without_server_is_named(tmp_path):
    with pytest.raises(StartFailure, match=f"^--tritonserver {tmp_path}: there is no executable"):
        runtime.find(tmp_path)


def test_the_server_finds_its_libraries_and_this_python_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    found = runtime.Runtime(tmp_path, tmp_path, tmp_path, (tmp_path / "lib",), None)
    environ = found.environment()
    assert environ["LD_LIBRARY_PATH"] == f"{tmp_path}/lib:/mine"
    assert environ["PATH"] == f"{os.path.dirname(sys.executable)}:/usr/bin"

import os
from pathlib import Path

import pytest

from tritonlm.server import log

FAILED_LOAD = (
    "E1122 02:40:46.397785 8822 model_lifecycle.cc:642] \"failed to load 'generate' version 1: "
    "Internal: TritonModelException: model: '/nope' is not allowed; there is no\\nsuch folder"
    "\\n\\nAt:\\n  /models/generate/1/model.py(5): initialize\\n\"")
MISSING_MODULE = (
    "E1122 02:49:35.242904 14542 model_lifecycle.cc:642] \"failed to load 'echo' version 1: "
    "Internal: ModuleNotFoundError: No module named 'nopkg'\\n\\nAt:\\n  /m/1/model.py(1)\\n\"")
POLL_FAILED = (
    "E1122 02:51:55.238168 16105 model_repository_manager.cc:1460] \"Poll failed for model "
    "directory 'echo': failed to read text proto from /m/echo/config.pbtxt\"")
HARMLESS = ("E1122 02:40:42.181715 8822 server.cc:241] \"CudaDriverHelper has not been "
            "initialized.\"")


@pytest.mark.parametrize(("line", "reason"), [
    (FAILED_LOAD, "model generate failed to load: model: '/nope' is not allowed; there is no such "
                  "folder"),
    (MISSING_MODULE, "model echo failed to load: ModuleNotFoundError: No module named 'nopkg'"),
    (POLL_FAILED, "Poll failed for model directory 'echo': failed to read text proto from "
                  "/m/echo/config.pbtxt"),
    ("error: creating server: Internal - failed to load all models",
     "creating server: Internal - failed to load all models"),
    (HARMLESS, None),
    ("tritonlm: loaded the error: part", None),
])
def test_a_failure_is_told_in_one_line(line, reason):
    assert log.failure(line) == reason


@pytest.mark.parametrize(("line", "shown"), [
    ("tritonlm: loaded 12 M parameters", "tritonlm: loaded 12 M parameters"),
    ("I1122 02:40:44.1 8822 model_lifecycle.cc:839] \"successfully loaded 'tokenize'\"",
     "tritonlm: model tokenize is loaded"),
    ("I1122 02:40:44.1 8822 server.cc:604] tritonlm: ", None),
    ("", None),
])
def test_progress_is_what_concerns_people(line, shown):
    assert log.progress(line) == shown


@pytest.fixture
def file(tmp_path):
    """A log that has something of an earlier server, and what a server appends with."""
    path = tmp_path / "log"
    path.write_text(f"{FAILED_LOAD}\n")
    with path.open("ab", buffering=0) as file:
        yield file


@pytest.fixture
def reader(file):
    reader = log.Log(Path(file.name))
    yield reader
    reader.close()


def test_lines_are_given_once_they_are_whole(file, reader):
    for written, lines in ((b"one\ntw", ["one"]), (b"", []), (b"o \xc3", []),
                           (b"\xa4\n\nend", ["two ä", ""])):
        file.write(written)
        assert reader.new_lines() == lines


def test_the_first_failure_of_this_server_is_kept(file, reader):
    file.write("\n".join([HARMLESS, MISSING_MODULE, FAILED_LOAD, ""]).encode())
    assert reader.failure is None
    reader.new_lines()
    assert reader.failure == log.failure(MISSING_MODULE)


def test_a_log_that_is_rotated_is_read_on(file, reader):
    """As logrotate's copytruncate does."""
    for number in range(3):
        file.write(b"before %d\n" % number)
    assert len(reader.new_lines()) == 3
    os.truncate(file.name, 0)
    assert reader.new_lines() == []
    file.write(b"after\n")
    assert reader.new_lines() == ["after"]


def test_a_log_does_not_grow_beyond_its_bound(file):
    reader, line, sizes = log.Log(Path(file.name), 1000), b"x" * 99 + b"\n", []
    seen = []
    for _ in range(100):
        file.write(line)
        seen += reader.new_lines()
        sizes.append(os.path.getsize(file.name))
    reader.close()
    assert seen == [line.decode().strip()] * 100
    assert max(sizes) <= 1000
    assert sizes.count(0) > 5

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tritonlm.batch_files.output_file import AnswerLine, OutputFile
from tritonlm.errors import InvalidArgument, Unavailable

IDS = {"a", "b", "c"}


def answer(custom_id, status=200):
    return AnswerLine(f"id-{custom_id}", custom_id, {"status_code": status, "body": {}}, None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl"


def test_what_was_written_is_done(path):
    with OutputFile(path, IDS) as output:
        assert output.done == set()
        output.append([answer("a"), answer("b")])
    with OutputFile(path, IDS) as output:
        assert output.done == {"a", "b"}
        output.append([answer("c")])
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize("num_bytes", [1, 20, 60])
def test_a_torn_last_line_is_cut_off(path, num_bytes):
    with OutputFile(path, IDS) as output:
        output.append([answer("a")])
        whole = path.read_bytes()
        output.append([answer("b")])
    path.write_bytes(path.read_bytes()[: len(whole) + num_bytes])
    with OutputFile(path, IDS) as output:
        assert output.done == {"a"}
        output.append([answer("b")])
    assert path.read_bytes().startswith(whole)
    with OutputFile(path, IDS) as output:
        assert output.done == {"a", "b"}


@pytest.mark.parametrize(("text", "message"), [
    ("notes\n", "line 1: it is no answer"),
    ("notes without an end", "line 1: it is no answer"),
    ('{"id": "1", "custom_id": "z", "response": null, "error": null}\n', "line 1: no request has"),
    ('{"id": "1", "custom_id": "a", "response": null, "error": null}\n' * 2,
     "line 2: custom_id 'a' was answered before"),
])
def test_a_file_of_something_else_is_left_as_it_is(path, text, message):
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=message):
        OutputFile(path, IDS)
    assert path.read_text() == text


def test_what_does_not_fit_on_disk_is_not_there_in_part(path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with OutputFile(path, IDS) as output:
        output.append([answer("a")])
        whole = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, before[1]))
        try:
            with pytest.raises(Unavailable, match="File too large; what is done is kept"):
                output.append([answer("b")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert output.done == {"a"}
        assert path.read_bytes() == whole
        output.append([answer("b")])
    with OutputFile(path, IDS) as output:
        assert output.done == {"a", "b"}


def test_one_process_writes_at_a_time(path):
    with OutputFile(path, IDS), pytest.raises(Unavailable, match="another process writes to it"):
        OutputFile(path, IDS)
    with OutputFile(path, IDS):
        pass


def test_a_file_that_cannot_be_is_told(tmp_path):
    with pytest.raises(InvalidArgument, match=r"output: .* Is a directory"):
        OutputFile(tmp_path, IDS)
    with pytest.raises(InvalidArgument, match=r"output: '/dev/null' .* give a file's name"):
        OutputFile(Path("/dev/null"), IDS)


def test_an_answer_is_kept_or_asked_for_again_wherever_the_file_ends(path):
    with OutputFile(path, IDS) as output:
        output.append([AnswerLine(f"id-{name}", name, None, {"message": "größe\n\u2028"})
                       for name in "abc"])
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with OutputFile(path, IDS) as output:
            assert len(output.done) == whole[:end].count(b"\n")
            output.append([answer(name) for name in sorted(IDS - output.done)])
        with OutputFile(path, IDS) as output:
            assert output.done == IDS

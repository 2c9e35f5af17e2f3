from __future__ import annotations

import json

import pytest

from tritonlm.batch_files.input_file import MAX_TOLD, check, read_lines
from tritonlm.errors import InvalidArgument

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions",
        "body": {"model": "generate", "prompt": "Hi", "logit_bias": {"5": 1.5}}}


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        path = tmp_path / "in.jsonl"
        path.write_bytes(b"".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
            for line in lines))
        return path
    return write


def test_lines_are_read_in_order(file):
    path = file(GOOD, b"\n", GOOD | {"custom_id": "é"}, b'{"custom_id":"c","method":"POST",'
                b'"url":"/v1/embeddings","body":{}}')
    assert check(path) == {"a", "é", "c"}
    assert [line.custom_id for line in read_lines(path)] == ["a", "é", "c"]
    assert next(read_lines(path)).body == GOOD["body"]


@pytest.mark.parametrize(("line", "message"), [
    (b"{\n", "truncated"),
    (b"[]\n", "Expected `object`, got `array`"),
    (b"\xff\n", "malformed"),
    (GOOD | {"priority": 1}, "unknown field `priority`"),
    (GOOD | {"method": "GET"}, r"Invalid enum value 'GET' - at `\$.method`"),
    (GOOD | {"url": "/v1/images"}, r"Invalid enum value '/v1/images' - at `\$.url`"),
    (GOOD | {"body": "Hi"}, r"Expected `object`, got `str` - at `\$.body`"),
    (GOOD | {"custom_id": 5}, r"Expected `str`, got `int` - at `\$.custom_id`"),
    (GOOD | {"custom_id": ""}, "custom_id: it must not be empty"),
    (GOOD | {"body": {"stream": True}}, "stream: true is not allowed"),
    ({"custom_id": "x"}, "missing required field `method`"),
    (GOOD, "custom_id: 'a' is that of line 1 too"),
])
def test_a_wrong_line_is_named_by_its_number(file, line, message):
    with pytest.raises(InvalidArgument, match=f"1 lines are wrong.*\nline 3: .*{message}"):
        check(file(GOOD, GOOD | {"custom_id": "b"}, line))


def test_all_wrong_lines_are_told_up_to_a_number(file):
    with pytest.raises(InvalidArgument) as info:
        check(file(*[b"{}\n"] * 30))
    told = info.value.message.splitlines()
    assert told[0].endswith("30 lines are wrong, nothing was sent")
    assert [line.partition(":")[0] for line in told[1:-1]] == [
        f"line {number}" for number in range(1, MAX_TOLD + 1)]


def test_a_file_that_is_empty_or_not_there_is_told(file, tmp_path):
    with pytest.raises(InvalidArgument, match="it has no lines"):
        check(file(b"\n"))
    with pytest.raises(InvalidArgument, match="No such file"):
        check(tmp_path / "none")

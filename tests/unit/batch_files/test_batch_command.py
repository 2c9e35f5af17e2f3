"""`tritonlm batch` as a process, against a gateway that a test scripts."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from tests.drills.waiting import until

from tritonlm.batch_files import sender
from tritonlm.batch_files.input_file import Line
from tritonlm.batch_files.output_file import OutputFile
from tritonlm.batch_files.sender import Sender, Sending
from tritonlm.errors import Unavailable

COMMAND = str(Path(sys.executable).parent / "tritonlm")


class Gateway:
    """Answers each prompt with itself; notes what it was asked."""

    def __init__(self):
        self.asked = []
        self.num_running = self.most_running = 0
        self.delay_s = 0.0
        self.script = []
        """Statuses of the first answers."""

    async def answer(self, request):
        body = await request.json()
        self.asked.append(body["prompt"])
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.num_running -= 1
        if request.headers.get("authorization") == "Bearer wrong":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        if body["prompt"] == "bad":
            return web.json_response({"error": {"message": "max_tokens: no"}}, status=400)
        if body["prompt"] == "html":
            return web.Response(text="<html>")
        if self.script:
            return web.json_response({"error": {}}, status=self.script.pop(0),
                                     headers={"retry-after": "0"})
        return web.json_response(
            {"choices": [{"text": body["prompt"]}], "usage": {"completion_tokens": 3}},
            headers={"x-request-id": "r1"})


@asynccontextmanager
async def serving(gateway):
    app = web.Application()
    app.router.add_post("/v1/completions", gateway.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def gateway():
    gateway = Gateway()
    async with serving(gateway) as gateway.url:
        yield gateway


@pytest.fixture
def files(tmp_path):
    """Write requests of these prompts; give both paths."""
    def write(prompts):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(
            {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/completions",
             "body": {"model": "generate", "prompt": prompt}}) + "\n"
            for number, prompt in enumerate(prompts)))
        return tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    return write


async def start(gateway, files, *options):
    return await asyncio.create_subprocess_exec(
        COMMAND, "batch", *map(str, files), "--url", gateway.url, *options,
        stderr=asyncio.subprocess.PIPE)


async def run(gateway, files, *options):
    process = await start(gateway, files, *options)
    _, told = await process.communicate()
    return process.returncode, told.decode()


def answers(path):
    read = [json.loads(line) for line in path.read_text().splitlines()]
    by_id = {answer["custom_id"]: answer for answer in read}
    assert len(by_id) == len(read), "a line is repeated"
    return by_id


async def test_what_is_no_gateway_answers_no_line(gateway, files):
    paths = files(["a", "b"])
    gateway.script = [404, 404]
    code, told = await run(gateway, paths)
    assert code == 1
    assert f"--url: '{gateway.url}' is not allowed; there is no /v1/completions" in told
    assert paths[1].read_bytes() == b""


async def test_each_line_has_one_answer(gateway, files):
    paths = files([f"p{number}" for number in range(20)])
    gateway.delay_s = 0.05
    code, told = await run(gateway, paths, "--concurrency", "4")
    assert code == 0
    assert "20 of 20 lines done, 0 of them failed, 60 tokens" in told
    assert gateway.most_running == 4
    got = answers(paths[1])
    assert {id: one["response"]["body"]["choices"][0]["text"] for id, one in got.items()} == {
        f"line-{number}": f"p{number}" for number in range(20)}
    assert {*got["line-0"]} == {"id", "custom_id", "response", "error"}
    assert got["line-0"]["id"].startswith("batch_req_")
    assert got["line-0"]["response"] | {"body": 0} == {
        "status_code": 200, "request_id": "r1", "body": 0}
    assert got["line-0"]["error"] is None


async def test_a_killed_run_goes_on_without_losing_or_repeating_a_line(gateway, files):
    prompts = [f"p{number}" for number in range(60)]
    paths = files(prompts)
    gateway.delay_s = 0.05
    for least in (5, 20):
        process = await start(gateway, paths, "--concurrency", "3")
        await until(lambda least=least: paths[1].exists()
                    and paths[1].read_bytes().count(b"\n") >= least, "no lines")
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        done = answers(paths[1])
        assert least <= len(done) < 60
        with paths[1].open("a") as file:  # what a crash amid a write leaves
            file.write('{"id":"batch_req_torn","custom_id":"line-5')
    gateway.asked.clear()
    gateway.delay_s = 0.0
    code, told = await run(gateway, paths)
    assert code == 0, told
    got = answers(paths[1])
    assert {*got} == {f"line-{number}" for number in range(60)}
    assert all(got[id] == answer for id, answer in done.items())
    assert sorted(gateway.asked) == sorted(
        prompt for number, prompt in enumerate(prompts) if f"line-{number}" not in done)
    assert (await run(gateway, paths))[0] == 0
    assert len(gateway.asked) == 60 - len(done)


async def test_errors_are_those_of_their_lines(gateway, files):
    paths = files(["good", "bad", "html"])
    code, told = await run(gateway, paths)
    assert code == 1
    assert "3 of 3 lines done, 2 of them failed" in told
    code, told = await run(gateway, paths)
    assert (code, len(gateway.asked)) == (1, 3), "lines that had failed before are failed ones"
    assert "3 of 3 lines done, 2 of them failed" in told
    got = answers(paths[1])
    assert got["line-1"]["response"]["status_code"] == 400
    assert got["line-1"]["response"]["body"]["error"]["message"] == "max_tokens: no"
    assert got["line-2"]["response"] is None
    assert got["line-2"]["error"]["code"] == "no_json"


async def test_a_gateway_that_is_full_is_asked_again(gateway, files):
    paths = files(["one", "two"])
    gateway.script = [429, 503]
    assert (await run(gateway, paths, "--retries", "1"))[0] == 0
    assert len(gateway.asked) == 4
    gateway.script = [503, 503]
    paths[1].unlink()
    assert (await run(gateway, paths, "--concurrency", "1", "--retries", "1"))[0] == 1
    assert answers(paths[1])["line-0"]["response"]["status_code"] == 503


async def test_what_takes_too_long_is_an_error_of_its_line(gateway, files):
    paths = files(["slow"])
    gateway.delay_s = 1
    assert (await run(gateway, paths, "--timeout-s", "0.2"))[0] == 1
    assert answers(paths[1])["line-0"]["error"] == {
        "code": "timeout", "message": "no answer within 0.2 s"}


async def test_without_a_gateway_or_a_known_key_no_line_is_given_up(gateway, files):
    paths = files(["one", "two"])
    code, told = await run(gateway, paths, "--api-key", "wrong")
    assert code == 1
    assert "no such key" in told
    gateway.url = "http://127.0.0.1:1"
    code, told = await run(gateway, paths)
    assert code == 1
    assert "no gateway answers at http://127.0.0.1:1" in told
    assert answers(paths[1]) == {}


async def test_wrong_lines_are_told_before_anything_is_sent(gateway, files):
    paths = files(["one"])
    paths[0].write_text(paths[0].read_text() * 2 + "{}\n")
    code, told = await run(gateway, paths)
    assert code == 1
    assert "line 2: custom_id: 'line-0' is that of line 1 too" in told
    assert "line 3: Object missing required field" in told
    assert gateway.asked == []
    assert not paths[1].exists()


async def test_ctrl_c_keeps_what_is_done(gateway, files):
    paths = files([f"p{number}" for number in range(50)])
    gateway.delay_s = 0.05
    process = await start(gateway, paths, "--concurrency", "2")
    await until(lambda: paths[1].exists() and paths[1].read_bytes().count(b"\n") >= 3, "no lines")
    process.send_signal(signal.SIGINT)
    _, told = await process.communicate()
    assert process.returncode == 130
    assert f"{len(answers(paths[1]))} of 50 lines done" in told.decode()


async def test_a_gateway_that_takes_no_connection_answers_no_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "CONNECT_TIMEOUT_S", 0.2)
    with ExitStack() as sockets:
        full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # the kernel takes a few more than it is told
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        output = sockets.enter_context(OutputFile(tmp_path / "out.jsonl", {"1"}))
        sending = Sending(f"http://127.0.0.1:{full.getsockname()[1]}", 1, 0, 60.0)
        with pytest.raises(Unavailable, match="no gateway answers"):
            await Sender(sending, output, print).run(
                iter([Line("1", "POST", "/v1/completions", {})]))
    assert (tmp_path / "out.jsonl").read_bytes() == b""

"""Client processes of a load that end, or are ended, before their time."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from itertools import count

import pytest
from tests.drills.waiting import found
from tests.serving import TRITONLM
from triton_service import chunk, serve

from tritonlm.bench import processes
from tritonlm.bench.load import Load
from tritonlm.errors import EngineFailure

WAIT_S = 60


@pytest.mark.parametrize("last_words", ["", "print('[{', end='', flush=True);"])
def test_a_client_process_that_dies_is_named_with_its_status(monkeypatch, last_words):
    code = ("import os, signal, sys; sys.stdin.readline(); print('ready', flush=True);"
            f"sys.stdin.readline(); {last_words} os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", code))
    with pytest.raises(EngineFailure, match="ended, with status -11"):
        processes.measure(Load(num_prompts=2), num_processes=2)


def hang_after(num_answers):
    """A script that answers so many requests, and then none."""
    numbers = count(1)

    def script(request, context):
        is_hung_up = threading.Event()
        context.add_callback(is_hung_up.set)
        if next(numbers) > num_answers:
            is_hung_up.wait(WAIT_S)
        yield chunk("x", (1,), finish_reason="stop", is_final=True)
    return script


def test_ctrl_c_ends_a_load_with_what_was_seen_by_then():
    """Of a server that does not answer any more, too."""
    with serve(hang_after(3)) as triton:
        bench = subprocess.Popen(
            [TRITONLM, "bench", "--url", triton.url, "--num-prompts", "9", "--num-warmups", "0",
             "--max-concurrency", "2", "--processes", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found(lambda: len(triton.requests), lambda number: number >= 5)
        bench.send_signal(signal.SIGINT)
        out, err = bench.communicate(timeout=WAIT_S)
    assert re.search(r"requests +3\b", out)
    assert err == "stopped after 3 of 9 requests\n"
    assert bench.returncode == 130

"""Client processes of a load that end before their time."""

from __future__ import annotations

import sys

import pytest

from tritonlm.bench import processes
from tritonlm.bench.load import Load
from tritonlm.errors import EngineFailure


@pytest.mark.parametrize("last_words", ["", "print('[{', end='', flush=True);"])
def test_a_client_process_that_dies_is_named_with_its_status(monkeypatch, last_words):
    code = ("import os, signal, sys; sys.stdin.readline(); print('ready', flush=True);"
            f"sys.stdin.readline(); {last_words} os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", code))
    with pytest.raises(EngineFailure, match="ended, with status -11"):
        processes.measure(Load(num_prompts=2), num_processes=2)

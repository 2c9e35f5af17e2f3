"""`python -m tritonlm.engine.grammar_trial`: compiles grammars on trial, a line of JSON each way.

A grammar comes from a client, and one that nests deeply enough ends the process that compiles it.
So it is this process that compiles it first, and the kernel ends it where that takes too long.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

from llguidance import LLMatcher, grammar_from, regex_to_lark

from tritonlm.engine.grammar import LIMITS, Guide, refusal
from tritonlm.options import JSON_WHITESPACE

MAX_COMPILE_S = 2
"""Processor time of one grammar."""
MAX_BYTES = 4 * 2**30
STACK_BYTES = 4 * 2**20
"""What a grammar may take here; who compiles it after the trial needs as much."""
DEATHS = {-signal.SIGPROF: f"it takes more than {MAX_COMPILE_S} s to compile"}
SOURCES: dict[str, Callable[[str], str]] = {
    "guided_json": lambda text: LLMatcher.grammar_from_json_schema(
        text, defaults={"whitespace_pattern": JSON_WHITESPACE}),
    # There, \d is 0 to 9, as in JSON schemas.
    "guided_regex": lambda text: f"start: /{regex_to_lark(text, 'd')}/",
    "guided_choice": partial(grammar_from, "choice"),
    "guided_grammar": partial(grammar_from, "grammar"),
}
TOO_LARGE = "it is too large or nests too deeply"


class Trial:
    """A process for trials, which is started when it is needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def source(self, guide: Guide) -> str:
        """`guide` in the grammar library's own form; raises `InvalidArgument`."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(guide), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise refusal(guide, DEATHS.get(self._process.wait(), TOO_LARGE))
        source, error = json.loads(answer)
        if error:
            raise refusal(guide, error)
        return str(source)


def _try(guide: Guide) -> tuple[str, str]:
    """The source of a grammar, and what is wrong with it."""
    name, text = guide
    try:
        source = SOURCES[name](text)
    except ValueError as error:
        return "", str(error)
    return source, LLMatcher.validate_grammar(source, limits=LIMITS)


def main() -> None:
    """Answer what comes in, until nothing more can."""
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, MAX_COMPILE_S)
        answer = _try(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()

"""What Locust loads: `locust -f loadtests/locustfile.py`. Its users are those of Locust's list.

Each stream is told as `ttft`, `itl` and `e2e`; one whose client hung up as `abort`, and one whose
client read slowly as `slow e2e`, since it has itself to blame.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from locust import events
from locust.runners import WorkerRunner
from rich.console import Console

from loadtests.ledger import Ledger
from loadtests.settings import Settings, add_options
from loadtests.shaping import ChosenShape
from loadtests.users.batch import BatchUser
from loadtests.users.embeddings import EmbeddingsUser
from loadtests.users.grpc_stream import GrpcStreamUser
from loadtests.users.openai_chat import OpenAIChatUser
from loadtests.users.sse import SseUser, TritonSseUser
from loadtests.users.web_socket import WebSocketUser
from loadtests.verdict import WORDS, latency_table, verdict_table
from tritonlm.errors import InvalidArgument

__all__ = ["BatchUser", "ChosenShape", "EmbeddingsUser", "GrpcStreamUser", "OpenAIChatUser",
           "SseUser", "TritonSseUser", "WebSocketUser"]
REFUSED, MISSED = 2, 1
LEDGER = "tritonlm_ledger"

events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]
logging.getLogger("httpx2").setLevel(logging.WARNING)  # OpenAI's library: a line a request


@events.init.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Any, **_: Any) -> None:
    """Check the settings, and listen."""
    try:
        settings = Settings.of(environment.parsed_options)
    except InvalidArgument as error:
        print(f"loadtests: {error.message}", file=sys.stderr)
        sys.exit(REFUSED)
    recorder = Recorder(environment, settings)
    environment.events.test_start.add_listener(recorder.clear)
    environment.events.request.add_listener(recorder.note)
    environment.events.report_to_master.add_listener(recorder.send)
    environment.events.worker_report.add_listener(recorder.receive)
    environment.events.quitting.add_listener(recorder.judge)
    environment.events.quit.add_listener(recorder.tell)


class Recorder:
    """Keeps the ledger, over all processes, and judges by it."""

    def __init__(self, environment: Any, settings: Settings) -> None:
        self._environment = environment
        self._slo = settings.objectives
        self._ledger = Ledger()

    def clear(self, **_: Any) -> None:
        """A test begins."""
        self._ledger.take()

    def note(
        self, request_type: str, name: str, response_time: float, exception: Any, context: Any,
        **_: Any,
    ) -> None:
        """An entry of a request."""
        if exception is None:
            self._ledger.add(request_type, name, response_time)
        if name == "e2e":
            limits_ms = self._slo.limits_ms if self._slo else {}
            self._ledger.count(context["seen"], context["is_stream"], limits_ms)

    def send(self, data: dict[str, Any], **_: Any) -> None:
        """A worker tells its master."""
        data[LEDGER] = self._ledger.take()

    def receive(self, data: dict[str, Any], **_: Any) -> None:
        """The master hears it."""
        self._ledger.merge(data[LEDGER])

    def judge(self, environment: Any, **_: Any) -> None:
        """Complete the report, and set the exit code."""
        if isinstance(environment.runner, WorkerRunner):
            return
        report = environment.parsed_options.html_file
        if report and Path(report).exists():
            from loadtests.plotting import add_to_report  # noqa: PLC0415 - takes a second
            add_to_report(Path(report), self._ledger)
        if self._slo is not None:
            is_met = all(one.is_met for one in self._slo.verdicts(self._ledger))
            environment.process_exit_code = 0 if is_met else MISSED

    def tell(self, **_: Any) -> None:
        """Print what was seen, last of all."""
        if isinstance(self._environment.runner, WorkerRunner):
            return
        console = Console()
        console.print(latency_table(self._ledger))
        if self._slo is not None:
            verdicts = list(self._slo.verdicts(self._ledger))
            console.print(verdict_table(verdicts))
            is_met = all(one.is_met for one in verdicts)
            path = self._environment.parsed_options.slo
            console.print(f"the objectives of {path} are {WORDS[is_met]}")

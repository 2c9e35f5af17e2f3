"""What all users have in common: when they ask, and what is told of each request."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gevent
import gevent.pool
from locust import User, task

from loadtests.settings import Settings
from loadtests.users.conduct import Behaviour, Conduct, HungUp
from tritonlm.bench.seen import MS, Seen

PAUSE_AFTER_FAILURE_S = 0.5
ANSWER_TIMEOUT_S = 120.0


class RequestFailed(Exception):
    """What a server answered instead."""


class LanguageUser(User):
    """Asks one prompt after the other, or at random times without waiting for answers."""

    abstract = True
    host: str = "http://localhost:9000"
    """Of the gateway, unless Locust's --host says."""
    kind: ClassVar[str]
    is_stream: ClassVar[bool] = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.settings = Settings.of(environment.parsed_options)
        self.behaviour = Behaviour(self.settings)
        self._under_way = gevent.pool.Group()

    def ask(self, conduct: Conduct) -> None:
        """Send what `conduct` says, and tell it of each chunk; raises any error, and `HungUp`."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of all connections."""

    def wait_time(self) -> float:
        """Seconds until the next request."""
        return self.behaviour.interval_s()

    @task
    def request(self) -> None:
        """Ask once."""
        if self.settings.arrivals == "closed":
            self._ask_once()
        else:
            self._under_way.spawn(self._ask_once)

    def on_stop(self) -> None:
        """Give what is under way the time that Locust's --stop-timeout says."""
        self._under_way.join(self.environment.stop_timeout or 0)
        self._under_way.kill()
        self.close()

    def _ask_once(self) -> None:
        conduct = self.behaviour.conduct(self.is_stream)
        try:
            self.ask(conduct)
        except HungUp:
            self._fire("abort", conduct.seen())
            return
        except gevent.GreenletExit:
            self._tell_unanswered(conduct)
            raise
        except RequestFailed as error:
            conduct.error = str(error)
        except Exception as error:  # whatever else a client library raises is the result too
            conduct.error = f"{type(error).__name__}: {error}"
        seen = conduct.seen()
        if seen.error:
            self._fire("e2e", seen, (time.monotonic() - seen.started_s) * MS)
            gevent.sleep(PAUSE_AFTER_FAILURE_S)
        elif conduct.pause_s:
            self._fire("slow e2e", seen)
        else:
            self._tell(seen)

    def _tell_unanswered(self, conduct: Conduct) -> None:
        """The test is over: it is a failure if the answer had all of Locust's --stop-timeout."""
        limit_s = self.environment.stop_timeout or 0
        waited_s = time.monotonic() - conduct.started_s
        if limit_s and waited_s >= limit_s and not conduct.pause_s:
            conduct.error = f"no whole answer when the --stop-timeout of {limit_s:g} s was over"
            self._fire("e2e", conduct.seen(), waited_s * MS)

    def _tell(self, seen: Seen) -> None:
        if self.is_stream:
            self._fire("ttft", seen, seen.ttft_ms)
            for ms in seen.itl_ms:
                self._fire("itl", seen, ms)
        self._fire("e2e", seen)

    def _fire(self, entry: str, seen: Seen, ms: float | None = None) -> None:
        """Tell Locust of an entry, which took as long as the request unless `ms` says."""
        self.environment.events.request.fire(
            request_type=self.kind, name=entry, response_time=seen.e2e_ms if ms is None else ms,
            response_length=seen.num_output_tokens, context={
                "seen": seen, "is_stream": self.is_stream},
            exception=RequestFailed(seen.error) if seen.error else None)

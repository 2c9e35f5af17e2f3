"""A real Prometheus with our rules, on a free port, which looks at pages of metrics."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[1] / "k8s" / "components" / "monitoring" / "rules.yaml"
LIMIT_S = 60


class Prometheus:
    """Answers by its HTTP API."""

    def __init__(self, url: str, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._url, self._log, self._process = url, log, process

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer; what it refuses fails with the reason."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def values(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        return self.get("query", query=expression)["result"]

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """Its samples once there are any."""
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            try:
                if found := self.values(expression):
                    return found
            except urllib.error.URLError:  # it is about to listen, or to read what it has
                assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline_s, f"{expression} has no value"
            time.sleep(0.2)


@contextmanager
def running_prometheus(folder: Path, pages: Sequence[str]) -> Iterator[Prometheus]:
    """It looks at `pages` and evaluates the rules every second; its files are in `folder`."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(yaml.safe_load(RULES.read_text())["spec"]))
    targets = [urllib.parse.urlsplit(page).netloc for page in pages]
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "tritonlm", "static_configs": [{"targets": targets}]}]}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = folder / "prometheus.log"
    with log.open("wb") as file, subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={address}"], stdout=file, stderr=file) as process:
        try:
            prometheus = Prometheus(f"http://{address}", log, process)
            prometheus.wait_for(f"count(up == 1) == {len(targets)}")
            yield prometheus
        finally:
            process.kill()  # it keeps nothing

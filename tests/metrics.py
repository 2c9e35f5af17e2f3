"""The page of metrics of a server, read as Prometheus does."""

from __future__ import annotations

import re
import urllib.request


def samples(metrics_url: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each sample of a metric; none if there is no such metric."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [(dict(re.findall(r'(\w+)="([^"]*)"', line)), float(line.rsplit(" ", 1)[1]))
            for line in lines if line.startswith(name + "{")]


def total(metrics_url: str, name: str) -> float:
    """The sum over a metric's samples."""
    return sum(value for _, value in samples(metrics_url, name))

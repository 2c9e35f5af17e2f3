"""Pages of metrics, read as Prometheus reads them, and what has happened between two of them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

SAMPLE = re.compile(r"^(tritonlm_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """Our metrics at one time; those of several servers may be on one."""

    samples: Mapping[str, Mapping[Labels, float]]
    at_s: float
    """On the monotonic clock."""

    @classmethod
    def parse(cls, texts: Mapping[str, str], at_s: float) -> Page:
        """The metrics of pages, by the names of the servers, which become a label `page`."""
        samples: dict[str, dict[Labels, float]] = defaultdict(dict)
        for origin, text in texts.items():
            for name, labels, value in SAMPLE.findall(text):
                key = frozenset([*LABEL.findall(labels), ("page", origin)])
                samples[name][key] = float(value)
        return cls(dict(samples), at_s)

    def values(self, name: str, **labels: str) -> list[float]:
        """The samples of a metric that have these labels."""
        return list(self.chosen(name, labels).values())

    def chosen(self, name: str, labels: Mapping[str, str]) -> dict[Labels, float]:
        """The same, with all their labels."""
        wanted = set(labels.items())
        return {key: value for key, value in self.samples.get(name, {}).items() if wanted <= key}

    def label_values(self, name: str, label: str) -> list[str]:
        """The values of a label among the samples of a metric."""
        return sorted({value for key in self.samples.get(name, {}) for of, value in key
                       if of == label})


@dataclass(frozen=True)
class Interval:
    """What has happened between two pages."""

    before: Page
    now: Page

    def growth(self, name: str, **labels: str) -> float:
        """How much a counter has grown, over all its samples; what is new has yet to grow."""
        earlier = self.before.samples.get(name, {})
        grown = 0.0
        for key, value in self.now.chosen(name, labels).items():
            last = earlier.get(key, value)
            grown += value - last if value >= last else value  # less: it was started again
        return grown

    def rate(self, name: str, **labels: str) -> float:
        """The same a second."""
        seconds = self.now.at_s - self.before.at_s
        return self.growth(name, **labels) / seconds if seconds > 0 else 0.0

    def ratio(self, part: str, whole: str, **labels: str) -> float | None:
        """The growth of a counter as a share of another's; None if that one has not grown."""
        total = self.growth(whole, **labels)
        return self.growth(part, **labels) / total if total else None

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Of a histogram, linear within a bucket; None if nothing was observed."""
        buckets = f"{name}_bucket"
        bounds = sorted(map(float, self.now.label_values(buckets, "le")))
        texts = {float(text): text for text in self.now.label_values(buckets, "le")}
        counts = [self.growth(buckets, le=texts[bound], **labels) for bound in bounds]
        if not counts or not counts[-1]:
            return None
        rank, lower, below = share * counts[-1], 0.0, 0.0
        for bound, count in zip(bounds, counts, strict=True):
            if count >= rank:
                is_open = math.isinf(bound) or count == below
                return lower if is_open else lower + (bound - lower) * (rank - below) / (
                    count - below)
            lower, below = bound, count
        return lower

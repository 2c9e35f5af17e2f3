"""Where the time of a sample of requests went, how memory grew meanwhile, and what that means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from tritonlm.observability.page import Page

MIB = 2**20
LARGE_SHARE = 0.3
"""Of the time: a stage that takes more is worth a word."""
STEADY_SHARE, STEADY_BYTES = 0.02, 8 * MIB
"""A process whose memory grows by less than the larger of these is steady."""
MEMORY = {"tritonlm_engine_memory_bytes": "engine {engine} of {model}",
          "tritonlm_front_end_memory_bytes": "front end {front_end} of {model}",
          "tritonlm_task_memory_bytes": "{model}",
          "tritonlm_gpu_memory_used_bytes": "the GPU of engine {engine} of {model}"}
"""Metrics of memory, and whose it is by their labels."""
ADVICE = {
    "transport": "the way between client and front end: network, proxies, gateway, Triton itself",
    "queue": "waiting for a place in the batch: more comes than the engine takes; add servers, or "
             "raise max_num_seqs and kv_cache_gib",
    "prefill": "prompts: shorten them, begin them alike so that the prefix cache helps, or give "
               "the engine a faster device",
    "decode": "the engine's steps, where it belongs: a faster device, or quantization, makes them "
              "shorter, fewer requests at once too",
    "finish": "the front end after the last token: it is behind; raise front_ends, or "
              "stream_interval_ms",
}
"""What a stage that takes long is about, by stage; they follow each other."""


@dataclass(frozen=True)
class Sample:
    """One request, as the client saw it and as the server tells of it."""

    client_s: float
    """From the request to the end of its answer."""
    told: Mapping[str, float | None]
    """The server's `perf_metrics`."""

    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of each stage; together they are what the client saw."""
        told = {name: value or 0.0 for name, value in self.told.items()}
        engine = {name: told[f"{name}_ms"] for name in ("queue", "prefill", "decode")}
        return {"transport": max(1000 * self.client_s - told["total_ms"], 0.0), **engine,
                "finish": max(told["total_ms"] - sum(engine.values()), 0.0)}


@dataclass(frozen=True)
class Stage:
    """What one stage took, over all requests."""

    name: str
    p50_ms: float
    p99_ms: float
    share: float
    """Of the time of all requests together."""


@dataclass(frozen=True)
class Growth:
    """The memory of a process or GPU at several times, evenly spread over the requests."""

    owner: str
    sizes_bytes: Sequence[float]

    @property
    def late_bytes(self) -> float:
        """By how much it has grown in the second half, when it has all that it needs."""
        return self.sizes_bytes[-1] - self.sizes_bytes[len(self.sizes_bytes) // 2]

    @property
    def is_steady(self) -> bool:
        """Whether it has grown by no more than memory does by itself."""
        return self.late_bytes < max(STEADY_BYTES, STEADY_SHARE * self.sizes_bytes[0])


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    samples: Sequence[Sample]
    errors: Sequence[str]
    growths: Sequence[Growth]

    def stages(self) -> list[Stage]:
        """In the order in which they follow each other."""
        times = [sample.stages_ms() for sample in self.samples]
        total_ms = sum(sum(each.values()) for each in times) or 1.0
        return [_stage(name, [each[name] for each in times], total_ms) for name in ADVICE]

    def mean(self, name: str) -> float:
        """Of one of the server's numbers, over all requests."""
        return sum(sample.told[name] or 0.0 for sample in self.samples) / len(self.samples)

    def verdict(self) -> Iterator[str]:
        """In words, what matters most first."""
        for reason, count in Counter(self.errors).most_common():
            yield f"{count} of {len(self.errors) + len(self.samples)} requests failed: {reason}"
        if self.samples:
            for stage in sorted(self.stages(), key=lambda stage: -stage.share):
                if stage.share > LARGE_SHARE:
                    yield f"{100 * stage.share:.0f} % is {stage.name}, {ADVICE[stage.name]}"
            busy = (self.mean("detokenize_ms") + self.mean("send_ms")) / self.mean("total_ms")
            if busy > LARGE_SHARE:
                yield (f"front ends are busy with a request for {100 * busy:.0f} % of its time, "
                       "making text and sending: raise front_ends, or stream_interval_ms")
        for growth in self.growths:
            if not growth.is_steady:
                yield (f"{growth.owner} has grown by {growth.late_bytes / MIB:.0f} MiB in the "
                       "second half: look again with more --requests; what goes on growing leaks")
        if self.growths and all(growth.is_steady for growth in self.growths):
            yield "memory is steady"


def growths(pages: Sequence[Page]) -> list[Growth]:
    """The memory of each process and GPU that is on all pages."""
    return [Growth(owner.format_map(dict(key)), [page.samples[name][key] for page in pages])
            for name, owner in MEMORY.items()
            for key in sorted(pages[0].samples.get(name, {}), key=sorted)
            if all(key in page.samples.get(name, {}) for page in pages)]


def _stage(name: str, times_ms: list[float], total_ms: float) -> Stage:
    p99_ms = quantiles(times_ms, n=100, method="inclusive")[98] if len(times_ms) > 1 else (
        times_ms[0])
    return Stage(name, median(times_ms), p99_ms, sum(times_ms) / total_ms)

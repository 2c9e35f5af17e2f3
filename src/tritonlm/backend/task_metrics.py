"""What a task has computed, at the server's /metrics; docs/tasks.md is held to it by a test."""

from __future__ import annotations

from dataclasses import fields, replace

import triton_python_backend_utils as pb_utils

from tritonlm.encoders.row_runner import Work
from tritonlm.process_memory import resident_bytes

COUNTERS = {
    "num_rows": ("tritonlm_task_rows_total", "Texts or pairs that were computed"),
    "num_batches": ("tritonlm_task_batches_total", "Batches of rows of about one length"),
    "num_tokens": ("tritonlm_task_tokens_total", "Tokens of rows"),
    "num_padding_tokens": ("tritonlm_task_padding_tokens_total",
                           "Tokens of padding that were computed beside them"),
}
MEMORY = ("tritonlm_task_memory_bytes", "Memory of the model's process that is in RAM")


class TaskMetrics:
    """Metrics of one model; one thread shows them."""

    def __init__(self, model: str) -> None:
        self._shown = Work()
        # A family must outlive its metrics.
        self._families = {field: pb_utils.MetricFamily(name, about, pb_utils.MetricFamily.COUNTER)
                          for field, (name, about) in COUNTERS.items()}
        self._metrics = {field: family.Metric(labels={"model": model})
                         for field, family in self._families.items()}
        self._memory_family = pb_utils.MetricFamily(*MEMORY, pb_utils.MetricFamily.GAUGE)
        self._memory = self._memory_family.Metric(labels={"model": model})
        self._memory.set(resident_bytes())

    def show(self, work: Work) -> None:
        """Bring them to what has been done by now."""
        for field in fields(work):
            grown = getattr(work, field.name) - getattr(self._shown, field.name)
            self._metrics[field.name].increment(grown)
        self._shown = replace(work)
        self._memory.set(resident_bytes())

    def close(self) -> None:
        """Take them off the page: a model that is unloaded has no memory."""
        self._metrics.clear()
        del self._memory
        self._families.clear()
        del self._memory_family

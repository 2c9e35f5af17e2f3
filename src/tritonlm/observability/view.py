"""A frame of `tritonlm top`."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tritonlm.observability import state
from tritonlm.observability.page import Interval
from tritonlm.observability.state import Quantiles

MIB = 2**20


def frame(interval: Interval, silent: list[str]) -> RenderableType:
    """All that there is to see; `silent` are the pages that did not answer."""
    parts: list[RenderableType] = [_models(interval), _engines(interval)]
    if interval.now.samples.get("tritonlm_task_rows_total"):
        parts.append(_tasks(interval))
    if interval.now.samples.get("tritonlm_gateway_requests_total"):
        parts.append(_gateway(interval))
    return Group(*parts, _alerts(interval, silent))


def _models(interval: Interval) -> Table:
    table = _table("model", "requests/s", "errors", "tokens/s", "prompt tokens/s", "unfinished",
                   "first token p50 p99", "per token p50 p99", "queue p50 p99", "memory")
    for each in state.models(interval):
        table.add_row(each.model, f"{each.requests_per_s:.1f}", _percent(each.error_share),
                      f"{each.output_tokens_per_s:,.0f}", f"{each.prompt_tokens_per_s:,.0f}",
                      f"{each.num_unfinished:.0f}", _pair(each.first_token),
                      _pair(each.inter_token), _pair(each.queue), _mib(each.memory_bytes))
    return table


def _engines(interval: Interval) -> Table:
    table = _table("engine", "running", "waiting", "oldest wait", "KV cache", "prefix hits",
                   "steps/s", "memory", "GPU", "GPU memory")
    for each in state.engines(interval):
        table.add_row(f"{each.model} {each.engine} ({each.page})", f"{each.num_running:.0f}",
                      f"{each.num_waiting:.0f}", f"{each.oldest_wait_s:.1f} s",
                      _percent(each.kv_usage), _percent(each.prefix_hits),
                      f"{each.steps_per_s:.0f}", _mib(each.memory_bytes),
                      _percent(each.gpu_usage), _percent(each.gpu_memory))
    return table


def _tasks(interval: Interval) -> Table:
    table = _table("task", "rows/s", "rows a batch", "tokens/s", "padding", "memory")
    for each in state.tasks(interval):
        batch = "-" if each.rows_per_batch is None else f"{each.rows_per_batch:.1f}"
        table.add_row(each.model, f"{each.rows_per_s:.1f}", batch, f"{each.tokens_per_s:,.0f}",
                      _percent(each.padding), _mib(each.memory_bytes))
    return table


def _gateway(interval: Interval) -> Table:
    table = _table("gateway", "requests/s", "errors", "first byte p50 p99")
    for each in state.paths(interval):
        table.add_row(each.path, f"{each.requests_per_s:.1f}", _percent(each.error_share),
                      _pair(each.first_byte))
    in_flight = sum(interval.now.values("tritonlm_gateway_requests_in_flight"))
    sockets = sum(interval.now.values("tritonlm_gateway_sockets"))
    table.caption = f"{in_flight:.0f} requests in flight, {sockets:.0f} WebSockets"
    return table


def _alerts(interval: Interval, silent: list[str]) -> Text:
    lines = [f"{page} does not answer" for page in silent]
    lines += [f"{name}: {who}" for name, who in state.alerts(interval)]
    return Text("\n".join(lines), "bold red") if lines else Text("no alert", "green")


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=SIMPLE_HEAD, expand=False, caption_justify="left")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _pair(quantiles: Quantiles) -> str:
    return f"{_ms(quantiles.p50_s)} {_ms(quantiles.p99_s)}"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / MIB:,.0f} MiB" if num_bytes else "-"

"""Grafana's dashboards from a line a panel: `python -m tritonlm.observability.dashboards`.

Expressions stand here without the selectors of the dashboard's variables, which are added to each
metric that has braces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[3] / "k8s" / "components" / "monitoring" / "dashboards"
WIDTH, HEIGHT, PER_LINE = 8, 7, 3
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """A graph: its title, its unit as Grafana names it, and expressions by the series' legends."""

    title: str
    unit: str
    series: dict[str, str]


@dataclass(frozen=True)
class Dashboard:
    """Panels in rows, and the label that a reader chooses by, beside the namespace."""

    title: str
    label: str
    of_metric: str
    """What selects metrics that know the label's values."""
    rows: dict[str, tuple[Panel, ...]]


def _rate(metric: str, by: str, braces: str = "{}") -> str:
    return f"sum by ({by}) (rate({metric}{braces}[$__rate_interval]))"


def _quantiles(metric: str, by: str) -> dict[str, str]:
    return {f"p{percent} {{{{{by}}}}}": f"histogram_quantile({percent / 100:g}, "
            + _rate(f"{metric}_bucket", f"{by}, le") + ")" for percent in (50, 90, 99)}


def _latency(title: str, metric: str, by: str = "model") -> Panel:
    return Panel(title, "s", _quantiles(metric, by))


ENGINE = "{{pod}} {{model}} {{engine}}"
OF_A_MODEL = '{__name__=~"tritonlm_requests_total|tritonlm_task_rows_total"}'
MODELS = Dashboard("tritonlm: models", "model", OF_A_MODEL, {
    "Requests": (
        Panel("Requests by how they end", "reqps", {
            "{{outcome}} {{reason}}": _rate("tritonlm_requests_total", "outcome, reason")}),
        Panel("Running", "short", {ENGINE: "tritonlm_requests_running{}"}),
        Panel("Waiting", "short", {
            "{{model}} {{priority}}":
                "sum by (model, priority) (tritonlm_requests_waiting_by_priority{})"}),
        Panel("Oldest wait", "s", {ENGINE: "tritonlm_oldest_wait_seconds{}"}),
        Panel("In front ends", "short", {
            "{{model}}": "sum by (model) (tritonlm_requests_unfinished{})"}),
        Panel("Engines started", "short", {
            ENGINE: "increase(tritonlm_engine_starts_total{}[$__rate_interval])"}),
    ),
    "Latency": (
        _latency("Time to first token", "tritonlm_time_to_first_token_seconds"),
        _latency("Time per token after the first", "tritonlm_inter_token_seconds"),
        _latency("Queue", "tritonlm_queue_seconds"),
        _latency("Whole requests", "tritonlm_request_seconds"),
    ),
    "Tokens": (
        Panel("Tokens a second", "short", {
            "{{model}} out": _rate("tritonlm_output_tokens_total", "model"),
            "{{model}} prompts": _rate("tritonlm_prompt_tokens_total", "model")}),
        Panel("Requests in a step", "short", _quantiles("tritonlm_step_requests", "model")),
        Panel("Chunks, and tokens that shared one", "short", {
            "{{model}} chunks": _rate("tritonlm_chunks_total", "model"),
            "{{model}} shared": _rate("tritonlm_coalesced_tokens_total", "model")}),
        Panel("Tokens in the last step", "short", {ENGINE: "tritonlm_step_tokens{}"}),
    ),
    "Cache": (
        Panel("KV cache in use", "percentunit", {ENGINE: "tritonlm_kv_cache_usage_ratio{}"}),
        Panel("Blocks of the KV cache", "short", {
            f"{ENGINE} used": "tritonlm_kv_blocks_used{}",
            f"{ENGINE} all": "tritonlm_kv_blocks{}"}),
        Panel("Prompt tokens found in the prefix cache", "percentunit", {
            "{{model}}": _rate("tritonlm_prefix_hit_tokens_total", "model") + " / "
                         + _rate("tritonlm_prefix_tokens_total", "model")}),
        Panel("Pre-emptions", "ops", {"{{model}}": _rate("tritonlm_preemptions_total", "model")}),
    ),
    "GPU and memory": (
        Panel("GPU busy", "percentunit", {ENGINE: "tritonlm_gpu_usage_ratio{}"}),
        Panel("GPU memory", "bytes", {
            f"{ENGINE} used": "tritonlm_gpu_memory_used_bytes{}",
            f"{ENGINE} all": "tritonlm_gpu_memory_bytes{}"}),
        Panel("Memory of processes", "bytes", {
            f"engine {ENGINE}": "tritonlm_engine_memory_bytes{}",
            "front end {{pod}} {{front_end}}": "tritonlm_front_end_memory_bytes{}",
            "{{pod}} {{model}}": "tritonlm_task_memory_bytes{}"}),
    ),
    "Embeddings, scores, labels": (
        Panel("Rows", "ops", {"{{model}}": _rate("tritonlm_task_rows_total", "model")}),
        Panel("Rows in a batch", "short", {
            "{{model}}": _rate("tritonlm_task_rows_total", "model") + " / "
                         + _rate("tritonlm_task_batches_total", "model")}),
        Panel("Tokens a second", "short", {
            "{{model}}": _rate("tritonlm_task_tokens_total", "model"),
            "{{model}} padding": _rate("tritonlm_task_padding_tokens_total", "model")}),
    ),
})
GATEWAY = Dashboard("tritonlm: gateway", "path", "tritonlm_gateway_requests_total", {
    "Requests": (
        Panel("Requests by status", "reqps", {
            "{{path}} {{status}}":
                _rate("tritonlm_gateway_requests_total", "path, status") + " > 0"}),
        Panel("In flight", "short", {"requests": "sum(tritonlm_gateway_requests_in_flight)",
                                     "WebSockets": "sum(tritonlm_gateway_sockets)"}),
        _latency("First byte", "tritonlm_gateway_first_byte_seconds", "path"),
        _latency("Whole requests", "tritonlm_gateway_request_seconds", "path"),
        Panel("Tokens a second", "short", {
            "{{model}} out": _rate("tritonlm_gateway_output_tokens_total", "model", ""),
            "{{model}} prompts": _rate("tritonlm_gateway_input_tokens_total", "model", "")}),
    ),
    "Servers": (
        Panel("Up", "short", {
            "{{server}}": "min by (server) (tritonlm_gateway_server_up)"}),
        Panel("Failures", "reqps", {
            "{{server}}": _rate("tritonlm_gateway_server_failures_total", "server", "")}),
        Panel("Ejections", "ops", {
            "{{server}}": _rate("tritonlm_gateway_server_ejections_total", "server", "")}),
    ),
    "Answers kept": (
        Panel("Requests by what the cache did", "reqps", {
            "{{outcome}}": _rate("tritonlm_gateway_cache_requests_total", "outcome", "")}),
        Panel("Lookups and errors", "ops", {
            "{{level}} {{outcome}}":
                _rate("tritonlm_gateway_cache_lookups_total", "level, outcome", ""),
            "{{level}} error": _rate("tritonlm_gateway_cache_errors_total", "level", "")}),
        Panel("Memory", "bytes", {"": "sum(tritonlm_gateway_cache_memory_bytes)"}),
    ),
})
DASHBOARDS = {"models": MODELS, "gateway": GATEWAY}


def as_json(name: str, dashboard: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    return json.dumps({
        "uid": f"tritonlm-{name}", "title": dashboard.title, "tags": ["tritonlm"],
        "schemaVersion": 39, "editable": True, "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables(dashboard))},
        "panels": list(_panels(dashboard)),
    }, indent=1) + "\n"


def _variables(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "query": "prometheus"}
    for label in ("namespace", dashboard.label):
        yield {"name": label, "type": "query", "datasource": DATA_SOURCE,
               "query": f"label_values({dashboard.of_metric}, {label})",
               "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*",
               "current": {"text": "All", "value": "$__all"}}


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """Each row's title, and its panels below it, three in a line."""
    y = 0
    for title, panels in dashboard.rows.items():
        yield {"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        for place, panel in enumerate(panels):
            line, column = divmod(place, PER_LINE)
            position = {"x": column * WIDTH, "y": y + 1 + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            yield _graph(panel, position, dashboard.label)
        y += 1 + -(-len(panels) // PER_LINE) * HEIGHT


def _graph(panel: Panel, position: dict[str, int], label: str) -> dict[str, Any]:
    chosen = f'{{namespace=~"$namespace", {label}=~"${label}"}}'
    return {
        "type": "timeseries", "title": panel.title, "gridPos": position,
        "datasource": DATA_SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [{"refId": chr(ord("A") + place), "legendFormat": legend,
                     "expr": expression.replace("{}", chosen)}
                    for place, (legend, expression) in enumerate(panel.series.items())],
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for its_name, its_dashboard in DASHBOARDS.items():
        (FOLDER / f"{its_name}.json").write_text(as_json(its_name, its_dashboard))

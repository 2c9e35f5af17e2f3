"""What is applied to a cluster, as a kubelet sees it: containers, their environment and probes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from k8s import render

OVERLAYS = sorted(folder.name for folder in (render.K8S / "overlays").iterdir())
ALTERNATIVES = [folder.name for folder in render.ALTERNATIVES]
GROUP_LABEL = "leaderworkerset.sigs.k8s.io/name"
"""What the controller of a LeaderWorkerSet gives its pods."""
LEADER = "triton-0.triton-0.tritonlm"
"""The name of the first pod of the first group of a LeaderWorkerSet."""
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass(frozen=True)
class Container:
    """A container of a pod, with what its config maps say filled in."""

    workload: str
    spec: dict[str, Any]
    pod: dict[str, Any]
    environ: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.workload}/{self.spec['name']}"

    @property
    def image(self) -> str:
        """The image's own name, without registry and tag."""
        return self.spec["image"].rpartition("/")[2].partition(":")[0]

    @property
    def probes(self) -> dict[str, dict[str, Any]]:
        return {name: self.spec[name] for name in PROBES if name in self.spec}

    def with_word(self, word: str, other: str) -> Container:
        """With `other` instead of `word` in its command, or its arguments."""
        [key] = [key for key in ("command", "args") if word in self.spec.get(key, ())]
        return replace(self, spec=self.spec | {
            key: [other if each == word else each for each in self.spec[key]]})

    def port(self, name: str) -> int:
        return next(port["containerPort"] for port in self.spec["ports"] if port["name"] == name)


@cache
def objects(name: str) -> list[dict[str, Any]]:
    """All objects of an overlay, or of the base with the component of that name."""
    with TemporaryDirectory() as scratch:
        folder = (render.K8S / "overlays" / name if name in OVERLAYS else
                  render.with_base(render.K8S / "components" / name, Path(scratch) / name))
        return list(yaml.safe_load_all(render.render(folder)))


def pod_labels(overlay: str) -> dict[str, dict[str, str]]:
    """The labels of an overlay's pods, by what they are called after."""
    found = {}
    for each in objects(overlay):
        for template, _ in _templates(each):
            labels = dict(template["metadata"]["labels"])
            if each["kind"] == "LeaderWorkerSet":
                labels[GROUP_LABEL] = each["metadata"]["name"]
            found[labels["app.kubernetes.io/name"]] = labels
    return found


def containers(overlay: str) -> dict[str, Container]:
    """The containers of an overlay by `workload/name`."""
    return {each.name: each for each in _containers(objects(overlay))}


def scaling_metrics() -> str:
    """Everything that asks for a metric in order to scale."""
    return "\n".join(path.read_text() for name in ("autoscaling", "scale-to-zero")
                     for path in sorted((render.K8S / "components" / name).glob("*.yaml")))


def _templates(each: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """The pods of a workload, and what its controller adds to their environment."""
    if each["kind"] in {"Deployment", "Job"}:
        yield each["spec"]["template"], {}
    if each["kind"] == "LeaderWorkerSet":
        group = each["spec"]["leaderWorkerTemplate"]
        for index, template in enumerate((group["leaderTemplate"], group["workerTemplate"])):
            yield template, {"LWS_LEADER_ADDRESS": LEADER, "LWS_WORKER_INDEX": str(index)}


def _expanded(value: Any, environ: dict[str, str]) -> Any:
    """With the variables in the texts of a list filled in, as the kubelet does."""
    return [re.sub(r"\$\((\w+)\)", lambda it: environ[it[1]], text) for text in value]


def _containers(found: list[dict[str, Any]]) -> Iterator[Container]:
    maps = {each["metadata"]["name"]: each["data"] for each in found
            if each["kind"] == "ConfigMap"}
    for each in found:
        for template, environ in _templates(each):
            pod = template["spec"]
            for spec in [*pod.get("initContainers", ()), *pod["containers"]]:
                yield _container(each["metadata"]["name"], spec, pod, dict(environ), maps)


def _container(
    workload: str, spec: dict[str, Any], pod: dict[str, Any], environ: dict[str, str],
    maps: dict[str, dict[str, str]],
) -> Container:
    for source in spec.get("envFrom", ()):
        environ |= maps[source["configMapRef"]["name"]]
    for pair in spec.get("env", ()):
        value = pair.get("value", "known-on-a-cluster")
        [environ[pair["name"]]] = _expanded([value], environ)
    if "args" in spec:
        spec = spec | {"args": _expanded(spec["args"], environ)}
    return Container(workload, spec, pod, environ)

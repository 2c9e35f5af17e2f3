"""What is applied to a cluster, as a kubelet sees it: containers, their environment and probes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml
from k8s import render

OVERLAYS = sorted(folder.name for folder in (render.K8S / "overlays").iterdir())
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
        """With `other` instead of `word` in its command."""
        words = self.spec["command"]
        assert word in words
        return replace(self, spec=self.spec | {
            "command": [other if each == word else each for each in words]})

    def port(self, name: str) -> int:
        return next(port["containerPort"] for port in self.spec["ports"] if port["name"] == name)


@cache
def objects(overlay: str) -> list[dict[str, Any]]:
    """All objects of an overlay."""
    return list(yaml.safe_load_all(render.render(render.K8S / "overlays" / overlay)))


def containers(overlay: str) -> dict[str, Container]:
    """The containers of an overlay by `workload/name`."""
    return {each.name: each for each in _containers(objects(overlay))}


def scaling_metrics() -> str:
    """Everything that asks for a metric in order to scale."""
    return "\n".join(path.read_text() for name in ("autoscaling", "scale-to-zero")
                     for path in sorted((render.K8S / "components" / name).glob("*.yaml")))


def _containers(found: list[dict[str, Any]]) -> Iterator[Container]:
    maps = {each["metadata"]["name"]: each["data"] for each in found
            if each["kind"] == "ConfigMap"}
    for each in found:
        if each["kind"] not in {"Deployment", "Job"}:
            continue
        pod = each["spec"]["template"]["spec"]
        for spec in [*pod.get("initContainers", ()), *pod["containers"]]:
            environ: dict[str, str] = {}
            for source in spec.get("envFrom", ()):
                environ |= maps[source["configMapRef"]["name"]]
            environ |= {pair["name"]: pair["value"] for pair in spec.get("env", ())}
            yield Container(each["metadata"]["name"], spec, pod, environ)

"""What objects say of each other: whoever is named or selected must be there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
NAMES = {
    "configMapRef": lambda ref: ("ConfigMap", ref["name"]),
    "configMap": lambda volume: ("ConfigMap", volume["name"]),
    "claimName": lambda name: ("PersistentVolumeClaim", name),
    "serviceAccountName": lambda name: ("ServiceAccount", name),
    "scaleTargetRef": lambda ref: (ref.get("kind", "Deployment"), ref["name"]),
    "service": lambda backend: ("Service", backend["name"]),
}
"""Keys that lead to another object, whatever stands around them. Secrets are yours to make."""
BACKEND = "backendRefs"


def find_dangling(objects: list[Object]) -> Iterator[str]:
    """What names a thing that is not among `objects`, and the thing."""
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    pods = [pod for each in objects for pod in _pods(each)]
    for each in objects:
        told = f"{each['kind']} {each['metadata']['name']}"
        for kind, name in _named(each):
            if (kind, name) not in there:
                yield f"{told}: there is no {kind} {name}"
        for selector, ports in _selected(each, objects):
            chosen = [pod for pod in pods if fits(selector, pod["metadata"]["labels"])]
            if not chosen:
                yield f"{told}: no pod is such: {selector}"
            for port in ports:
                if chosen and not any(port in _ports(pod) for pod in chosen):
                    yield f"{told}: no pod that is {selector} has the port {port}"
    for pod in pods:
        for port in _probed(pod):
            if port not in _ports(pod):
                yield f"{pod['metadata']['labels']}: a probe asks at {port}, which is no port"


def _pods(each: Object) -> Iterator[Object]:
    if each["kind"] == "Pod":
        yield each
    elif each["kind"] in {"Deployment", "Job"}:
        yield each["spec"]["template"]


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All pairs of all mappings in `value`."""
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _walk(each)


def _named(each: Object) -> Iterator[tuple[str, str]]:
    for key, value in _walk(each.get("spec", {})):
        if key in NAMES:
            yield NAMES[key](value)
        elif key == BACKEND:
            yield from ((ref.get("kind", "Service"), ref["name"]) for ref in value)


def _selected(each: Object, objects: list[Object]) -> Iterator[tuple[Object, list[int | str]]]:
    """What selects pods, and the ports that they must have."""
    kind, spec = each["kind"], each.get("spec", {})
    if kind == "Service":
        yield {"matchLabels": spec["selector"]}, [port["targetPort"] for port in spec["ports"]]
    elif kind in {"Deployment", "PodDisruptionBudget"}:
        yield spec["selector"], []
    elif kind == "InferencePool":
        yield spec["selector"], [port["number"] for port in spec["targetPorts"]]
    elif kind == "ServiceMonitor":
        yield from _monitored(spec, objects)
    elif kind == "NetworkPolicy":
        yield spec["podSelector"], [port for rule in spec.get("ingress", ())
                                    for port in _allowed(rule)]
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            for peer in (*rule.get("from", ()), *rule.get("to", ())):
                if set(peer) == {"podSelector"}:  # else it is elsewhere
                    yield peer["podSelector"], _allowed(rule) if "to" in rule else []


def _monitored(spec: Object, objects: list[Object]) -> Iterator[tuple[Object, list[int | str]]]:
    """The pods behind the services that a ServiceMonitor selects, with the ports that it reads."""
    for each in objects:
        if each["kind"] == "Service" and fits(spec["selector"], each["metadata"]["labels"]):
            ports = {port["name"]: port["targetPort"] for port in each["spec"]["ports"]}
            yield {"matchLabels": each["spec"]["selector"]}, [
                ports.get(endpoint["port"], endpoint["port"]) for endpoint in spec["endpoints"]]
            return
    yield spec["selector"], []


def _allowed(rule: Object) -> list[int | str]:
    return [port["port"] for port in rule.get("ports", ())]


def fits(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector selects what has those labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()
               ) and all(labels.get(each["key"]) in each["values"]
                         for each in selector.get("matchExpressions", ()))


def _ports(pod: Object) -> set[int | str]:
    """Names and numbers of the ports of its containers."""
    return {port[key] for container in pod["spec"]["containers"]
            for port in container.get("ports", ()) for key in ("name", "containerPort")}


def _probed(pod: Object) -> Iterator[int | str]:
    for key, value in _walk(pod["spec"]["containers"]):
        if key == "httpGet":
            yield value["port"]

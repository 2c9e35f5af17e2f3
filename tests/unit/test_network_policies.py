"""Who may talk to whom on a cluster, by the network policies that are applied."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from k8s import render
from k8s.references import fits
from tests import manifests

pytestmark = pytest.mark.skipif(render.command() is None,
                                reason="needs kustomize or kubectl: make k8s-check fetches one")
NODE_CACHE = "169.254.20.10/32"
HERE = {"kubernetes.io/metadata.name": "tritonlm"}


@dataclass(frozen=True)
class Host:
    """A pod, or a machine that is none."""

    labels: dict[str, str] = field(default_factory=dict)
    of_namespace: dict[str, str] = field(default_factory=dict)


ELSEWHERE = {
    "dns": Host({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}),
    "prometheus": Host({}, {"tritonlm/scrapes": "true"}),
    "collector": Host({}, {"tritonlm/collects": "true"}),
    "cache of the node": Host({"at": NODE_CACHE}),
    "internet": Host(),
}


def may_talk(overlay, source, target, port):
    policies = [each["spec"] for each in manifests.objects(overlay)
                if each["kind"] == "NetworkPolicy"]
    here = {name: Host(labels, HERE) for name, labels in manifests.pod_labels(overlay).items()}
    known = here | ELSEWHERE
    return (lets(policies, "Egress", known[source], known[target], port)
            and lets(policies, "Ingress", known[target], known[source], port))


def lets(policies, way, host, other, port):
    """Whether the policies for `host` let it talk to `other`, or be talked to."""
    if host.of_namespace != HERE:
        return True
    key, peers = ("egress", "to") if way == "Egress" else ("ingress", "from")
    own = [each for each in policies
           if way in each["policyTypes"] and fits(each["podSelector"], host.labels)]
    return not own or any(
        (peers not in rule or any(is_meant(peer, other) for peer in rule[peers]))
        and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        for each in own for rule in each.get(key, ()))


def is_meant(peer, host):
    if "ipBlock" in peer:
        return host == ELSEWHERE["cache of the node"] and peer["ipBlock"]["cidr"] == NODE_CACHE
    in_namespace = (fits(peer["namespaceSelector"], host.of_namespace) and bool(host.of_namespace)
                    if "namespaceSelector" in peer else host.of_namespace == HERE)
    return in_namespace and fits(peer.get("podSelector", {}), host.labels)


@pytest.mark.parametrize(("overlay", "source", "target", "port"), [
    *((overlay, *flow) for overlay in manifests.OVERLAYS for flow in (
        ("gateway", "triton", 8001), ("gateway", "triton", 8002), ("gateway", "dns", 53),
        ("triton", "dns", 53), ("triton", "cache of the node", 53), ("internet", "gateway", 9000),
        ("prometheus", "triton", 8002), ("prometheus", "gateway", 9000))),
    ("dev", "triton", "internet", 443),
    ("production", "fetch-weights", "internet", 443),
    ("production", "fetch-weights", "dns", 53),
    ("production", "fetch-weights", "cache of the node", 53),
    ("leader-worker", "triton", "triton-follower", 40000),
    ("leader-worker", "triton-follower", "triton", 8004),
    ("leader-worker", "triton-follower", "dns", 53),
    ("multi-model", "gateway", "triton", 8003),
    ("multi-model", "triton", "internet", 443),
    ("tracing", "gateway", "collector", 4318),
    ("tracing", "triton", "collector", 4318),
    ("inference-pool", "internet", "triton", 9000),
])
def test_what_must_get_through_does(overlay, source, target, port):
    assert may_talk(overlay, source, target, port)


@pytest.mark.parametrize(("overlay", "source", "target", "port"), [
    *((overlay, *flow) for overlay in manifests.OVERLAYS for flow in (
        ("internet", "triton", 8000), ("internet", "triton", 8001), ("internet", "triton", 8002),
        ("prometheus", "triton", 8001), ("gateway", "triton", 8000), ("gateway", "internet", 443),
        ("gateway", "collector", 4318))),
    ("production", "triton", "internet", 443),
    ("production", "fetch-weights", "triton", 8001),
    ("leader-worker", "gateway", "triton-follower", 8004),
    ("leader-worker", "triton-follower", "internet", 443),
    ("multi-model", "internet", "triton", 8003),
    ("multi-model", "prometheus", "triton", 8003),
    ("tracing", "triton", "collector", 4317),
    ("inference-pool", "internet", "triton", 8001),
])
def test_nothing_else_does(overlay, source, target, port):
    assert not may_talk(overlay, source, target, port)

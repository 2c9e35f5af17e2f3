"""What the world reaches of a gateway on a cluster: all that keys guard, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from starlette.routing import Mount

from tritonlm.gateway.app import create_app
from tritonlm.gateway.journal import UNCOUNTED
from tritonlm.gateway.settings import GatewaySettings

COMPONENTS = Path(__file__).parents[3] / "k8s" / "components"


def rule_of(path):
    [rule] = yaml.safe_load((COMPONENTS / path).read_text())["spec"]["rules"]
    return rule


def of_ingress():
    rule = rule_of("ingress/ingress.yaml")
    return [(each["path"], each["pathType"] == "Prefix") for each in rule["http"]["paths"]]


def of_route():
    return [(each["path"]["value"], each["path"]["type"] == "PathPrefix")
            for each in rule_of("gateway-api/route.yaml")["matches"]]


@pytest.mark.parametrize("listed", [of_ingress(), of_route()], ids=["ingress", "gateway-api"])
def test_all_paths_are_let_in_but_those_of_watchers(listed, tmp_path):
    routes = create_app(GatewaySettings(), tmp_path).routes
    paths = {route.path + "/" * isinstance(route, Mount) for route in routes}
    let_in = {path for path in paths for prefix, has_more in listed
              if path == prefix or (has_more and path.startswith(prefix + "/"))}
    assert let_in == paths - UNCOUNTED

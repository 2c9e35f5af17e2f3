"""Dashboards are as their description says, and show what there is."""

from __future__ import annotations

import json

import pytest
from tests.exported_metrics import exported_names, names_in

from tritonlm.observability.dashboards import DASHBOARDS, FOLDER, as_json

PANELS = [(name, panel) for name in DASHBOARDS
          for panel in json.loads((FOLDER / f"{name}.json").read_text())["panels"]]
GRAPHS = [(name, panel) for name, panel in PANELS if panel["type"] != "row"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_file_is_what_its_description_makes(name):
    assert (FOLDER / f"{name}.json").read_text() == as_json(name, DASHBOARDS[name]), (
        "run: python -m tritonlm.observability.dashboards")


@pytest.mark.parametrize(("name", "panel"), GRAPHS, ids=[
    f"{name}-{panel['title']}" for name, panel in GRAPHS])
def test_a_panel_shows_metrics_that_are_exported(name, panel):
    for target in panel["targets"]:
        names = names_in(target["expr"])
        assert names, target
        assert names <= exported_names()


def test_every_metric_of_the_server_is_shown():
    shown = {name for _, panel in GRAPHS for target in panel["targets"]
             for name in names_in(target["expr"])}
    unseen = {name for name in exported_names() - shown
              if not name.endswith(("_sum", "_count", "_created"))}
    assert unseen == {"tritonlm_requests_waiting"}, "its classes are shown"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_lies_on_another(name):
    taken = set()
    for panel in (panel for owner, panel in PANELS if owner == name):
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells

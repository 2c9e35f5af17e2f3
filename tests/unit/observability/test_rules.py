"""Alerts fire when they should, by Prometheus's own tool, on the rules that are deployed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from tests.exported_metrics import exported_names, names_in

from tritonlm.cli import app

ROOT = Path(__file__).parents[3]
RUNBOOK = ROOT / "docs" / "alerts.md"
RULES = ROOT / "k8s" / "components" / "monitoring" / "rules.yaml"
CASES = Path(__file__).with_name("rules_test.yaml")
SPEC = yaml.safe_load(RULES.read_text())["spec"]
ALERTS = [rule for group in SPEC["groups"] for rule in group["rules"] if "alert" in rule]
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None,
                                    reason="needs promtool: apt-get install prometheus")


@pytest.fixture
def folder(tmp_path):
    """A folder with the rules as Prometheus reads them, and what is expected of them."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(SPEC))
    shutil.copy(CASES, tmp_path)
    return tmp_path


def promtool(folder, *arguments):
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True,
                          check=False)


@needs_promtool
def test_prometheus_takes_the_rules(folder):
    checked = promtool(folder, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
def test_alerts_fire_when_they_should_and_else_do_not(folder):
    tested = promtool(folder, "test", "rules", CASES.name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
def test_an_alert_that_does_not_fire_fails_the_cases(folder):
    """What the tool says is looked at: with other limits it must complain."""
    rules = folder / "rules.yaml"
    rules.write_text(re.sub(r"> 0\.05\b", "> 0.5", rules.read_text()))
    assert promtool(folder, "test", "rules", CASES.name).returncode != 0


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert):
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/alerts.md#{alert['alert'].lower()}"
    assert alert["alert"] in CASES.read_text(), "nothing tests that it fires"


def test_the_runbook_has_a_command_for_each_alert():
    sections = dict(re.findall(r"^## (Tritonlm\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(),
                               re.MULTILINE | re.DOTALL))
    assert list(sections) == [alert["alert"] for alert in ALERTS]
    listed = re.findall(r"^\| `(Tritonlm\w+)`", RUNBOOK.with_name("observability.md").read_text(),
                        re.MULTILINE)
    assert listed == list(sections)
    for name, text in sections.items():
        [command] = re.findall(r"```sh\nkubectl (.*)\n```", text)
        words = shlex.split(command.partition(" -- ")[2])
        if words and words[0] == "tritonlm":
            typer.main.get_command(app).commands[words[1]].make_context(words[1], words[2:])
        else:
            assert "nvidia-smi" in words or " logs " in command, name


def test_rules_ask_for_metrics_that_are_exported():
    recorded = {rule["record"] for group in SPEC["groups"] for rule in group["rules"]
                if "record" in rule}
    for group in SPEC["groups"]:
        for rule in group["rules"]:
            assert names_in(rule["expr"]) <= exported_names(), rule
            assert set(re.findall(r"\w+:tritonlm_\w+:\w+", rule["expr"])) <= recorded, rule

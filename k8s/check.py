"""Render, validate and judge everything that is applied to a cluster: `make k8s-check`.

Runs in an environment with the packages of tools.txt. Checks of rules need promtool, which is in
Debian's package prometheus.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from k8s import render
from k8s.references import find_dangling
from k8s.render import K8S

ROOT = K8S.parent
RENDERED = ROOT / "build" / "k8s"
TOOLS = Path(sys.executable).parent
OVERLAYS = sorted((K8S / "overlays").iterdir())
KUBERNETES = "1.37"
GROUP_LABEL = "leaderworkerset.sigs.k8s.io/name"
"""What the pods of a LeaderWorkerSet get from its controller."""


def main() -> None:
    """Exit with 1 after the first kind of check that finds something."""
    shutil.rmtree(RENDERED, ignore_errors=True)
    RENDERED.mkdir(parents=True)
    if render.command() is None:
        render.fetch()
    alternatives = [render.with_base(each, RENDERED / each.name) for each in render.ALTERNATIVES]
    for folder in [*OVERLAYS, *alternatives]:
        objects = list(yaml.safe_load_all(render.render(folder)))
        objects += [pod for each in objects for pod in pods_of_group(each)]
        (RENDERED / f"{folder.name}.yaml").write_text(yaml.safe_dump_all(objects))
        problems = [problem for each in objects for problem in find_problems(each)]
        problems += find_dangling(objects)
        if problems:
            sys.exit(f"{folder.name}: " + "\n".join(problems))
        print(f"{folder.name}: {len(objects)} objects are valid for Kubernetes {KUBERNETES}, "
              "and what they name is there")
        check_rules(objects)
    dockerfile = shutil.copy(ROOT / "Dockerfile", RENDERED)
    run(TOOLS / "checkov", "--config-file", K8S / "checkov.yaml", "-d", RENDERED)
    run(TOOLS / "hadolint", dockerfile)
    print("checkov and hadolint find nothing")


def pods_of_group(each: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods of a LeaderWorkerSet, whose schema here and policies stop at their templates."""
    if each["kind"] == "LeaderWorkerSet":
        of_set, group = each["metadata"], each["spec"]["leaderWorkerTemplate"]
        for name in ("leaderTemplate", "workerTemplate"):
            metadata, spec = group[name]["metadata"], group[name]["spec"]
            labels = metadata["labels"] | {GROUP_LABEL: of_set["name"]}
            yield {"apiVersion": "v1", "kind": "Pod", "spec": spec,
                   "metadata": of_set | metadata | {
                       "name": metadata["labels"]["app.kubernetes.io/name"], "labels": labels}}


def find_problems(each: dict[str, Any]) -> Iterator[str]:
    """What the schema of the object's kind does not allow; unknown fields are not."""
    name = f"{each['kind']} {each['metadata']['name']}"
    group, _, version = each["apiVersion"].rpartition("/")
    schema = K8S / "schemas" / f"{each['kind'].lower()}-{group}-{version}.json"
    if schema.exists():
        validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
        for error in validator.iter_errors(each):
            yield f"{name}: {'.'.join(map(str, error.path))}: {error.message}"
        return
    try:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{name}: Kubernetes {KUBERNETES} has no such kind in {each['apiVersion']}"
    except kubernetes_validate.ValidationError as error:
        yield f"{name}: {'.'.join(map(str, error.path))}: {error.message}"


def check_rules(objects: list[dict[str, Any]]) -> None:
    """Rules and expressions are such as Prometheus takes."""
    for each in objects:
        if each["kind"] != "PrometheusRule":
            continue
        if shutil.which("promtool") is None:
            print("rules are not checked: apt-get install prometheus", file=sys.stderr)
            return
        path = RENDERED / "rules.json"  # which is YAML, too
        path.write_text(json.dumps(each["spec"]))
        run("promtool", "check", "rules", path)
        path.unlink()


def run(*command: str | Path) -> None:
    """Run `command`; a failure is ours."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{Path(command[0]).name} has found something")


if __name__ == "__main__":
    main()

"""Imports point one way, and documents name files that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {path: path.relative_to(base).with_suffix("").as_posix().replace("/", ".")
           for base in (ROOT / "src", ROOT / "client") for path in base.rglob("*.py")}
BASE = ("tritonlm.backoff", "tritonlm.errors", "tritonlm.values", "tritonlm.options",
        "tritonlm.contract", "tritonlm.config", "tritonlm.locked_folder", "tritonlm.logs",
        "tritonlm.otlp", "tritonlm.parent", "tritonlm.process_memory", "tritonlm.container",
        "tritonlm.tracing")
MAY_IMPORT = {
    "tritonlm.engine": (*BASE, "tritonlm.engine"),
    "tritonlm.encoders": (*BASE, "tritonlm.engine.device", "tritonlm.encoders"),
    "tritonlm.text": (*BASE, "tritonlm.text"),
    "tritonlm.backend": (*BASE, "tritonlm.engine", "tritonlm.encoders", "tritonlm.text",
                         "tritonlm.backend"),
    "tritonlm.server": (*BASE, "tritonlm.encoders.config", "tritonlm.manager", "tritonlm.server"),
    "tritonlm.manager": (*BASE, "tritonlm.manager"),
    "tritonlm_client": (*BASE, "tritonlm_client"),
    "tritonlm.batch_files": ("tritonlm.errors", "tritonlm.batch_files"),
    "tritonlm.caching": ("tritonlm.errors", "tritonlm.caching"),
    "tritonlm.gateway": (*BASE, "tritonlm_client", "tritonlm.caching", "tritonlm.manager.client",
                         "tritonlm.gateway"),
    "tritonlm.observability": (*BASE, "tritonlm.backend.metric_definitions",
                               "tritonlm.gateway.metrics", "tritonlm.observability"),
    "tritonlm.bench": (*BASE, "tritonlm.bench"),
    **dict.fromkeys(BASE, BASE),
}


def imports(path):
    """Full names of what a file imports, at any level."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_inside(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_stands_below_it(package):
    files = [path for path, name in SOURCES.items() if is_inside(name, package)]
    for path in files:
        for name in imports(path):
            if name.startswith("tritonlm"):
                assert any(is_inside(name, allowed) for allowed in MAY_IMPORT[package]), (
                    f"{path} imports {name}")


def test_only_the_backend_imports_tritons_module():
    users = {path for path in SOURCES
             if any(name.startswith("triton_python_backend_utils") for name in imports(path))}
    assert users
    assert all("src/tritonlm/backend/" in path.as_posix() for path in users)


def test_the_scheduler_and_its_data_need_no_torch():
    for name in ("scheduler", "blocks", "table", "batch", "messages", "engine"):
        path = ROOT / "src" / "tritonlm" / "engine" / f"{name}.py"
        assert not any(is_inside(imported, "torch") for imported in imports(path))


@pytest.mark.parametrize("document", ["README.md", *(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))])
def test_files_that_a_document_names_exist(document):
    path = ROOT / document
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    for link in links:
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:src|tests|client|docs|demo|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_gateway_and_the_client_load_no_torch():
    code = ("import sys, tritonlm.gateway.app, tritonlm_client, tritonlm.bench.client_process; "
            "assert not {'torch', 'transformers'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)

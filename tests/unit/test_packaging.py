"""What is installed where: the command line and the gateway do without what models run on."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import distributions, packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOAD_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv[1:])
sys.meta_path.insert(0, Absent())
import tritonlm.cli, tritonlm.gateway.app, tritonlm.gateway.serving, tritonlm_client
"""
ALWAYS_THERE = {"tritonlm", "setuptools", "pip"}


def dependencies(name, extras=("",)):
    """What pip installs with `name` and these `extras`, all the way down."""
    found, waiting = set(), [(name, tuple(extras))]
    while waiting:
        package, wanted = waiting.pop()
        if (package, wanted) in found:
            continue
        found.add((package, wanted))
        # Not what stands beside the sources, which may be old. Some are for other platforms alone.
        here = next(iter(distributions(name=package, path=[sysconfig.get_path("purelib")])), None)
        needs = map(Requirement, here.requires or ()) if here else ()
        waiting += [(canonicalize_name(need.name), ("", *sorted(need.extras))) for need in needs
                    if need.marker is None
                    or any(need.marker.evaluate({"extra": extra}) for extra in wanted)]
    return {package for package, _ in found}


def test_the_command_and_the_gateway_need_only_what_is_installed_without_extras():
    installed = dependencies("tritonlm") | ALWAYS_THERE
    assert "torch" in dependencies("tritonlm", ("", "engine"))
    absent = {module for module, owners in packages_distributions().items()
              if not installed & set(map(canonicalize_name, owners))}
    assert {"torch", "transformers", "zmq", "jinja2"} <= absent
    done = subprocess.run([sys.executable, "-c", LOAD_WITHOUT, *sorted(absent)], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

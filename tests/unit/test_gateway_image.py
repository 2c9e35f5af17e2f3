"""The gateway's image has what its commands need, though not all that is installed here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from tests import images

START = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from tritonlm.caching.settings import CacheSettings
import tritonlm.gateway.app, tritonlm.gateway.serving, tritonlm.otlp
from tritonlm.cli import app
app({arguments!r})
"""


def absent_modules():
    """The modules of packages that only extras want which the image does not have."""
    extras = next(re.findall(r"\.\[(.*?)\]", step) for step in images.stages()[
        "gateway-build"].steps if "'.[" in step)[0].split(",")
    wanted = [re.match(r"([\w.-]+)(?:\[.*?\])?[^;]*(?:;.*extra == [\"'](\w+)[\"'])?", each).groups()
              for each in requires("tritonlm")]
    there = {name.lower() for name, extra in wanted if extra is None or extra in extras}
    absent = {name.lower() for name, _ in wanted} - there - {"tritonlm"}
    return [module for module, owners in packages_distributions().items()
            if {owner.lower() for owner in owners} <= absent]


@pytest.mark.parametrize(("arguments", "told"), [
    (["gateway", "--servers", "nonsense"], "HOST:GRPC_PORT"),
    (["health", "--url", "localhost:9"], "no Triton server answers"),
    (["top", "localhost:9", "--once"], "no metrics at"),
    (["new-key", "alice"], "sha256"),
])
def test_commands_need_no_package_that_is_not_in_the_image(arguments, told):
    absent = absent_modules()
    assert {"torch", "transformers", "zmq", "jinja2"} <= set(absent)
    done = subprocess.run([sys.executable, "-c", START.format(absent=absent, arguments=arguments)],
                          capture_output=True, text=True, check=False)
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

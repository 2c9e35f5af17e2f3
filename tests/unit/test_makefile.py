"""What `make` takes, and what it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dry_run(*arguments):
    return subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True,
                          text=True, check=False)


@pytest.mark.parametrize("setting", ["HTTP_PRT=0", "MAX_NUM_SEQS=3"])
def test_a_setting_that_there_is_not_is_refused_by_name(setting):
    ran = dry_run("serve", setting, "GRPC_PORT=0")
    assert ran.returncode == 2
    assert f"there is no setting {setting.partition('=')[0]}; there are VENV" in ran.stderr


def test_settings_become_options_of_serve():
    ran = dry_run("serve", "HTTP_PORT=0", "ARGS=--max-num-seqs 6 --x=y", "GATEWAY_PORT=0")
    assert ran.returncode == 0, ran.stderr
    assert "serve --gateway-port 0 --http-port '0' --max-num-seqs 6 --x=y" in " ".join(
        ran.stdout.split())

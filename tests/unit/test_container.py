"""A container's quota of the CPU and its memory count, and not the machine's."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pytest

from tritonlm import container


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A process on 16 cores, in the group /pod/container of a machine without any quota."""
    (tmp_path / "pod" / "container").mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("4:memory:/elsewhere\n0::/pod/container\n")
    monkeypatch.setattr(container, "OWN_GROUP", own)
    monkeypatch.setattr(container, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000))
    return tmp_path


@pytest.mark.parametrize(("quotas", "expected"), [
    ({}, 16),
    ({"pod/container": "max 100000", "pod": "max 100000"}, 16),
    ({"pod/container": "400000 100000"}, 4),
    ({"pod/container": "250000 100000"}, 2),
    ({"pod/container": "50000 100000"}, 1),
    ({"pod/container": "800000 100000", "pod": "300000 100000"}, 3),
    ({"": "600000 100000"}, 6),
    ({"pod/container": "6400000 100000"}, 16),
])
def test_the_least_quota_of_all_groups_limits_the_cores(groups, quotas, expected):
    for group, quota in quotas.items():
        (groups / group / "cpu.max").write_text(f"{quota}\n")
    assert container.num_usable_cores() == expected


def test_in_a_container_the_groups_root_is_its_own(groups):
    (groups / "own").write_text("0::/\n")
    (groups / "cpu.max").write_text("200000 100000\n")
    assert container.num_usable_cores() == 2


def test_without_control_groups_the_cores_of_the_process_count(groups):
    (groups / "own").unlink()
    assert container.num_usable_cores() == 16


@pytest.mark.parametrize(("limits", "expected"), [
    ({}, 1000),
    ({"pod/container": "max", "pod": "max"}, 1000),
    ({"pod/container": "300", "pod": "400"}, 300),
    ({"pod/container": "max", "pod": "400"}, 400),
    ({"pod/container": "9223372036854771712"}, 1000),
])
def test_memory_is_that_of_the_narrowest_group(groups, limits, expected):
    for group, limit in limits.items():
        (groups / group / "memory.max").write_text(f"{limit}\n")
    assert container.usable_memory_bytes() == expected


@pytest.fixture
def old_groups(groups):
    """The same of version 1: a hierarchy for each controller, or for two of them."""
    (groups / "own").write_text(
        "5:memory:/pod/container\n4:cpuacct,cpu:/pod/container\n1:name=systemd:/\n0::/\n")
    for controller in ("cpu", "memory"):
        (groups / controller / "pod" / "container").mkdir(parents=True)
    return groups


@pytest.mark.parametrize(("quotas_us", "expected"), [
    ({}, 16),
    ({"pod/container": -1, "pod": -1}, 16),
    ({"pod/container": 250_000}, 2),
    ({"pod/container": 800_000, "pod": 300_000}, 3),
    ({"": 600_000}, 6),
])
def test_quotas_of_version_1_limit_the_cores(old_groups, quotas_us, expected):
    for group, quota_us in quotas_us.items():
        (old_groups / "cpu" / group / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")
        (old_groups / "cpu" / group / "cpu.cfs_period_us").write_text("100000\n")
    assert container.num_usable_cores() == expected


@pytest.mark.parametrize(("limits", "expected"), [
    ({}, 1000),
    ({"pod/container": 9223372036854771712}, 1000),
    ({"pod/container": 300, "pod": 400}, 300),
    ({"": 200}, 200),
])
def test_limits_of_version_1_are_the_memory(old_groups, limits, expected):
    for group, limit in limits.items():
        (old_groups / "memory" / group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    assert container.usable_memory_bytes() == expected


def test_in_a_container_of_version_1_the_controllers_root_is_its_own(old_groups):
    """What it reads of its group is the host's name, which it does not see."""
    (old_groups / "own").write_text("5:memory:/docker/4f2a\n4:cpu:/a name\n")
    (old_groups / "memory" / "memory.limit_in_bytes").write_text("700\n")
    assert container.usable_memory_bytes() == 700


def test_this_machine_has_cores_and_memory():
    assert 1 <= container.num_usable_cores() <= os.cpu_count()
    assert container.usable_memory_bytes() > 2**28

"""The cores of a process: those that it may run on, or what the quota of its control groups leaves of them."""

import os
from pathlib import Path

import pytest

from service.engine import available_cores, cores
from service.engine.devices import PROVIDERS


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like that of control groups, on a machine of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cores, "_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("cpu_", "cpu.", 1)).write_text(text)


@pytest.mark.parametrize(("quota", "expected"), [("max", 8), ("50000", 1), ("150000", 2), ("9000000", 8)])
def test_a_container_has_the_quota_of_its_group(group: Path, quota: str, expected: int) -> None:
    write(group, own="0::/\n", cpu_max=f"{quota} 100000\n")
    assert available_cores() == expected


def test_the_least_quota_of_all_groups_above_counts(group: Path) -> None:
    write(group, own="0::/system.slice/lowerbound.service\n")
    write(group / "system.slice", cpu_max="300000 100000\n")
    write(group / "system.slice/lowerbound.service", cpu_max="600000 100000\n")
    write(group / "other.slice", cpu_max="100000 100000\n")
    assert available_cores() == 3
    assert PROVIDERS["cpu"].engine_threads(2) == 1


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("250000", 3)])
def test_groups_of_the_first_version_count_too(group: Path, quota: str, expected: int) -> None:
    write(group, own="5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/docker/1f\n")
    write(group / "cpu", cpu_cfs_quota_us=f"{quota}\n", cpu_cfs_period_us="100000\n")
    assert available_cores() == expected


def test_a_system_without_groups_has_all_cores(group: Path) -> None:
    assert available_cores() == 8


def test_a_process_has_the_cores_that_it_may_run_on() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)

"""How many processor cores this process may keep busy."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def available_cores() -> int:
    """The cores that the process may run on, or its control groups' quota, rounded up, where that is less."""
    with suppress(AttributeError):  # Other systems than Linux have no such function.
        return math.ceil(min([len(os.sched_getaffinity(0)), *_quotas()]))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """The quotas, in cores, of the control groups that the process is in. Groups of both versions count."""
    for line in _OWN.read_text().splitlines() if _OWN.exists() else ():
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _GROUPS / "cpu" if controllers else _GROUPS
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        group = root / name[1:]
        # A container may show its own group as the root, and not under its name.
        for folder in (group, *group.parents[: len(group.parts) - len(root.parts)]):
            with suppress(OSError, ValueError):  # Without a limit the first number is "max", or -1.
                quota, period = map(int, " ".join((folder / file).read_text() for file in files).split())
                if quota > 0:
                    yield quota / period

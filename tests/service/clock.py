"""A wall clock that can be set, for one process alone: its calls to the operating system are answered with a shift.

What measures time by the wall clock sees a jump; what measures it by a monotonic clock does not.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, time);
    FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("SHIFT"), "r") : NULL;
    if (file) {
        long seconds = 0;
        if (fscanf(file, "%ld", &seconds) == 1) time->tv_sec += seconds;
        fclose(file);
    }
    return status;
}
"""


@dataclass(frozen=True)
class Clock:
    """The wall clock of the processes that have its environment."""

    file: Path
    library: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "SHIFT": str(self.file)}

    def jump(self, seconds: int) -> None:
        """Be so far from the true time from now on."""
        self.file.write_text(str(seconds))


def make_clock(folder: Path) -> Clock:
    """A clock that is right at first; needs a C compiler."""
    library, source = folder / "clock.so", folder / "clock.c"
    source.write_text(SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    clock = Clock(folder / "shift", library)
    clock.jump(0)
    return clock

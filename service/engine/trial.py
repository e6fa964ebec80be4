"""`python -m service.engine.trial`: a process that tries bundles, so that a bundle can hang or crash it alone.

The service asks with one JSON object each: `folder`, `digest` and `size` of a bundle, and the `seconds` that it may
take. The process answers each with another object: empty if the bundle is whole and its golden rows come out right on
the CPU, else with `error`. The service then loads the same bytes, by that digest; see `service.inference.trial`.
"""

import contextlib
import json
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from service.bundle import read_bundle
from service.engine.engine import OnnxEngine, verify_golden
from service.errors import BundleError

MEMORY = 2 * 2**30
"""Bytes that a bundle may take to be read and to answer its golden rows, beside `COPIES` times its own."""

COPIES = 8
"""A graph's weights may be held twice, and several graphs may share them."""

GRACE = 5.0
"""Seconds after a bundle's time is up at which the process ends by itself, if the service has not ended it."""


def main(descriptor: int) -> None:
    """Try bundles until there are no more."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # It concerns the service alone.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # If memory runs out, the kernel ends this process first.
        Path("/proc/self/oom_score_adj").write_text("1000")
    answer: dict[str, str] = {}
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        while True:
            connection.send_bytes(json.dumps(answer).encode())
            asked = json.loads(connection.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, asked["seconds"] + GRACE)
            answer = _try(Path(asked["folder"]), asked["digest"], asked["size"])
            signal.setitimer(signal.ITIMER_REAL, 0)


def _try(folder: Path, digest: str, size: int) -> dict[str, str]:
    try:
        _limit_memory(MEMORY + COPIES * size)
        bundle = read_bundle(folder, digest=digest)
        try:
            verify_golden(OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu"), bundle)
        except BundleError as error:
            return {"error": f"{folder}: {error}"}
    except BundleError as error:
        return {"error": str(error)}
    except Exception as error:  # Libraries raise many kinds for damaged bytes.
        return {"error": f"{folder}: cannot be read: {type(error).__name__}: {error}"}
    return {}


def _limit_memory(more: int) -> None:
    """Let the process take so many bytes more than it has, where the system can say how many that is."""
    with contextlib.suppress(FileNotFoundError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))

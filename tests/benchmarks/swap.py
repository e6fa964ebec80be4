"""Versions of a model swapped under full load, one in five of them bad: every answer is held against its version.

    .venv/test/bin/python -m tests.benchmarks.swap --swaps 100 --seconds 300

A server follows a folder. Clients ask without a pause, by the bare paths, by name and under /v2, while versions come
and go: each new one gives other bounds; of the good ones the last two stay. A bad one is truncated, tampered with,
without a manifest, or answers its golden rows otherwise than it says. An answer must have the very numbers, to the bit,
that the version in its headers gives alone.
"""

import argparse
import io
import itertools
import platform
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from service.bundle import Array, Bundle
from tests.conftest import run_server
from tests.service.bundle_versions import DAMAGES, NAME, ROWS, answers, publish
from tests.service.http_client import JSON, NPY, npy

KEPT = 2
"""Good versions that stay."""

POLL = 0.1
PATIENCE = 60.0
PATHS = ("/elbo", f"/models/{NAME}/elbo", f"/v2/models/{NAME}/infer")
ROWS_ASKED = ROWS[:8]

PARSING = threading.Lock()
"""Held while an array is read: NumPy parses its header, and Python 3.11 counts the depth of parsing for all threads."""
BODY = npy(ROWS_ASKED)
BINARY = {"Content-Type": NPY, "Accept": NPY}


@dataclass
class Counts:
    """What was seen.

    Attributes:
        swaps: Good versions that came to serve.
        refused: Bad ones that were refused.
        answered: Right answers, by version.
        failed: What else came back.
        waits: Seconds from a version's last byte to its first answer.
        resident: MiB of the server's memory, after each swap.
    """

    swaps: int = 0
    refused: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)


def run(
    folder: Path,
    swaps: int,
    seconds: float,
    clients: int,
    *,
    program: Sequence[str] = ("service",),
    tolerance: float = 0.0,
) -> Counts:
    """Swap so often in so many seconds, or as fast as it goes, under the load of so many clients.

    Args:
        folder: For the server's models and log.
        swaps: Good and bad versions together.
        seconds: In which they come, at least.
        clients: That ask at the same time.
        program: What serves, with its device.
        tolerance: By how many nats an answer may differ from the CPU's.
    """
    counts = Counts()
    models = folder / "models"
    expected = {"1": answers(publish(models, 1), ROWS_ASKED)}
    flags = (*program[1:], "--models", str(models), "--poll", str(POLL), "--engine-threads", "1")
    ask = partial(_ask, expected=expected, tolerance=tolerance)
    with run_server(*flags, log=folder / "log", program=program[:1]) as client, _load(client, ask, counts, clients):
        begin = time.monotonic()
        version = 1
        for swap in range(1, swaps + 1):
            version += 1
            if swap % 5 == 0:
                _refuse(client, folder, models / NAME / str(version), DAMAGES[(swap // 5) % len(DAMAGES)])
                counts.refused += 1
            else:
                bundle = publish(folder / "made", version)
                expected[str(version)] = answers(bundle, ROWS_ASKED)
                (folder / "made" / NAME / str(version)).rename(models / NAME / str(version))
                counts.waits.append(_until_latest(client, bundle))
                counts.swaps += 1
                _leave_only(models, KEPT)
            counts.resident.append(_resident(client))
            time.sleep(max(0.0, begin + swap * seconds / swaps - time.monotonic()))
    return counts


@contextmanager
def _load(
    client: httpx.Client, ask: Callable[[httpx.Client, str], tuple[str, str]], counts: Counts, clients: int
) -> Iterator[None]:
    """Ask by every path in turn, from so many threads, until left."""
    stop = threading.Event()
    lock = threading.Lock()

    def send_request() -> None:
        with httpx.Client(base_url=client.base_url, timeout=PATIENCE) as own:
            for path in itertools.cycle(PATHS):
                if stop.is_set():
                    return
                try:
                    version, wrong = ask(own, path)
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    version, wrong = "", repr(error)
                with lock:
                    if wrong:
                        counts.failed.append(f"{path}: {wrong}")
                    else:
                        counts.answered[version] += 1

    threads = [threading.Thread(target=send_request) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ask(client: httpx.Client, path: str, expected: dict[str, Array], tolerance: float) -> tuple[str, str]:
    """The version that answered, and what was wrong with it."""
    if path.startswith("/v2"):
        tensor = {"name": "x", "datatype": "FP64", "shape": ROWS_ASKED.shape, "data": ROWS_ASKED.ravel().tolist()}
        answer = client.post(path, json={"inputs": [tensor], "outputs": [{"name": "elbo"}]}, headers={"Accept": JSON})
    else:
        answer = client.post(path, content=BODY, headers=BINARY)
    if not answer.is_success:
        return "", f"{answer.status_code} {answer.text}"
    version = answer.headers["Lowerbound-Version"]
    if path.startswith("/v2"):
        values = answer.json()["outputs"][0]["data"]
    else:
        with PARSING:
            values = np.load(io.BytesIO(answer.content), allow_pickle=False)["elbo"]
    right = np.allclose(values, expected[version], rtol=0, atol=tolerance)
    return version, "" if right else f"not the answer of version {version}"


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the swap did not take place")
        time.sleep(0.02)


def _until_latest(client: httpx.Client, bundle: Bundle) -> float:
    """Seconds until a version is the one that answers."""
    begin = time.monotonic()
    _until(lambda: client.get("/sample", params={"n": 1}).headers["Lowerbound-Bundle"] == bundle.digest)
    return time.monotonic() - begin


def _refuse(client: httpx.Client, folder: Path, target: Path, damage: Callable[[Path], str]) -> None:
    """Put a damaged version there until it is refused, and take it away."""
    publish(folder / "made", int(target.name))
    made = folder / "made" / NAME / target.name
    said = damage(made)
    made.rename(target)
    _until(lambda: said in client.get("/models").json()["refused"].get(NAME, {}).get(target.name, ""))
    shutil.rmtree(target)


def _leave_only(models: Path, number: int) -> None:
    for version in sorted((int(path.name) for path in (models / NAME).iterdir()), reverse=True)[number:]:
        shutil.rmtree(models / NAME / str(version))


def _resident(client: httpx.Client) -> float:
    """MiB of the process that listens on the client's port."""
    port = str(client.base_url.port).encode()
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            if port in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
                return int(pages) * 4096 / 2**20
    return float("nan")


def main() -> None:
    """Print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        counts = run(Path(folder), options.swaps, options.seconds, options.clients)
        seconds = time.monotonic() - begin
    waits, resident = np.array(counts.waits), np.array(counts.resident)
    print(f"{options.clients} clients, {platform.machine()}, {seconds:.0f} s")
    print(f"swapped in: {counts.swaps}; refused: {counts.refused}; versions that answered: {len(counts.answered)}")
    print(f"right answers: {sum(counts.answered.values()):,}; failed or mixed: {len(counts.failed)}")
    print(f"from the rename to the first answer: median {np.median(waits):.2f} s, most {waits.max():.2f} s")
    fifth = resident[len(resident) // 5]
    print(f"resident: {fifth:.0f} MiB after a fifth of the swaps, {resident[-1]:.0f} MiB after all")
    for failure in counts.failed[:10]:
        print(failure)


if __name__ == "__main__":
    main()

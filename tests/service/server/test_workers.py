"""Several processes on one port: all answer, one that ends is replaced, and all stop together."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.bundle import Bundle
from service.observability.metrics import INTERVAL
from service.observability.multiprocess import FOLDER
from tests.conftest import run_server, samples, wait_until
from tests.service.bundle_versions import publish
from tests.service.http_client import NPY, npy
from tests.service.load import ONE
from tests.service.processes import Workers, ignores, is_serving, start
from tests.service.sockets import post

until = partial(wait_until, seconds=60, ignoring=(httpx.TransportError, OSError))

if sys.platform != "linux":
    pytest.skip("processes are looked up under /proc", allow_module_level=True)

HEADERS = {"Content-Type": NPY, "Accept": NPY}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    started = start(tmp_path_factory.mktemp("workers"))
    try:
        until(lambda: len(started.pids()) == 2)
        for pid in started.pids():
            until(lambda pid=pid: is_serving(started, pid))
        yield started
    finally:
        started.parent.terminate()
        started.parent.wait(timeout=60)


def test_both_answer_the_same_bits(workers: Workers, digits_bundle: Bundle) -> None:
    body = npy(digits_bundle.golden["elbo"]["x"])
    answers = []
    for pid in workers.pids():
        with workers.only(pid):
            answer = workers.send_request("POST", "/elbo", content=body, headers=HEADERS).raise_for_status()
        assert answer.headers["Lowerbound-Device"] == "cpu"
        answers.append(answer.content)
    assert len(answers) == 2
    assert answers[0] == answers[1]


def metrics(workers: Workers) -> dict[tuple[str, ...], float]:
    time.sleep(3 * INTERVAL)
    return samples(workers.send_request(path="/metrics").raise_for_status().text)


def environment(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_metrics_are_those_of_all(workers: Workers, digits_bundle: Bundle) -> None:
    requests = ("lowerbound_http_requests_total", "POST", "digits", "/encode", "200")
    rows = ("lowerbound_batch_rows_sum", "encoder", "digits", "1")
    body = npy(digits_bundle.golden["elbo"]["x"][:3])
    assert requests not in metrics(workers)
    for count, pid in enumerate(workers.pids(), start=1):
        with workers.only(pid):
            workers.send_request("POST", "/encode", content=body, headers=HEADERS).raise_for_status()
            time.sleep(3 * INTERVAL)
        for asked in workers.pids():
            with workers.only(asked):
                found = metrics(workers)
            assert (found[requests], found[rows]) == (count, 3 * count)
            assert found["lowerbound_drift_martingale", "digits", "1"] == pytest.approx(1, abs=1e-2)
            assert {int(key[1]) for key in found if key[0] == "process_open_fds"} == workers.pids()


def test_one_that_is_killed_is_replaced(workers: Workers) -> None:
    before = workers.pids()
    killed, stays = sorted(before)
    counted = metrics(workers)
    time.sleep(3 * INTERVAL)  # Or who answered that might be stopped before it has said that it is done.
    with (
        workers.only(killed),
        socket.create_connection((httpx.URL(workers.url).host, httpx.URL(workers.url).port)) as one,
    ):
        one.sendall(post(b" ", path=b"/encode")[:-1])  # And never the body.
        assert metrics(workers)["lowerbound_http_requests_in_flight",] == 2
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(workers.pids() - {killed}) == 2)
    (new,) = workers.pids() - before
    until(lambda: is_serving(workers, new))
    assert stays in workers.pids()
    assert workers.parent.poll() is None
    after = metrics(workers)
    total = ("lowerbound_http_requests_total", "POST", "digits", "/encode", "200")
    assert after[total] == counted[total]
    assert after["lowerbound_http_requests_in_flight",] == 1
    assert {int(key[1]) for key in after if key[0] == "process_open_fds"} == workers.pids()


def test_statistics_are_those_of_all(workers: Workers, digits_bundle: Bundle) -> None:
    def rows() -> set[int]:
        """As each of the workers tells it."""
        told = set()
        for pid in workers.pids():
            with workers.only(pid):
                (stats,) = workers.send_request(path="/v2/models/digits.encoder/stats").json()["model_stats"]
            told.add(stats["inference_count"])
        return told

    (before,) = rows()
    body = npy(digits_bundle.golden["elbo"]["x"][:3])
    for pid in workers.pids():
        with workers.only(pid):
            workers.send_request("POST", "/encode", content=body, headers=HEADERS).raise_for_status()
            time.sleep(3 * INTERVAL)
    assert rows() == {before + 6}
    assert "statistics" in workers.send_request(path="/v2").json()["extensions"]


@pytest.mark.slow
def test_each_follows_the_repository(tmp_path: Path) -> None:
    models = tmp_path / "models"
    publish(models, 1)
    started = start(tmp_path, "--models", str(models), "--poll", "0.1")
    try:
        until(lambda: len(started.pids()) == 2)
        for pid in started.pids():
            until(lambda pid=pid: is_serving(started, pid))
        publish(models, 2)
        for pid in started.pids():
            until(lambda pid=pid: version_of(started, pid) == "2")
        before = started.pids()
        started.parent.send_signal(signal.SIGHUP)  # The parent replaces them.
        until(lambda: len(started.pids()) == 2 and not started.pids() & before and version_of_any(started) == "2")
    finally:
        started.parent.terminate()
        started.parent.wait(timeout=60)


def version_of(workers: Workers, pid: int) -> str:
    with workers.only(pid):
        return version_of_any(workers)


def version_of_any(workers: Workers) -> str:
    version: str = workers.send_request(path="/sample").headers["Lowerbound-Version"]
    return version


def test_what_cannot_be_served_is_refused_at_once(tmp_path: Path) -> None:
    refused = start(tmp_path, "--models", str(tmp_path))
    assert refused.parent.wait(timeout=60) == 1
    assert (tmp_path / "log").read_text().startswith("error: ")


@pytest.mark.slow
def test_a_killed_worker_is_replaced_at_once(workers: Workers) -> None:
    for _ in range(5):
        until(lambda: len(workers.pids()) == 2)
        killed = min(workers.pids())
        started = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        until(lambda killed=killed: len(workers.pids() - {killed}) == 2)
        assert time.monotonic() - started < 2
        (new,) = workers.pids() - {killed} - {max(workers.pids() - {killed}, key=age)}
        until(lambda new=new: is_serving(workers, new))


def test_a_worker_that_cannot_be_started_is_tried_again(workers: Workers) -> None:
    """As where no file can be opened; so it is where the current folder is gone."""
    until(lambda: len(workers.pids()) == 2)
    parent = workers.parent.pid
    before = resource.prlimit(parent, resource.RLIMIT_NOFILE)
    resource.prlimit(parent, resource.RLIMIT_NOFILE, (len(list(Path(f"/proc/{parent}/fd").iterdir())), before[1]))
    try:
        os.kill(min(workers.pids()), signal.SIGKILL)
        until(lambda: len(workers.pids()) == 1)
        time.sleep(1)
        workers.send_request().raise_for_status()
    finally:
        resource.prlimit(parent, resource.RLIMIT_NOFILE, before)
    until(lambda: len(workers.pids()) == 2)


def age(pid: int) -> float:
    """Seconds since a process was started, as the system counts them."""
    return -int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.slow
@pytest.mark.parametrize("when", ["from the start", "later"])
def test_a_full_disk_costs_metrics_only(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    monkeypatch.setenv("TMPDIR", str(small))
    try:
        if when == "from the start":
            fill(small)
        started = start(tmp_path)
        until(lambda: len(started.pids()) == 2)
        until(lambda: started.send_request(path="/health/ready").is_success)
        fill(small)
        before = started.pids()
        for _ in range(100):
            assert started.send_request("POST", "/elbo", json={"instances": [ONE]}).status_code == 200
        time.sleep(3 * INTERVAL)
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(started.pids() - {min(before)}) == 2)
        new = min(started.pids() - before)
        until(lambda: is_serving(started, new))
        assert started.send_request(path="/metrics").is_success
        assert max(before) in started.pids()
        assert "no room" in (tmp_path / "log").read_text()
        started.parent.terminate()
        assert started.parent.wait(60) == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def fill(folder: Path) -> None:
    """Leave little room."""
    with contextlib.suppress(OSError), (folder / "filled").open("ab", buffering=0) as file:
        while file.write(bytes(2**20)) == 2**20:
            pass
    os.truncate(folder / "filled", (folder / "filled").stat().st_size - 2**16)


GRACE = 3


SLOW = [pytest.param(state, marks=pytest.mark.slow) for state in ("workers are replaced", "all are stopped")]


@pytest.mark.parametrize("state", ["a worker is stopped", *SLOW])
def test_the_end_comes_within_the_grace(tmp_path: Path, state: str) -> None:
    started = start(tmp_path, "--graceful-shutdown-timeout", str(GRACE))
    until(lambda: len(started.pids()) == 2)
    until(lambda: started.send_request(path="/health/ready").is_success)
    pids = started.pids()
    if state == "workers are replaced":
        for _ in range(4):
            started.parent.send_signal(signal.SIGHUP)
            time.sleep(0.1)
    for pid in {"a worker is stopped": [min(pids)], "all are stopped": pids}.get(state, []):
        os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    started.parent.terminate()
    assert started.parent.wait(60) == 0
    assert time.monotonic() - begun < GRACE + 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    started = start(tmp_path)
    until(lambda: len(started.pids()) == 2)
    until(lambda: started.send_request(path="/health/ready").is_success)
    pids = started.pids()
    started.parent.kill()
    started.parent.wait(10)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds=20)


def test_a_hangup_concerns_the_parent_alone(workers: Workers) -> None:
    before = workers.pids()
    assert all(ignores(pid, signal.SIGHUP, "Sig(?:Blk|Ign)") for pid in before)
    os.kill(max(before), signal.SIGTERM)  # Another one takes its place, and ignores it from its first moment on.
    until(lambda: workers.pids() - before, pause=0)
    assert all(ignores(pid, signal.SIGHUP, "Sig(?:Blk|Ign)") for pid in workers.pids() - before)


MANY = """
import os, signal
from uvicorn.config import Config
from service.server import Supervisor

def send_many():
    for number in (*[signal.SIGHUP] * 1000, signal.SIGTERM):
        os.kill(os.getpid(), number)

Supervisor(Config("nothing:app", port=0), send_many).run()
"""
"""A parent that gets more signals than it can look at, while it starts its first worker."""


def test_no_signal_is_lost_among_many() -> None:
    ended = subprocess.run([sys.executable, "-c", MANY], capture_output=True, check=True, timeout=30)
    assert b"signal wakeup" not in ended.stderr


NONE = """
from uvicorn.config import Config
from service.server import Supervisor

def fail():
    raise OSError("there is no room")

Supervisor(Config("nothing:app", port=0), fail).run()
"""
"""A parent that can start no worker at all."""


def test_the_service_ends_where_no_worker_at_all_can_be_started() -> None:
    ended = subprocess.run([sys.executable, "-c", NONE], capture_output=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith(b"OSError: there is no room")


def test_all_stop_together(workers: Workers) -> None:
    pids = workers.pids()  # The last test: none is left for another.
    (folder,) = {environment(pid)[FOLDER] for pid in pids}
    assert list(Path(folder).glob("*.db"))
    workers.parent.send_signal(signal.SIGTERM)
    assert workers.parent.wait(timeout=60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not Path(folder).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2"])
@pytest.mark.parametrize("name", [FOLDER, FOLDER.lower()])
def test_metrics_of_another_program_do_not_matter(tmp_path: Path, name: str, number: str) -> None:
    variables = {name: str(tmp_path / "missing"), "PYTHONPATH": str(Path.cwd())}
    with run_server("--workers", number, log=tmp_path / "log", **variables) as client:
        assert "lowerbound_http_requests_total" in client.get("/metrics").text

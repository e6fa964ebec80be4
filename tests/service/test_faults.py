"""Faults around the service: files, processes, descriptors, memory, signals. No wrong answer is given."""

import contextlib
import io
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.storage import DEFAULT_REPOSITORY
from tests.benchmarks import faults
from tests.conftest import Serve, process_of, run_server, wait_until
from tests.service.bundle_versions import NAME, publish
from tests.service.clock import make_clock
from tests.service.load import ONE, Load
from tests.service.processes import address_space, ignores, limited, servers, start

until = partial(wait_until, seconds=60, ignoring=(httpx.TransportError, OSError))

if sys.platform != "linux":
    pytest.skip("processes are looked up under /proc", allow_module_level=True)

COMMAND = [sys.executable, "-m", "service"]


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def send_request(client: httpx.Client) -> bytes:
    return client.post("/elbo", json={"instances": [ONE]}).raise_for_status().content


@pytest.mark.slow
@pytest.mark.parametrize("trial", faults.TRIALS, ids=lambda trial: trial.name)
def test_a_fault_under_load(tmp_path: Path, trial: faults.Trial) -> None:
    row = faults.run(trial, tmp_path)
    assert row.right > 100
    assert row.lost == 0, row
    # Those under way in a killed process; four clients have no more.
    assert row.again <= (4 if "kill" in trial.name else 0), row
    if "finite numbers" not in trial.name:  # Only the golden rows can tell.
        assert row.wrong == 0, row


# The bundle


def test_files_that_change_under_a_server_do_not_change_its_answers(tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / "models" / "digits" / "1"
    shutil.copytree(DEFAULT_REPOSITORY / "digits" / "1", folder)
    with (
        serve("--models", str(tmp_path / "models")) as client,
        Load(str(client.base_url), send_request(client)) as load,
    ):
        with (folder / "weights.bin").open("r+b") as file:
            file.truncate(1000)
        (folder / "elbo.onnx").write_bytes(b"something else")
        (folder / "manifest.json").write_text("{}")
        time.sleep(0.5)
        assert client.get("/health/ready").is_success
        shutil.rmtree(tmp_path / "models")
        time.sleep(0.5)
        assert client.get("/health/ready").is_success
    assert set(load.seen) == {"right"}


# Processes


@pytest.mark.slow
def test_a_worker_killed_under_load_takes_no_more_than_its_own_requests(tmp_path: Path) -> None:
    workers = start(tmp_path)
    try:
        until(lambda: (tmp_path / "log").read_text().count("serving digits 1") == 2)
        good = workers.send_request("POST", "/elbo", json={"instances": [ONE]}).content
        with Load(workers.url, good) as load:
            for serving in range(3, 6):  # Lines, which each worker writes once. Asking it alone would stop the other.
                os.kill(min(workers.pids()), signal.SIGKILL)
                until(lambda serving=serving: (tmp_path / "log").read_text().count("serving digits 1") == serving)
        assert set(load.seen) == {"right"}
        assert load.seen["right"] > 100
        assert load.again <= 3 * 4  # Those under way in the killed process.
    finally:
        workers.parent.terminate()
        assert workers.parent.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_end_under_load_loses_nothing(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    started = start(tmp_path, workers=workers)
    try:
        until(lambda: (tmp_path / "log").read_text().count("serving digits 1") == workers)
        until(lambda: started.send_request(path="/health/ready").is_success)
        good = started.send_request("POST", "/elbo", json={"instances": [ONE]}).content
        with Load(started.url, good) as kept, Load(started.url, good, keep=False) as fresh:
            until(lambda: min(kept.seen["right"], fresh.seen["right"]) > 100)
            for pid in {started.parent.pid} | started.pids():  # As Ctrl-C does, and systemd.
                os.kill(pid, number)
            assert started.parent.wait(60) == 0
        assert set(kept.seen | fresh.seen) <= {"right", "not connected"}
        assert kept.again == 0
        assert fresh.again <= 4 * workers  # Connections that wait to be accepted when the port closes.
    finally:
        started.parent.kill()


@pytest.mark.slow
def test_workers_replaced_under_load_lose_nothing(tmp_path: Path) -> None:
    workers = start(tmp_path)
    try:
        until(lambda: (tmp_path / "log").read_text().count("serving digits 1") == 2)
        until(lambda: workers.send_request(path="/health/ready").is_success)
        good = workers.send_request("POST", "/elbo", json={"instances": [ONE]}).content
        before = workers.pids()
        with Load(workers.url, good) as kept, Load(workers.url, good, keep=False) as fresh:
            workers.parent.send_signal(signal.SIGHUP)
            until(lambda: len(workers.pids()) == 2 and not workers.pids() & before)
        assert set(kept.seen) == set(fresh.seen) == {"right"}
        assert kept.again == fresh.again == 0
    finally:
        workers.parent.terminate()
        assert workers.parent.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_at_any_stage_of_the_start_ends_it(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    # Coverage begins with Python itself, and swallows a Ctrl-C that comes just then.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    for delay in (0.05, 0.3, 0.7, 1.1, 1.5, 2, 3):
        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen(
                [*COMMAND, "--port", "0", "--workers", str(workers)],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                # A shell starts background jobs deaf to Ctrl-C, and children inherit it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nothing but this
            ) as process,
        ):
            time.sleep(delay)
            process.send_signal(number)
            try:
                process.wait(timeout=30)
            finally:
                process.kill()
        # Before Python has its handlers the signal itself ends it.
        assert process.returncode in {0, 1, 130, -number}, (delay, (tmp_path / "log").read_text())
        until(lambda group=process.pid: not alive(group), seconds=20)  # No worker is left behind.


def test_a_hangup_during_the_start_of_workers_does_not_end_it(tmp_path: Path) -> None:
    command = [*COMMAND, "--port", "0", "--workers", "2"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: ignores(process.pid, signal.SIGHUP))
            process.send_signal(signal.SIGHUP)
            until(lambda: len(servers(process.pid)) == 2)
        finally:
            process.terminate()
    assert process.returncode == 0


def test_a_hangup_during_the_start_is_heard_afterwards(tmp_path: Path) -> None:
    models, log = tmp_path / "models", tmp_path / "log"
    publish(models, 1)
    publish(tmp_path / "made", 2)
    command = [*COMMAND, "--port", "0", "--models", str(models), "--poll", "0"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            until(lambda: ignores(process.pid, signal.SIGHUP))
            (tmp_path / "made" / NAME / "2").rename(models / NAME / "2")
            process.send_signal(signal.SIGHUP)
            until(lambda: f"serving {NAME} 2" in log.read_text())
            assert not ignores(process.pid, signal.SIGHUP)
            assert process.poll() is None
        finally:
            process.terminate()
    assert process.returncode == 0


# The clock


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_jump_of_the_wall_clock_changes_nothing(tmp_path: Path) -> None:
    clock = make_clock(tmp_path)
    flags = ("--engine-timeout", "1", "--timeout", "5", "--read-timeout", "2", "--engine-threads", "1")
    with run_server(*flags, log=tmp_path / "log", **clock.environment) as client:
        good = send_request(client)
        with Load(str(client.base_url), good) as load:
            for days in (400, -400, 0):
                clock.jump(86_400 * days)
                until(lambda days=days: abs((shown(client) - time.time()) / 86_400 - days) < 1)  # It has seen that.
                time.sleep(1.5)
        assert set(load.seen) == {"right"}
        assert load.seen["right"] > 100
        assert max(outcome.ended - outcome.begun for outcome in load.outcomes) < 2
        assert client.get("/model").json()["replaced_engines"] == 0
        assert client.get("/health/ready").is_success


def shown(client: httpx.Client) -> float:
    """The time of an answer's `Date`."""
    return parsedate_to_datetime(client.get("/health/live").headers["Date"]).timestamp()


# Descriptors and memory


def test_without_descriptors_those_who_are_connected_are_served(serve: Serve) -> None:
    with serve("--engine-threads", "1") as client:
        good = send_request(client)
        used = len(list(Path(f"/proc/{process_of(client)}/fd").iterdir()))
        with limited(client, resource.RLIMIT_NOFILE, used + 20), contextlib.ExitStack() as held:
            for _ in range(100):
                held.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port or 0), 5))
            assert send_request(client) == good
        until(lambda: httpx.get(f"{client.base_url}/health/ready", timeout=5).is_success, seconds=20)
        assert send_request(client) == good


@pytest.mark.parametrize("room", [20, 28])  # MiB: the body alone takes 13, a thread 8, and the rows 13.
def test_without_memory_requests_fail_and_the_service_does_not(serve: Serve, room: int) -> None:
    body = io.BytesIO()
    np.save(body, np.zeros((200_000, 8, 8), np.uint8))
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    with serve("--engine-threads", "1") as client:
        good = send_request(client)
        with limited(client, resource.RLIMIT_AS, address_space(process_of(client)) + room * 2**20):
            answer = client.post("/encode", content=body.getvalue(), headers=headers)
            assert answer.is_error, answer.text  # From wherever the memory ended.
            assert send_request(client) == good
        assert client.post("/encode", content=body.getvalue(), headers=headers).is_success
        assert send_request(client) == good

"""A service that cannot serve does not start, and says why."""

import os
import socket

import pytest

from service.api.app import create_app
from service.engine import Device
from service.engine.devices import choose
from service.errors import DeviceError, StorageError
from service.settings import Settings
from tests.service.conftest import Refused


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--default-model", "faces"), "no model 'faces'; there are digits"),
        (
            ("--port", "99999", "--engine-threads", "0"),
            "65535; engine_threads: Input should be greater than or equal to 1",
        ),
        (
            ("--workers", "100000", "--engine-threads", "100000"),
            "1024; engine_threads: Input should be less than or equal to 1024",
        ),
    ],
)
def test_wrong_settings_are_named(refused: Refused, arguments: tuple[str, ...], named: str) -> None:
    process = refused(*arguments)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert process.stderr.endswith(f"{named}\n")
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_is_refused_where_there_is_none(refused: Refused, device: Device) -> None:
    problem = None
    try:
        choose(device)
    except DeviceError as error:
        problem = str(error)
    if problem is None:
        pytest.skip(f"{device} works here")
    process = refused("--device", device)
    assert process.returncode == 1
    assert process.stderr == f"error: {problem}\n"
    assert problem.startswith(f"device={device} cannot be used: ")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_is_named_without_a_traceback(refused: Refused, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = refused("--port", str(taken.getsockname()[1]), "--workers", workers)
    assert process.returncode
    assert "address already in use" in process.stderr.lower()
    assert "Traceback" not in process.stderr


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**30)
    with pytest.raises(StorageError, match="Give another folder as --model-cache"):
        create_app(Settings(models="s3://bucket/models", device="cpu"))

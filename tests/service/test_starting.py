"""What cannot be served does not start, and says why."""

import pytest

from service.bundle import Bundle
from service.engine import OnnxEngine
from service.errors import DeviceError
from tests.service.conftest import Refused


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--default-model", "faces"), "no model 'faces'; there are digits"),
        (
            ("--port", "99999", "--lanes", "0"),
            "port: Input should be less than or equal to 65535; lanes: Input should be greater than or equal to 1",
        ),
    ],
)
def test_wrong_settings_are_named(refused: Refused, arguments: tuple[str, ...], named: str) -> None:
    process = refused(*arguments)
    assert process.returncode == 1
    assert process.stderr.startswith("lowerbound does not start: ")
    assert process.stderr.endswith(f"{named}\n")
    assert process.stderr.count("\n") == 1


def test_cuda_is_refused_where_there_is_none(refused: Refused, digits_bundle: Bundle) -> None:
    problem = None
    try:
        OnnxEngine(digits_bundle.manifest.graphs, digits_bundle.files, "cuda")
    except DeviceError as error:
        problem = str(error)
    if problem is None:
        pytest.skip("CUDA works here")
    process = refused("--device", "cuda")
    assert process.returncode == 1
    assert process.stderr == f"lowerbound does not start: {problem}\n"
    assert problem.startswith("device=cuda cannot be used: ")

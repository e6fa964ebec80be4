"""The endpoints' own tests, unchanged, against two replicas behind Ray Serve."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
MODULES = ("elbo", "encode", "decode", "sample", "wrong_requests", "v2")
"""All that are about HTTP alone pass; these are enough for every day."""

OF_ONE_PROCESS = "statistics_count"
"""What `/v2/models/stats` says is of the replica that is asked."""


def test_the_endpoints_answer_as_ever() -> None:
    files = [f"tests/service/api/test_{name}.py" for name in MODULES]
    command = [sys.executable, "-m", "pytest", "--server", "ray", "-q", *files, "-k", f"not {OF_ONE_PROCESS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.splitlines()[-1].split()[0]) > 150

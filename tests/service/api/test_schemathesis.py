"""The service does what the OpenAPI page says, under requests made from the page, valid and invalid.

`pytest -s -m slow tests/service/api/test_schemathesis.py` prints how many were made.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_server

KEY = "key-of-the-tests-0123456789"
CONFIG = """
[parameters]
"query.on_error" = "fail"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501, 504]
"""
"""501 is what the Open Inference Protocol has for a body in a coding that is not read; 504, what a request gets
that asks for an answer within no time. With on_error=mark rows that violate the schema are accepted, as the page says
in words only; `test_marks` has such rows."""

OPTIONS = [
    "--checks=all",
    # That valid data is accepted cannot be asked: which shapes and values fit is in the model's manifest.
    "--exclude-checks=positive_data_acceptance",
    "--max-examples=15",
    "--generation-deterministic",
    "--warnings=off",
    "--no-color",
]


@pytest.mark.slow
def test_the_service_does_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    program = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    log = tmp_path / "log"
    with run_server(log=log, LOWERBOUND_API_KEYS=KEY) as client:
        page = str(client.base_url.join("/openapi.json"))
        command = [*program, "run", page, *OPTIONS, f"--header=Authorization: Bearer {KEY}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert client.get("/health/ready").is_success
    assert "Traceback" not in log.read_text()
    assert "ERROR" not in log.read_text()

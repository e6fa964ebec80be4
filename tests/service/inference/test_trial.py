"""The process that tries bundles, where it does not behave."""

from contextlib import closing
from pathlib import Path

import pytest

from service.errors import NotReadyError
from service.inference.trial import Trial

STOPS = """
import os, time
from multiprocessing.connection import Connection

def send_bytes(self, answer):
    os.write(self.fileno(), (9).to_bytes(4, "big") + b"{")
    time.sleep(600)

Connection.send_bytes = send_bytes
"""


def test_a_process_that_stops_within_its_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(STOPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with closing(Trial(1)) as trial, pytest.raises(NotReadyError, match="status -9"):
        trial.check(tmp_path, "0" * 64, 1)

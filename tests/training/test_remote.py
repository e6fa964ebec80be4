"""Data from a bucket, a bundle into a bucket, and a service that takes it from there."""

from pathlib import Path

import pytest

from tests.conftest import run_server
from tests.s3 import S3
from tests.training.conftest import QUICK, run, run_here


@pytest.mark.slow
def test_a_bucket_is_trained_from_and_into_and_served_from(s3: S3, few_rows: Path, tmp_path: Path) -> None:
    bucket = s3.bucket()
    bucket.put("data/rows.npy", few_rows.read_bytes())
    arguments = ("arrays", "--data", f"s3://{bucket.name}/data/rows.npy", *QUICK)
    for version in (1, 2):
        status, output, errors = run(*arguments, folder=tmp_path, out=bucket.url, **s3.environment())
        assert status == 0, errors
        assert output.strip() == f"{bucket.url}/rows/{version}"
    assert not (tmp_path / "models").exists()
    flags = ("--models", bucket.url, "--model-cache", str(tmp_path / "cache"))
    with run_server(*flags, log=tmp_path / "log", **s3.environment()) as client:
        assert client.get("/models").json()["models"] == {"rows": [1, 2]}
        recipe = client.get("/model").json()["manifest"]["provenance"]["recipe"]
        assert recipe["data"] == f"s3://{bucket.name}/data/rows.npy"


def test_a_bucket_that_is_not_there_is_named_before_the_training(
    s3: S3, few_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    arguments = ("arrays", "--data", str(few_rows), *QUICK)
    status, output, errors = run_here(*arguments, folder=tmp_path, out="s3://nowhere-at-all/models")
    assert (status, output) == (1, "")
    assert "error: s3://nowhere-at-all/models: cannot be reached: " in errors
    assert not list(tmp_path.glob("runs"))

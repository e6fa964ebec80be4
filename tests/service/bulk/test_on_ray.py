"""`lowerbound score --cluster`: many machines answer as one does, also when one is lost meanwhile."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from service.bundle import Array, write_bundle
from tests import warm
from tests.service.bulk.test_bulk import DIGITS, assert_same_bits, bulk, command, kept
from tests.service.ray_serve.machines import Machines, machines
from tests.service.toy_bundles import table_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with machines(2) as found:
        yield found


@pytest.fixture(scope="module")
def pixels() -> Array:
    return np.random.default_rng(0).integers(0, 17, (20_000, 8, 8), dtype=np.uint8)


def parts(folder: Path) -> list[int]:
    """The rows of each part."""
    return [pyarrow.parquet.read_metadata(path).num_rows for path in sorted(folder.glob("part-*"))]


def said(errors: str) -> str:
    """The last line, before which Ray may have said something."""
    return errors.splitlines()[-1]


@pytest.mark.parametrize("flags", [["--num-draws", "2", "--refine", "1", "--explain"], ["--operation", "encode"]])
def test_answers_are_those_of_one_machine(cluster: Machines, tmp_path: Path, pixels: Array, flags: list[str]) -> None:
    np.save(tmp_path / "a.npy", pixels)
    np.save(tmp_path / "b.npy", pixels[:5])
    asked = (DIGITS, tmp_path / "a.npy", tmp_path / "b.npy")
    status, errors = bulk(*asked, tmp_path / "many", "--cluster", cluster.address, *flags)
    assert status == 0, errors
    assert said(errors) == f"{tmp_path / 'many'}: 20,005 rows"
    assert bulk(*asked, tmp_path / "one", *flags)[0] == 0
    assert_same_bits(kept(tmp_path / "many"), kept(tmp_path / "one"))
    assert parts(tmp_path / "many") == parts(tmp_path / "one")
    (tmp_path / "many" / "_done").unlink()  # As if killed just before.
    status, errors = bulk(*asked, tmp_path / "many", "--cluster", cluster.address, *flags)
    assert status == 0, errors
    assert_same_bits(kept(tmp_path / "many"), kept(tmp_path / "one"))


def test_every_kind_of_file(cluster: Machines, tmp_path: Path, pixels: Array) -> None:
    rng = np.random.default_rng(0)
    ages = rng.normal(size=30_000)
    columns = pa.table({"age": pa.array(ages, mask=ages > 2), "colour": rng.choice(["red", "blue"], 30_000)})
    pyarrow.parquet.write_table(columns, tmp_path / "rows.parquet", row_group_size=7_000)
    pyarrow.csv.write_csv(columns, tmp_path / "rows.csv")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(pixels[:20]):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")
    tables = (
        write_bundle(tmp_path / "models", *table_files()),
        tmp_path / "rows.csv",
        tmp_path / "rows.parquet",
        tmp_path / "rows.csv",
    )
    for i, asked in enumerate([tables, (DIGITS, folder)]):
        status, errors = bulk(*asked, tmp_path / f"many-{i}", "--cluster", cluster.address)
        assert status == 0, errors
        assert bulk(*asked, tmp_path / f"one-{i}")[0] == 0
        assert_same_bits(kept(tmp_path / f"many-{i}"), kept(tmp_path / f"one-{i}"))


def test_what_ends_early_goes_on_and_a_lost_machine_is_made_up_for(cluster: Machines, tmp_path: Path) -> None:
    rows = 1_000_000
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 17, (rows, 8, 8), dtype=np.uint8))
    asked = (DIGITS, tmp_path / "x.npy")
    out, log = tmp_path / "out", tmp_path / "log"
    score = command(*asked, out, "--num-draws", "1", "--cluster", cluster.address)
    for wanted, number, status in ((1, signal.SIGKILL, -signal.SIGKILL), (3, signal.SIGINT, 130)):
        process = warm.start(score, log)
        while len(parts(out) if out.exists() else []) < wanted:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == status, log.read_text()
    assert not (out / "_done").exists()
    before = len(parts(out))
    lost = cluster.add()  # Before the run, which so has an engine on it.
    process = warm.start(score, log)
    while len(parts(out)) == before:
        assert process.poll() is None
        time.sleep(0.01)
    cluster.kill(lost)
    assert process.wait(300) == 0, log.read_text()
    assert bulk(*asked, tmp_path / "one", "--num-draws", "1")[0] == 0
    assert kept(out).num_rows == rows
    assert_same_bits(kept(out), kept(tmp_path / "one"))


def test_a_wrong_row_is_marked_and_the_run_goes_on(cluster: Machines, tmp_path: Path, table_bundle: Path) -> None:
    text = "age,colour\n1.5,red\nold,blue\n1e200,red\n2,green\n-3,blue\n"
    (tmp_path / "rows.csv").write_text(text)
    asked = (table_bundle, tmp_path / "rows.csv")
    status, errors = bulk(*asked, tmp_path / "many", "--cluster", cluster.address)
    assert status == 0, errors
    assert said(errors).startswith(f"{tmp_path}/many: 5 rows, 3 with a problem")
    assert bulk(*asked, tmp_path / "one")[0] == 0
    assert_same_bits(*(pyarrow.parquet.read_table(tmp_path / name) for name in ("many", "one")))


def test_what_cannot_be_done_is_said_in_a_line(cluster: Machines, tmp_path: Path, pixels: Array) -> None:
    np.save(tmp_path / "x.npy", pixels[:5])
    for address, engine_threads, message in (
        (cluster.address, "64", "no machine has 64 cores"),
        ("nowhere", "1", "no Ray cluster at nowhere"),
    ):
        status, errors = bulk(
            DIGITS, tmp_path / "x.npy", tmp_path / "out", "--cluster", address, "--engine-threads", engine_threads
        )
        assert status == 1
        assert message in errors
        assert "Traceback" not in errors

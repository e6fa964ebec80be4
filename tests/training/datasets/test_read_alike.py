"""The files that a model is trained on are the same rows, bit for bit, to bulk and the endpoints, without an option."""

import csv
import decimal
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from service.bulk.readers import open_inputs, read_from
from service.bundle import TabularInput
from service.codecs.arrow import read_stream
from service.codecs.rendering import render_records
from service.codecs.rows import Reading
from service.readers.text import records
from tests.service.codecs.schemas import parse_instances
from tests.training.datasets.files import source_of
from training.datasets import Dataset

ROWS = 300
Write = Callable[[Path], None]


def base() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, ROWS),
            "income": np.round(rng.normal(2500, 600, ROWS), 2),
            "plan": rng.choice(["basic", "none", "pro"], ROWS),
            "zip": rng.choice(["02116", "10001"], ROWS),
        }
    ).mask(rng.random((ROWS, 4)) < [0, 0.1, 0.1, 0])


def orders() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "order": [f"A-{70000 + n}" for n in range(ROWS)],
            "placed": [f"2026-01-{1 + n % 28:02d} {n % 24:02d}:{rng.integers(60):02d}:00" for n in range(ROWS)],
            "total": [f"€{v:,.2f}" if v > 100 else f"{v:.2f}" for v in np.exp(rng.normal(5, 2, ROWS))],
            "shop": rng.choice([f"shop {n}" for n in range(150)], ROWS),
            "discount": [f"{v}%" for v in rng.choice([0, 5, 10, 20], ROWS)],
            "items": ["-" if n % 17 == 0 else n % 5 for n in range(ROWS)],
            "currency": "EUR",
        }
    )


def typed() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    seconds = rng.integers(0, 10**7, ROWS)
    hole = rng.random(ROWS) < 0.1
    moments = pd.Series(pd.Timestamp("2026-01-01") + pd.to_timedelta(seconds, unit="s"))
    return pd.DataFrame(
        {
            "at": moments.mask(hole),
            "berlin": moments.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
            "day": moments.dt.date.mask(hole, None),
            "clock": moments.dt.time,
            "lasted": pd.Series(pd.to_timedelta(seconds, unit="s")).mask(hole),
            "paid": [None if hole[n] else decimal.Decimal(int(value)) / 100 for n, value in enumerate(seconds)],
            "kind": pd.Categorical(rng.choice(["a", "b", "c"], ROWS)),
            "whole": pd.array(seconds % 50, "Int64"),
            "ok": pd.Series(seconds % 2 == 0).astype("boolean").mask(hole),
            "word": pd.Series(rng.choice(["x", "y", "z"], ROWS)).astype("string").mask(hole),
        }
    ).set_index(pd.date_range("2026-01-01", periods=ROWS, freq="h"))


def write_typed(folder: Path) -> None:
    typed().to_parquet(folder / "rows.parquet")


def infinite() -> pd.DataFrame:
    """Ratios, of which some were divided by zero, and a flag with infinite cells."""
    n = np.arange(ROWS)
    with np.errstate(divide="ignore"):
        return pd.DataFrame({"ratio": 7.25 / (n % 40), "flag": np.where(n % 50 == 9, -np.inf, n % 2), "more": n % 7})


def french() -> pd.DataFrame:
    amounts = np.exp(np.random.default_rng(4).normal(9, 2, ROWS))
    written = [f"{value:,.2f} €".replace(",", "\xa0").replace(".", ",") for value in amounts]
    return pd.DataFrame({"n": np.arange(ROWS) % 9, "s": np.arange(ROWS) % 5, "montant": written})


def write_infinite(folder: Path) -> None:
    infinite().to_parquet(folder / "rows.parquet")


def write_narrow(folder: Path) -> None:
    """Types as small as they can be, bytes that are texts, and categories of whole numbers."""
    n = np.arange(ROWS)
    columns = {
        "least": pa.array(np.where(n % 3, -128, n % 100).astype(np.int8)),
        "small": pa.array((n % 200).astype(np.uint8)),
        "half": pa.array((n % 77 / 4).astype(np.float16)),
        "large": pa.array((n % 90).astype(np.uint64)),
        "text": pa.array([b"red", b"gr\xc3\xbcn", None] * (ROWS // 3), pa.binary()),
        "grade": pa.array([1, 2, 5] * (ROWS // 3)).dictionary_encode(),
    }
    pyarrow.parquet.write_table(pa.table(columns), folder / "rows.parquet")


def other_digits() -> pd.DataFrame:
    frame = base().astype({"age": str, "income": str})
    wide, arabic = str.maketrans("0123456789.", "０１２３４５６７８９．"), str.maketrans("0123456789.", "٠١٢٣٤٥٦٧٨٩٫")
    return frame.assign(age=frame["age"].str.translate(wide), income=frame["income"].str.translate(arabic))


def text(frame: pd.DataFrame, name: str, pack: Callable[[bytes], bytes] = bytes, **options: Any) -> Write:
    def write(folder: Path) -> None:
        encoded = frame.to_csv(index=False, **options).encode(options.get("encoding", "utf-8"))
        (folder / name).write_bytes(pack(encoded))

    return write


def write_shuffled(folder: Path) -> None:
    base().sample(frac=1, random_state=3).to_parquet(folder / "rows.parquet")


def write_parts(folder: Path) -> None:
    for part in range(3):
        base().iloc[100 * part : 100 * part + 100].to_parquet(folder / f"part-0000{part}.snappy.parquet", index=False)
    (folder / "_SUCCESS").touch()


def write_fortran(folder: Path) -> None:
    np.save(folder / "rows.npy", np.asfortranarray(base()[["age", "income"]].to_numpy(float)))


def zstd(raw: bytes) -> bytes:
    packed: bytes = pa.compress(raw, "zstd", asbytes=True)
    return packed


KINDS: dict[str, tuple[Write, dict[str, Any]]] = {
    "csv": (text(base(), "rows.csv"), {}),
    "tsv": (text(base(), "rows.tsv", sep="\t"), {}),
    "decimal commas": (text(base(), "rows.csv", sep=";", decimal=","), {}),
    "pipes": (text(base(), "rows.txt", sep="|", na_rep="NULL"), {}),
    "latin": (text(base().replace("pro", "größer"), "rows.csv", encoding="latin-1"), {}),
    "utf-16": (text(base(), "rows.csv", encoding="utf-16"), {}),
    "gzip": (text(base(), "rows.csv.gz", gzip.compress), {}),
    "zstd": (text(base(), "rows.csv.zst", zstd), {}),
    "any name": (text(base(), "rows.dat"), {}),
    "end mark": (text(base(), "rows.csv", lambda raw: raw + b"\x1a"), {}),
    "other digits": (text(other_digits(), "rows.csv"), {}),
    "orders": (text(orders(), "orders.csv", encoding="utf-8-sig"), {"cyclic": ["placed"]}),
    "own markers": (text(base(), "rows.csv", na_rep="n.v."), {"missing": ["n.v."]}),
    "infinite": (text(infinite(), "rows.csv"), {}),
    "infinite typed": (write_infinite, {}),
    "narrow": (write_narrow, {}),
    "french": (text(french(), "rows.csv", sep=";", encoding="cp1252"), {}),
    "formulas": (text(base().apply(lambda column: '="' + column.astype(str) + '"'), "rows.csv", sep=";"), {}),
    "unnamed": (text(base().assign(u="", v=""), "rows.csv", header=["age", "income", "plan", "zip", "", ""]), {}),
    "shuffled": (write_shuffled, {}),
    "typed": (write_typed, {"cyclic": ["at"]}),
    "parts": (write_parts, {}),
    "fortran": (write_fortran, {"kind": "numpy"}),
}


@pytest.fixture(params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Dataset]:
    write, options = KINDS[request.param]
    write(tmp_path)
    files = sorted(tmp_path.iterdir())
    path = files[0] if len(files) == 1 else tmp_path
    return path, source_of(**({"kind": "table"} | options)).load(path)


def test_bulk_reads_what_the_trainer_read(trained: tuple[Path, Dataset]) -> None:
    path, dataset = trained
    batches = list(read_from(open_inputs([str(path)], dataset.input), 0, 64))
    assert not any(batch.marks.unreadable or batch.marks.unseen for batch in batches)
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), dataset.rows)


def test_the_endpoints_read_what_the_trainer_read(trained: tuple[Path, Dataset]) -> None:
    path, dataset = trained
    data = dataset.input
    assert isinstance(data, TabularInput)
    if data.text is None:
        if path.suffix == ".parquet":
            sent = read_stream(arrow_stream(pyarrow.parquet.read_table(path)), "instances")
            np.testing.assert_array_equal(parse_instances(sent, data, Reading()), dataset.rows)
        return
    (_, header), *lines = records(str(path), data.text)
    sent = json.loads(json.dumps([dict(zip(header, line, strict=True)) for _, line in lines]))
    strict = Reading(ignore_extra=False)
    np.testing.assert_array_equal(parse_instances(sent, data, strict), dataset.rows)
    rendered = render_records(np.nan_to_num(dataset.rows), data)
    assert len(parse_instances(rendered, data, strict)) == ROWS


def arrow_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def test_typed_columns_are_what_their_texts_are(tmp_path: Path) -> None:
    frame = typed()
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    as_typed, as_text = (source_of("table").load(tmp_path / name) for name in ("rows.parquet", "rows.csv"))
    assert as_typed.input.features == as_text.input.features
    np.testing.assert_array_equal(as_typed.rows, as_text.rows)
    batches = read_from(open_inputs([str(tmp_path / "rows.csv")], as_typed.input), 0, 64)
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), as_typed.rows)


def test_the_delimiter_that_the_page_is_told_divides_the_file(tmp_path: Path) -> None:
    text(base(), "rows.csv", sep=";", decimal=",")(tmp_path)
    data = source_of("table").load(tmp_path / "rows.csv").input
    assert isinstance(data, TabularInput)
    assert data.text is not None
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert next(csv.reader(file, delimiter=data.text.delimiter)) == ["age", "income", "plan", "zip"]

"""The files that a model is trained on are scored alike by bulk, by POST and on the page, without an option."""

import gzip
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from pydantic import TypeAdapter

from service.bulk.readers import open_inputs, read_from
from service.bundle import Array, ImageInput, TabularInput, write_bundle
from tests.conftest import Serve
from tests.explorer.conftest import ready
from tests.service.http_client import NPY, send_request
from tests.service.toy_bundles import bundle_files, image_graphs, table_graphs
from tests.training.datasets import test_read_alike
from training.datasets import AnySource, Dataset, Source
from training.datasets.table import Table

FILE = {"Content-Type": "application/octet-stream", "Accept": NPY}
ROWS = 6
SHAPE = (10, 7)


def pictures(*channels: int) -> Array:
    return np.random.default_rng(len(channels)).integers(0, 256, (ROWS, *SHAPE, *channels), np.uint8)


def save(folder: Path, name: Callable[[int], str], form: str, mode: str = "RGB", **options: Any) -> None:
    for i, levels in enumerate(pictures(3)):
        path = folder / name(i)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(levels).convert(mode).save(path, form, **options)


def write_rgb(folder: Path) -> None:
    save(folder, "p{}.png".format, "PNG")


def write_rgba(folder: Path) -> None:
    save(folder, "p{}.png".format, "PNG", "RGBA")


def write_gray_alpha(folder: Path) -> None:
    save(folder, "sub{0}/p{0}.png".format, "PNG", "LA")


def write_webp(folder: Path) -> None:
    save(folder, "p{}.webp".format, "WEBP")


def write_turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder, "p{}.jpg".format, "JPEG", exif=exif)


def write_misnamed(folder: Path) -> None:
    save(folder, "p{}.jpg".format, "PNG")
    (folder / "notes.txt").write_text("not a picture")


def write_two_formats(folder: Path) -> None:
    save(folder, "p{}.png".format, "PNG", "L")
    save(folder, "p{}.webp".format, "WEBP")


def write_sizes(folder: Path) -> None:
    for i, levels in enumerate(pictures(3)):
        Image.fromarray(levels[: 4 + i]).save(folder / f"p{i}.png")


def write_idx(folder: Path) -> None:
    idx = bytes([0, 0, 8, 3]) + struct.pack(">3I", ROWS, *SHAPE) + pictures().tobytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx))
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, ROWS]) + bytes(ROWS))


def write_levels(folder: Path) -> None:
    np.save(folder / "x.npy", np.asfortranarray(pictures(3).astype(">i4")))


def write_shades(folder: Path) -> None:
    np.savez_compressed(folder / "x.npz", X=pictures() / 255, y=np.zeros(ROWS))


def write_bits(folder: Path) -> None:
    np.save(folder / "x.npy", pictures() > 99)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of data, and the files that hold it.

    Attributes:
        dataset: As the trainer reads them.
        path: What the trainer is given.
        files: Those that hold instances, in their order.
    """

    dataset: Dataset
    path: Path
    files: list[Path]


KINDS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "rgb": (write_rgb, {"kind": "image_folder"}),
    "rgba": (write_rgba, {"kind": "image_folder"}),
    "gray_alpha": (write_gray_alpha, {"kind": "image_folder"}),
    "webp": (write_webp, {"kind": "image_folder"}),
    "turned": (write_turned, {"kind": "image_folder"}),
    "misnamed": (write_misnamed, {"kind": "image_folder"}),
    "two_formats": (write_two_formats, {"kind": "image_folder"}),
    "resized": (write_sizes, {"kind": "image_folder", "size": (5, 4), "color": "gray"}),
    "idx": (write_idx, {"kind": "idx"}),
    "levels": (write_levels, {"kind": "numpy"}),
    "shades": (write_shades, {"kind": "numpy"}),
    "bits": (write_bits, {"kind": "numpy"}),
}


TABLES = ("csv", "tsv", "decimal commas", "pipes", "latin", "utf-16", "gzip", "orders", "own markers")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    made = {}
    for name in TABLES:
        write, options = test_read_alike.KINDS[name]
        folder = tmp_path_factory.mktemp("table")
        write(folder)
        (path,) = folder.iterdir()
        made[name.replace(" ", "-")] = Kind(Table(**options).load(path), path, [path])
    return made


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    made = {}
    for name, (write, options) in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder)
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "labels" not in file.name]
        files = [file for file in files if file.suffix != ".txt"]
        path = files[0] if options["kind"] == "numpy" else folder
        made[name] = Kind(TypeAdapter[Source](AnySource).validate_python(options).load(path), path, files)
    return made


@pytest.fixture(scope="module")
def server(
    kinds: dict[str, Kind], tables: dict[str, Kind], serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A toy model of every kind, whose scores tell each value and place from any other."""
    repository = tmp_path_factory.mktemp("models")
    for name, kind in kinds.items():
        data = kind.dataset.input
        assert isinstance(data, ImageInput)
        write_bundle(repository, *bundle_files(name, data, image_graphs(data), kind.dataset.rows[:2]))
    for name, kind in tables.items():
        data = kind.dataset.input
        assert isinstance(data, TabularInput)
        write_bundle(repository, *bundle_files(name, data, table_graphs(data), kind.dataset.rows[:2]))
    with serve("--models", str(repository), "--default-model", "rgb", "--engine-threads", "1") as client:
        yield client


@pytest.fixture(scope="module")
def page(browser: Browser, server: httpx.Client) -> Page:
    shared = browser.new_page()
    shared.set_default_timeout(30_000)
    shared.goto(str(server.base_url))
    ready(shared)
    return shared


def scores(client: httpx.Client, name: str, kind: Kind) -> Array:
    """Of the rows that the trainer read."""
    return send_request(client, f"/models/{name}/elbo", kind.dataset.rows, binary=True)["score"]


def fields(body: bytes) -> Array:
    return np.load(io.BytesIO(body), allow_pickle=False)["score"]


@pytest.mark.parametrize("name", KINDS)
def test_bulk_reads_what_the_trainer_read(kinds: dict[str, Kind], name: str) -> None:
    kind = kinds[name]
    rows = np.concatenate([piece.x for piece in read_from(open_inputs([str(kind.path)], kind.dataset.input), 0, 4)])
    assert rows.dtype == kind.dataset.rows.dtype
    np.testing.assert_array_equal(rows, kind.dataset.rows)


@pytest.mark.parametrize("name", KINDS)
def test_sent_files_have_the_same_scores(kinds: dict[str, Kind], server: httpx.Client, name: str) -> None:
    kind = kinds[name]
    answers = [server.post(f"/models/{name}/elbo", content=f.read_bytes(), headers=FILE) for f in kind.files]
    sent = np.concatenate([fields(answer.raise_for_status().content) for answer in answers])
    np.testing.assert_array_equal(sent, scores(server, name, kind))
    assert len(np.unique(sent)) == len(sent)


@pytest.mark.parametrize("name", KINDS)
def test_dropped_files_have_the_same_scores(
    kinds: dict[str, Kind], server: httpx.Client, page: Page, name: str
) -> None:
    kind = kinds[name]
    page.locator("#which").select_option(f"{name} 1")
    expect(page.locator("#subtitle")).to_contain_text(" × ".join(map(str, kind.dataset.input.shape[:2])))
    ready(page)
    rows = kind.dataset.rows.tobytes()
    with page.expect_response(lambda answer: (answer.request.post_data_buffer or b"").endswith(rows)) as answer:
        page.locator("#pictures").get_by_label("Choose files").set_input_files(list(kind.files))
    np.testing.assert_array_equal(fields(answer.value.body()), scores(server, name, kind))


@pytest.mark.parametrize("name", [name.replace(" ", "-") for name in TABLES])
def test_dropped_tables_have_the_same_scores(
    tables: dict[str, Kind], server: httpx.Client, page: Page, name: str
) -> None:
    kind = tables[name]
    page.locator("#which").select_option(f"{name} 1")
    expect(page.locator("#title")).to_have_text(name)
    expect(page.locator("#rows .ranked > tbody > tr:not(.opened)")).to_have_count(40)
    with page.expect_response(lambda answer: f"/models/{name}/" in answer.url and "elbo" in answer.url) as answer:
        page.get_by_label("Choose a CSV file").set_input_files(kind.files)
    found = answer.value.json()
    assert not any(found["problem"])
    assert found["score"] == scores(server, name, kind).tolist()

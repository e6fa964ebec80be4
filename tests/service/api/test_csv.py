"""CSV in and out: text is read as files are, and every error names its row and column."""

import csv
import io
from collections.abc import Iterator

import httpx
import pytest

from service.bundle import TabularInput, TextFormat, write_bundle
from service.readers.files import TextBytes
from service.readers.text import find_format
from tests.conftest import Serve
from tests.service.http_client import CSV, Array, assert_problem, post, table
from tests.service.toy_bundles import table_files

PATH = "/models/people"


@pytest.fixture(scope="module")
def european(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server of a model from a file with semicolons, decimal commas and a marker of its own, in Windows-1252."""
    manifest, files = table_files()
    data = manifest.input
    assert isinstance(data, TabularInput)
    age = data.columns[0].model_copy(update={"decimal": ","})
    told = {"missing": ("", "k. A."), "text": TextFormat(delimiter=";", encoding="cp1252")}
    data = data.model_copy(update={"columns": (age, *data.columns[1:]), **told})
    folder = tmp_path_factory.mktemp("european")
    write_bundle(folder, manifest.model_copy(update={"input": data}), files)
    with serve("--models", str(folder), "--engine-threads", "1") as client:
        yield client


def send(client: httpx.Client, text: str | bytes, path: str = "/elbo", **query: str) -> httpx.Response:
    body = text.encode() if isinstance(text, str) else text
    return client.post(f"{PATH}{path}", content=body, params=query, headers={"Content-Type": f"{CSV}; charset=utf-8"})


def read(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == CSV
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_a_text_is_read_as_records_are(several: httpx.Client) -> None:
    records = [{"age": 1.5, "colour": "blue"}, {"age": None, "colour": "red"}, {"age": -2, "colour": None}]
    text = "id,colour,age\n7,blue,1.5\n8, red ,NA\n\n9,,-2\n"
    for path in ("encode", "elbo"):
        expected = table(several, path, records)
        assert send(several, text, f"/{path}").content == expected.content
        assert send(several, text.replace(",", ";").replace("1.5", "1.50"), f"/{path}").content == expected.content
    assert send(several, text.encode("utf-16"), "/elbo").content == expected.content


def test_the_first_text_of_a_process_may_have_a_long_cell() -> None:
    csv.field_size_limit(2**17)  # As it is when Python starts.
    long = TextBytes(b"age;colour\n" + b"1" * 2**18 + b";blue\n")
    assert find_format(long).delimiter == ";"


def test_a_long_text_is_read_beside_the_event_loop(several: httpx.Client) -> None:
    rows = 4000
    long = send(several, "age,colour\n" + "1.5,blue\n" * (rows - 1) + "x,blue\n", on_error="mark").json()
    assert long["score"] == table(several, "elbo", [[1.5, "blue"]]).json()["score"] * (rows - 1) + [None]
    assert long["problem"][-1] == f"instances[{rows - 1}].age: 'x' is not a number"


def test_the_manifest_says_how_the_text_is_written(european: httpx.Client) -> None:
    text = "age;colour;Straße\n1,5;blue;a\nk. A.;red;b\n"
    expected = table(european, "elbo", [[1.5, "blue"], [None, "red"]])
    assert send(european, text.encode("cp1252")).content == expected.content
    assert send(european, text).content == expected.content
    assert_problem(send(european, "age;colour\n1.5;red\n"), 422, "'1.5' is not a number", "instances[0].age")


@pytest.mark.parametrize(
    ("text", "status", "detail", "location"),
    [
        ("age,colour\n1,red\nold,red\n", 422, "^'old' is not a number$", "instances[1].age"),
        ("age,colour\n1,mauve\n", 422, "'mauve' is not a known category", "instances[0].colour"),
        ("age,colour\n1,red\n2\n", 422, "^line 3 has 1 cell; the header has 2, divided by ','$", "instances[1]"),
        ("age,color\n1,red\n", 422, "absent in the header, age, color; did you mean 'color'", "instances[0].colour"),
        ("age,age,colour\n1,2,red\n", 422, "stands twice in the header", "instances[0].age"),
        ("age,colour\n", 422, "at least one row below the header", "instances"),
        ("", 400, "^empty$", "body"),
        ('age,colour\n1,"red\n', 400, "^line 2: a quotation mark that begins a cell is never closed", "body"),
        (b"age,colour\n1,\xff\xfe\xfd\xfc\n", 400, "; send UTF-8$", "body"),
        (b"PK\x03\x04", 400, "^a spreadsheet or an archive; save it as CSV", "body"),
    ],
)
def test_errors_name_the_place(
    several: httpx.Client, text: str | bytes, status: int, detail: str, location: str
) -> None:
    assert_problem(send(several, text), status, detail, location)


def test_wrong_rows_are_marked(several: httpx.Client) -> None:
    marked = send(several, "age,colour\n1,red\n2\n3,mauve\n4,red\n", on_error="mark").json()
    alone = table(several, "elbo", [[1, "red"], [3, None], [4, "red"]]).json()["score"]
    assert marked["score"] == [alone[0], None, *alone[1:]]
    assert [text is None for text in marked["problem"]] == [True, False, False, True]
    unknown = send(several, "id,age,colour\n1,1,red\n", extra="error")
    assert_problem(unknown, 422, "is no column of this model", "instances[0].id")


def test_limits_hold_for_text(small: httpx.Client, several: httpx.Client, digits: httpx.Client, z: Array) -> None:
    assert small.post("/elbo", content=bytes(3001), headers={"Content-Type": CSV}).status_code == 413
    assert_problem(send(several, "age,colour\n" + "1,red\n" * 70_000), 413, "send at most 65,536 rows", "instances")
    pictures = digits.post("/elbo", content=b"age\n1\n", headers={"Content-Type": CSV})
    assert_problem(pictures, 422, "must be pictures, not rows of a table", "instances")
    latents = digits.post("/decode", content=b"z\n1\n", headers={"Content-Type": CSV})
    assert_problem(latents, 415, "bodies of 'text/csv' are not read", "header.Content-Type")


def test_answers_are_written_with_a_column_for_each_number(
    several: httpx.Client, digits: httpx.Client, x: Array
) -> None:
    sent = {"content": "age,colour\n1.5,blue\n,red\n", "headers": {"Content-Type": CSV, "Accept": CSV}}
    expected = table(several, "elbo", [[1.5, "blue"], [None, "red"]]).json()
    rows = read(several.post(f"{PATH}/elbo", **sent))
    assert [float(row["score"]) for row in rows] == expected["score"]
    assert rows[0].keys() == expected.keys()
    latents = read(several.post(f"{PATH}/encode", **sent))
    assert latents[0] == {"mean.0": "1.5", "mean.1": "1", "log_variance.0": "0", "log_variance.1": "0"}
    assert read(several.post(f"{PATH}/instances", **sent)) == [
        {"age": "1.5", "colour": "blue"},
        {"age": "", "colour": "red"},
    ]
    marked = read(
        several.post(f"{PATH}/elbo", params={"on_error": "mark"}, **sent | {"content": "age,colour\nx,red\n"})
    )
    assert (marked[0]["score"], marked[0]["problem"]) == ("", "instances[0].age: 'x' is not a number")
    pixels = read(post(digits, "/elbo", x, CSV, explain=True))
    assert len([name for name in pixels[0] if name.startswith("feature_log_likelihood.")]) == x[0].size

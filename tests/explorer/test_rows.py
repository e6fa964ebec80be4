"""The panel of table models: CSV in, what `/elbo` says of it ranked, opened and downloaded."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.explorer.conftest import Open, drop, ready

ROWS = "#rows .ranked > tbody > tr:not(.opened)"
PLAIN = '# ,colour,age\n1,red,1.5\n2,"blue, or so",\n3,NA,-2\n4,red,0.25\n5,red,3e1\n'
RECORDS = [
    {"age": 1.5, "colour": "red"},
    {"age": None, "colour": "blue, or so"},
    {"age": -2, "colour": None},
    {"age": 0.25, "colour": "red"},
    {"age": 30, "colour": "red"},
]


@pytest.fixture(scope="module")
def page(browser: Browser, toys: httpx.Client) -> Page:
    """A page of the table, shared: every test brings its own rows."""
    shared = browser.new_page()
    shared.set_default_timeout(15_000)
    shared.goto(str(toys.base_url))
    ready(shared)
    return shared


def elbo(client: httpx.Client, records: list[dict[str, Any]], **query: Any) -> dict[str, Any]:
    answer = client.post("/elbo", json={"instances": records}, params=query)
    document: dict[str, Any] = answer.raise_for_status().json()
    return document


def paste(page: Page, text: str) -> None:
    page.get_by_label("Rows as CSV").fill(text)


def column(page: Page, i: int) -> list[str]:
    """The cells of the table's rows in column i, 0 being the rows' numbers; without the mark of discoveries."""
    cells = page.locator(f"{ROWS} > :nth-child({i + 1})").all_inner_texts()
    return [cell.replace("called", "").strip() for cell in cells]


def test_there_are_rows_to_begin_with(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys)
    expect(page.locator("#subtitle")).to_have_text("A model of rows of 2 columns in 2 numbers.")
    expect(page.locator("#samples")).to_be_hidden()
    expect(page.locator(ROWS)).to_have_count(40)
    first = page.get_by_label("Rows as CSV").input_value()
    expected = toys.get("/sample", params={"n": 40, "seed": 0, "temperature": 1}).json()["instances"]
    rows = list(csv.DictReader(io.StringIO(first)))
    assert [row["colour"] for row in rows] == [record["colour"] for record in expected]
    assert [float(row["age"]) for row in rows] == pytest.approx([record["age"] for record in expected], rel=1e-5)
    page.get_by_role("button", name="Other example rows").click()
    expect(page.get_by_label("Rows as CSV")).not_to_have_value(first)


def test_pasted_rows_are_scored_and_ranked(page: Page, toys: httpx.Client) -> None:
    paste(page, PLAIN)
    expect(page.locator("#rows .note")).to_have_text("Not looked at: #.")
    answer = elbo(toys, RECORDS, fdr=0.1)
    order = np.argsort(-np.array(answer["score"]), kind="stable")
    assert column(page, 0) == [str(i + 1) for i in order]
    assert [float(text) for text in column(page, 1)] == pytest.approx([answer["score"][i] for i in order], rel=1e-3)
    shown = [None if text == "–" else float(text) for text in column(page, 2)]
    expected = [answer["p_value"][i] for i in order]
    assert shown == [value and pytest.approx(value, rel=0.05) for value in expected]
    assert column(page, 4) == [str(RECORDS[i]["colour"] or "–") for i in order]
    called = page.locator("#rows tr.anomalous > th").all_inner_texts()
    assert sorted(called) == [str(i + 1) for i in np.flatnonzero(answer["discovery"])]
    assert called


def test_every_column_sorts(page: Page) -> None:
    paste(page, PLAIN)
    expect(page.locator("#rows .note")).to_have_text("Not looked at: #.")
    ages = ["-2", "0.25", "1.5", "30", "–"]
    header = page.locator("#rows thead").get_by_role("button", name="age")
    header.click()
    assert column(page, 3) == [text.replace("-", "\u2212") for text in ages]
    expect(page.locator("#rows th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    header.press("Enter")
    assert column(page, 3) == ["–", *[text.replace("-", "\u2212") for text in ages[-2::-1]]]
    expect(page.locator("#rows th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    page.locator("#rows thead").get_by_role("button", name="Row").click()
    assert column(page, 0) == ["1", "2", "3", "4", "5"]
    page.locator("#rows thead").get_by_role("button", name="Score").click()


def test_the_slider_keeps_the_rate_of_false_discoveries(page: Page, toys: httpx.Client) -> None:
    scale = np.linspace(0, 2.5, 30)
    paste(page, "age,colour\n" + "".join(f"{value:.4f},red\n" for value in scale))
    expect(page.locator(ROWS)).to_have_count(30)
    records = [{"age": float(f"{value:.4f}"), "colour": "red"} for value in scale]
    counts = []
    for percent in (1, 5, 25, 50):
        page.get_by_label("False discoveries at most").fill(str(percent))
        wanted = elbo(toys, records, fdr=percent / 100)["discovery"]
        expect(page.locator("#rows .verdict")).to_contain_text(f"{sum(wanted)} of 30 rows are called anomalous")
        expect(page.locator("#rows .verdict")).to_contain_text(f"on average at most {percent} % of such calls")
        called = page.locator("#rows tr.anomalous > th").all_inner_texts()
        assert sorted(map(int, called)) == [i + 1 for i in np.flatnonzero(wanted)]
        counts.append(sum(wanted))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    page.get_by_label("False discoveries at most").fill("10")


def test_a_row_opens_into_what_makes_it_strange(page: Page, toys: httpx.Client) -> None:
    paste(page, PLAIN)
    expect(page.locator("#rows .note")).to_have_text("Not looked at: #.")
    toggle = page.locator("#rows tbody").get_by_role("button", name="1", exact=True)
    toggle.click()
    expect(toggle).to_have_attribute("aria-expanded", "true")
    cells = page.locator("#rows .cells tbody tr")
    expect(cells).to_have_count(2)
    answer = elbo(toys, RECORDS[:1], explain=True)
    surprise, expected = answer["feature_surprise"][0], answer["feature_expected"][0]
    assert surprise["age"] == pytest.approx(1.5**2 + 1.5)  # The gain of the toy's ELBO if age is as expected, 0.
    assert expected == {"age": 0.0, "colour": "red"}
    assert cells.nth(0).locator("th, td").all_inner_texts() == ["age", "1.5", "0", "", f"{surprise['age']:.2f}"]
    assert cells.nth(1).locator("th, td").all_inner_texts() == ["colour", "red", "red", "", "0.00"]
    toggle.click()
    expect(page.locator("#rows .cells")).to_be_hidden()


def test_the_scored_rows_can_be_downloaded(page: Page, toys: httpx.Client) -> None:
    paste(page, PLAIN)
    expect(page.locator("#rows .note")).to_have_text("Not looked at: #.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the scored rows").click()
    assert download.value.suggested_filename == "people-scored.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    assert list(rows[0]) == ["# ", "colour", "age", "elbo", "score", "p_value", "discovery", "problem"]
    assert [row["# "] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[1]["colour"] == "blue, or so"
    answer = elbo(toys, RECORDS, fdr=0.1)
    for name in ("elbo", "score", "p_value"):
        assert [float(row[name]) if row[name] else None for row in rows] == answer[name]
    assert [row["discovery"] == "true" for row in rows] == answer["discovery"]


def test_a_file_can_be_dropped(page: Page) -> None:
    drop(page, "#rows .drop", "rows.csv", b"\xef\xbb\xbfage\r\n7\r\n")
    expect(page.locator("#rows .note")).to_have_text("Missing in every row: colour.")
    assert column(page, 3) == ["7"]
    page.get_by_label("Choose a CSV file").set_input_files(
        {"name": "rows.csv", "mimeType": "text/csv", "buffer": b"colour,age\nred,8\n"}
    )
    expect(page.locator("#rows .note")).to_be_empty()
    assert column(page, 3) == ["8"]


@pytest.mark.parametrize(
    "body",
    [
        b"Report\n\nage;colour\n8;red\n",
        "age,colour\n8,red,\n   \n".encode("utf-16"),
        gzip.compress(b"sep=,\nage,colour,caf\xe9\n8,red,x\n"),
    ],
    ids=["title", "utf-16", "gzip"],  # Of the bytes, an id would hold the time of packing.
)
def test_text_files_of_all_kinds_can_be_dropped(page: Page, body: bytes) -> None:
    drop(page, "#rows .drop", "rows.csv", b"age,colour\n7,red\n")
    expect(page.locator(f"{ROWS} > :nth-child(4)")).to_have_text("7")
    drop(page, "#rows .drop", "rows.csv", body)
    expect(page.locator(f"{ROWS} > :nth-child(4)")).to_have_text("8")
    expect(page.locator("#rows .verdict")).not_to_contain_text("problem")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("height\n3\n", "The first line must name the model's columns: age, colour."),
        ("", "The first line must name the model's columns: age, colour."),
        ("age,colour\n", "There are no rows below the names of the columns."),
        ('age,colour\n1,"red\n', "Line 2: a quotation mark out of place."),
    ],
)
def test_wrong_rows_are_told_of(page: Page, text: str, said: str) -> None:
    alert = page.locator("#rows > .work > [role=alert]")
    paste(page, text)
    expect(alert).to_contain_text(said, ignore_case=True)
    paste(page, PLAIN)
    expect(alert).to_be_empty()


def test_rows_that_cannot_be_scored_are_marked(page: Page, toys: httpx.Client) -> None:
    paste(page, "age,colour\n1,red\nold,red\n2,green\n1e200,red\n3,red,4\n")
    expect(page.locator("#rows .verdict")).to_contain_text("4 have a problem.")
    expect(page.locator("#rows > .work > [role=alert]")).to_be_empty()
    problems = {
        row.locator("> th").inner_text(): row.locator(".problem").all_inner_texts() for row in page.locator(ROWS).all()
    }
    assert problems["1"] == []
    assert problems["2"] == ["age: 'old' is not a number"]
    assert problems["3"][0].startswith("colour: 'green' is not a known category")
    assert problems["4"] == ["too far from the training data for a finite bound"]
    assert problems["5"] == ["has 3 cells; the header has 2"]
    answer = elbo(toys, [{"age": 1, "colour": "red"}, {"age": 2, "colour": None}])
    scores = dict(zip(column(page, 0), column(page, 1), strict=True))
    assert float(scores["1"]) == pytest.approx(answer["score"][0], rel=1e-3)
    page.locator("#rows tbody").get_by_role("button", name="2", exact=True).click()
    expect(page.locator("#rows .opened:visible")).to_have_text("Not scored: age: 'old' is not a number.")
    page.locator("#rows tbody").get_by_role("button", name="5", exact=True).click()
    expect(page.locator("#rows .opened:visible").last).to_have_text("Not scored: has 3 cells; the header has 2.")
    paste(page, PLAIN)


def test_a_wrong_file_is_told_of(page: Page) -> None:
    page.get_by_label("Choose a CSV file").set_input_files(
        {"name": "rows.xls", "mimeType": "application/vnd.ms-excel", "buffer": b"\xd0\xcf\x11\xe0\x00\x00"}
    )
    expect(page.locator("#rows > .work > [role=alert]")).to_have_text("rows.xls is not a CSV file.")
    paste(page, PLAIN)


def test_what_a_bundle_cannot_do_is_said(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys)
    page.locator("#which").select_option("plain 1")
    expect(page.locator("#title")).to_have_text("plain")
    expect(page.locator(ROWS)).to_have_count(40)
    page.locator("#rows tbody").get_by_role("button", name="5", exact=True).click()
    expect(page.locator("#rows .opened:visible")).to_have_text("This bundle has no graph that explains its bounds.")


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "a,b\r\n1,\r\n,2",
        '"a ""q""",b\n"x\ny",","\n\n"",z\n',
        "a\n1\r2\r",
        "ä,€\n'1',2;3\n",
        "a,b,\n,,\n",
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read_as_python_reads_it(page: Page, text: str, delimiter: str) -> None:
    text = text.replace(",", delimiter)

    def expected(text: str) -> list[list[str]]:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [line for line in lines if line not in ([], [""])]

    def call(function: str, value: object) -> Any:
        module = "await import(new URL('explorer/lib/csv.js', document.baseURI))"
        return page.evaluate(f"async ([value, mark]) => ({module}).{function}(value, mark)", [value, delimiter])

    read = call("parse", text)
    assert read == expected(text)
    assert expected(call("format", read)) == read

"""The panel of table models: CSV in, what `/elbo` says of it ranked, opened and downloaded."""

import csv
import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from service.scoring import discoveries, why_none
from tests.explorer.conftest import Open, Visit, drop, ready

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


def column(page: Page, title: str) -> list[str]:
    """The cells of the table's rows under a title; without the mark of called rows."""
    titles = page.locator("#rows .ranked thead th").all_inner_texts()
    place = [text.rstrip(" ↑↓") for text in titles].index(title)
    cells = page.locator(f"{ROWS} > :nth-child({place + 1})").all_inner_texts()
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
    assert column(page, "Row") == [str(i + 1) for i in order]
    assert [float(text) for text in column(page, "Score")] == pytest.approx(
        [answer["score"][i] for i in order], rel=1e-3
    )
    shown = [None if text == "–" else float(text.removesuffix(" %")) for text in column(page, "Stranger than")]
    expected = [answer["p_value"][i] for i in order]
    assert shown == [value and pytest.approx(100 * (1 - value), abs=0.1) for value in expected]
    assert column(page, "colour") == [str(RECORDS[i]["colour"] or "–") for i in order]
    called = page.locator("#rows tr.anomalous > th").all_inner_texts()
    assert sorted(called) == [str(i + 1) for i in np.flatnonzero(answer["discovery"])]
    assert called


def test_every_column_sorts(page: Page) -> None:
    paste(page, PLAIN)
    expect(page.locator("#rows .note")).to_have_text("Not looked at: #.")
    ages = ["-2", "0.25", "1.5", "30", "–"]
    header = page.locator("#rows thead").get_by_role("button", name="age")
    header.click()
    assert column(page, "age") == [text.replace("-", "\u2212") for text in ages]
    expect(page.locator("#rows th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    header.press("Enter")
    assert column(page, "age") == ["–", *[text.replace("-", "\u2212") for text in ages[-2::-1]]]
    expect(page.locator("#rows th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    page.locator("#rows thead").get_by_role("button", name="Row").click()
    assert column(page, "Row") == ["1", "2", "3", "4", "5"]
    page.locator("#rows thead").get_by_role("button", name="Score").click()


def test_rows_are_called_by_the_rule_that_is_chosen(page: Page, toys: httpx.Client) -> None:
    scale = np.linspace(0, 2.5, 30)
    paste(page, "age,colour\n" + "".join(f"{value:.4f},red\n" for value in scale))
    expect(page.locator(ROWS)).to_have_count(30)
    records = [{"age": float(f"{value:.4f}"), "colour": "red"} for value in scale]
    verdict, rule = page.locator("#rows .verdict"), page.locator("#rows").get_by_label("Call anomalous")

    def called() -> list[int]:
        return sorted(int(text) - 1 for text in page.locator("#rows tr.anomalous > th").all_inner_texts())

    counts = []
    for percent in (5, 25, 50):
        page.locator("#rows").get_by_label("False calls at most").fill(str(percent))
        wanted = elbo(toys, records, fdr=percent / 100)["discovery"]
        said = f"{sum(wanted)} of 30 rows are called anomalous; on average at most {percent} % of such calls are wrong."
        expect(verdict).to_have_text(said)
        assert called() == np.flatnonzero(wanted).tolist()
        counts.append(sum(wanted))
    assert 0 < counts[0] < counts[-1]
    page.locator("#rows").get_by_label("False calls at most").fill("0.5")
    answer = toys.post("/elbo", json={"instances": records}, params={"fdr": 0.005})
    expect(verdict).to_have_text(
        f"0 of 30 rows are called anomalous: {answer.headers['Lowerbound-No-Discovery']}.",
    )
    answer = elbo(toys, records)
    p, score = np.array(answer["p_value"]), np.array(answer["score"])
    rule.select_option(label="rows below a p-value")
    page.locator("#rows").get_by_label("p-value at most").fill("20")
    expect(verdict).to_contain_text(
        f"{(p <= 0.2).sum()} of 30 rows are called anomalous; of as many usual rows about 6 "
    )
    assert called() == np.flatnonzero(p <= 0.2).tolist()
    page.locator("#rows").get_by_label("p-value at most").fill("0.1")
    expect(verdict).to_contain_text("with 99 held-out rows no p-value is below 0.01: a level of 0.1 % calls none.")
    rule.select_option(label="the strangest rows")
    page.locator("#rows").get_by_label("Rows", exact=True).fill("4")
    expect(verdict).to_contain_text("The 4 strangest of 30 rows; the last of them is stranger than ")
    assert called() == sorted(np.argsort(-score)[:4].tolist())
    rule.select_option(label="so many that few calls are false")
    page.locator("#rows").get_by_label("False calls at most").fill("10")


def test_rules_are_those_of_the_service(page: Page) -> None:
    """The page applies them to all pieces of a file, and says what the service says."""
    rng = np.random.default_rng(0)
    module = "import(new URL('explorer/lib/thresholds.js', document.baseURI))"
    cases = ((359, 8040, 0.1), (99, 40, 0.3), (9, 1, 0.05), (199, 1, 0.2), (19, 60, 0.25), (9, 43, 0.1), (99, 70, 0.1))
    for held_out, rows, fdr in cases:
        p = (rng.integers(0, held_out + 1, rows) ** 2 // held_out + 1) / (held_out + 1)
        p[rng.random(rows) < 0.1] = np.nan
        if held_out == 9:
            p = np.full(rows, 0.1)
        given = [None if np.isnan(value) else value for value in p.tolist()]
        called, why = page.evaluate(
            f"async ([p, q, n]) => {{ const {{ discoveries, whyNone }} = await {module};"
            "return [discoveries(p, q), whyNone(p, q, n)]; }",
            [given, fdr, held_out],
        )
        assert called == discoveries(p, fdr).tolist()
        assert why == why_none(p, fdr, held_out)


def test_any_number_of_rows_is_scored_in_pieces(visit: Callable[..., Visit], toys: httpx.Client) -> None:
    """A file whose rows take several requests: one verdict over all, waiting when told to, and a way to stop."""
    ages = [i % 17 / 8 for i in range(3_000)]
    text = "age,colour\n" + "".join(f"{age},red\n" for age in ages) + " " * 50_000
    visited = visit(toys, allowed=("429", "413"))
    page = visited.page
    ready(page)
    answers: list[tuple[int, dict[str, str]] | None] = [(429, {"Retry-After": "1"}), (413, {})]
    sizes = []

    def refuse(route: Route) -> None:
        sizes.append(len(route.request.post_data_json["instances"]))
        if not (answer := answers.pop(0) if answers else None):
            route.continue_()
            return
        status, headers = answer
        route.fulfill(status=status, headers=headers, json={"detail": "not now"})

    page.route("**/elbo?*", refuse)
    drop(page, "#rows .drop", "many.csv", text.encode())
    progress = page.locator("#rows .progress")
    expect(progress).to_contain_text("0 of 3,000; the service is busy, and asks to wait 1 s")
    expect(page.locator("#rows .verdict")).to_be_hidden()
    page.locator("#rows .verdict").wait_for()
    called = sum(elbo(toys, [{"age": age, "colour": "red"} for age in ages], fdr=0.1)["discovery"])
    assert called
    expect(page.locator("#rows .verdict")).to_contain_text(f"{called:,} of 3,000 rows are called anomalous")
    expect(progress).to_be_hidden()
    assert sizes[:3] == [512, 512, 256]
    assert max(sizes[2:]) <= 256
    expect(page.get_by_label("Rows as CSV")).to_have_value("")
    answers = [None, (429, {"Retry-After": "1"})]
    drop(page, "#rows .drop", "many.csv", text.encode())
    expect(progress).to_contain_text("512 of 3,000; the service is busy")
    progress.get_by_role("button", name="Stop").click()
    expect(page.locator("#rows .note")).to_have_text("Stopped after 512 of 3,000 rows.")
    expect(page.locator("#rows .verdict")).to_contain_text("of 512 rows are called anomalous")


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
    inside = page.locator("#rows .explanation")
    share = 100 * (1 - answer["p_value"][0])
    expect(inside.locator("p").first).to_have_text(re.compile(rf"Stranger than {share:.0f}\.?\d* % of held-out rows."))
    expect(inside.locator(".number").first).to_be_hidden()
    inside.get_by_text("In numbers").click()
    expect(inside.locator(".number").first).to_be_visible()
    expect(inside).to_contain_text(f"p = {answer['p_value'][0]:.2g}")
    toggle.click()
    expect(page.locator("#rows .cells")).to_be_hidden()


def test_the_scored_rows_can_be_downloaded(page: Page, toys: httpx.Client) -> None:
    paste(page, PLAIN)
    expect(page.locator("#rows .note")).to_have_text("Not looked at: #.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the scored rows").click()
    assert download.value.suggested_filename == "people-scored.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    assert list(rows[0]) == ["# ", "colour", "age", "elbo", "score", "p_value", "called", "problem", "row", "label"]
    assert [row["# "] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[1]["colour"] == "blue, or so"
    answer = elbo(toys, RECORDS, fdr=0.1)
    for name in ("elbo", "score", "p_value"):
        assert [float(row[name]) if row[name] else None for row in rows] == answer[name]
    assert [row["called"] == "true" for row in rows] == answer["discovery"]


def test_a_file_can_be_dropped(page: Page) -> None:
    drop(page, "#rows .drop", "rows.csv", b"\xef\xbb\xbfage\r\n7\r\n")
    expect(page.locator("#rows .note")).to_have_text("Missing in every row: colour.")
    assert column(page, "age") == ["7"]
    page.get_by_label("Choose a CSV file").set_input_files(
        {"name": "rows.csv", "mimeType": "text/csv", "buffer": b"colour,age\nred,8\n"}
    )
    expect(page.locator("#rows .note")).to_be_empty()
    assert column(page, "age") == ["8"]


@pytest.mark.parametrize(
    "body",
    [
        b"Report\n\nage;colour\n8;red\n",
        "age,colour\n8,red,\n   \n".encode("utf-16"),
        gzip.compress(b"sep=,\nage,colour,caf\xe9\n8,red,x\n"),
    ],
    ids=["title", "utf-16", "gzip"],  # An id of the bytes would hold the time of packing.
)
def test_text_files_of_all_kinds_can_be_dropped(page: Page, body: bytes) -> None:
    drop(page, "#rows .drop", "rows.csv", b"age,colour\n7,red\n")
    expect(page.locator(f"{ROWS} > :nth-last-child(2)")).to_have_text("7")
    drop(page, "#rows .drop", "rows.csv", body)
    expect(page.locator(f"{ROWS} > :nth-last-child(2)")).to_have_text("8")
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
    alert = page.locator("#text-problem")
    paste(page, text)
    expect(alert).to_contain_text(said, ignore_case=True)
    expect(page.get_by_label("Rows as CSV")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#rows .result")).to_be_hidden()  # No verdict of other rows.
    paste(page, PLAIN)
    expect(page.locator("#rows .verdict")).to_be_visible()
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
    scores = dict(zip(column(page, "Row"), column(page, "Score"), strict=True))
    assert scores["4"] == "∞"
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
    expect(page.locator("#file-problem")).to_have_text("rows.xls is not a CSV file.")
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


def test_values_of_an_opened_row_are_not_broken_on_a_narrow_page(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys, viewport={"width": 390, "height": 844})
    page.get_by_label("Rows as CSV").fill("age,colour\n-12345,red\n")
    expect(page.locator(ROWS)).to_have_count(1)
    page.locator("#rows tbody").get_by_role("button", name="1", exact=True).click()
    cells = page.locator("#rows .cells").filter(has_text="12,3")
    cells.wait_for()
    cells.evaluate("""table => {
      for (const [first, sent, expected] of [...table.tBodies[0].rows].map((row) => row.cells)) {
        [first.textContent, sent.textContent, expected.textContent] = ["minutes_since_last", "15:07:21", "13:11:00"];
      }
    }""")
    assert lines_of(page.locator("#rows .cells"), "tbody td") == 1
    page.locator("#rows .explanation").get_by_text("In numbers").click()
    assert lines_of(page.locator("#rows .cells"), "tbody td") == 1
    assert lines_of(page.locator("#rows .cells"), "thead th") == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def lines_of(table: Locator, selector: str) -> int:
    """Of the cell that takes the most."""
    counts: list[int] = table.locator(selector).evaluate_all("""cells => cells.map(cell => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        return new Set([...range.getClientRects()].map(line => line.top)).size;
    })""")
    return max(counts)

"""Links to views and the way back, the theme, labels of rows, two models side by side, and enlarged charts."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from scipy.stats import spearmanr

from service.commands.threshold import main as threshold
from tests.explorer.conftest import Open, Visit, drop, ready
from tests.explorer.test_page import KEY, closed, violations

__all__ = ["closed"]

PAYMENTS = "payment,colour,age\n" + "".join(f"x{i},red,{i / 4}\n" for i in range(12))


def opened(page: Page) -> list[str]:
    return page.locator("#rows tbody button[aria-expanded=true]").all_inner_texts()


def test_a_link_leads_to_a_view_and_the_back_button_leaves_it(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys, path="/?model=people&version=1&seed=3&row=7")
    text = page.get_by_label("Rows as CSV").input_value()
    wanted = toys.get("/sample", params={"n": 40, "seed": 3}).json()["instances"]
    ages = [float(row["age"]) for row in csv.DictReader(io.StringIO(text))]
    assert ages == pytest.approx([row["age"] for row in wanted], rel=1e-5)
    assert opened(page) == ["7"]
    box, row = (page.locator(f"#rows {name}").bounding_box() for name in (".scroll", "button[aria-expanded=true]"))
    assert box
    assert row
    assert box["y"] < row["y"] < box["y"] + box["height"] - row["height"]
    page.locator("#rows tbody").get_by_role("button", name="9", exact=True).click()
    page.locator("#which").select_option("digits 1")
    expect(page.locator("#title")).to_have_text("digits")
    ready(page)
    page.locator("#samples .another").click()
    assert page.url.endswith("/?model=digits&version=1&seed=1")
    page.go_back()
    expect(page.locator("#samples [name=seed]")).to_have_value("0")
    page.go_back()
    expect(page.locator("#title")).to_have_text("people")
    ready(page)
    assert opened(page) == ["9"]
    page.go_back()
    assert opened(page) == ["7"]
    page.get_by_role("button", name="Other example rows").click()
    expect(page.get_by_label("Rows as CSV")).not_to_have_value(text)
    assert page.url.endswith("/?model=people&version=1&seed=4")
    page.get_by_label("Rows as CSV").fill(PAYMENTS)
    expect(page.locator("#rows .verdict")).to_contain_text("12 rows")
    assert page.url.endswith("/?model=people&version=1")  # No link can hold these rows.


def test_a_link_to_a_picture_or_to_nothing(visit: Callable[..., Visit], toys: httpx.Client) -> None:
    page = visit(toys, "/?model=digits&seed=5&row=20").page
    ready(page)
    expect(page.locator("#pictures .name")).to_have_text("Sample 20")
    page.locator("#pictures .grid button").first.click()
    assert "&row=" in page.url
    page.go_back()
    expect(page.locator("#pictures .name")).to_have_text("Sample 20")
    lost = visit(toys, "/?model=ghosts&version=3").page
    expect(lost.locator("#failure")).to_have_text("ghosts 3 is not served here; this is people 1.")
    ready(lost)


def test_the_theme_is_the_systems_until_it_is_switched(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys, color_scheme="dark")
    button = page.get_by_role("button", name="Dark theme")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    light = page.evaluate(background)
    assert (dark, light) == ("rgb(16, 18, 22)", "rgb(248, 247, 243)")
    page.reload()
    ready(page)
    assert page.evaluate(background) == light


def test_numbers_that_are_none_are_told_of_below_them(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys)
    limit = page.locator("#rows").get_by_label("False calls at most")
    limit.fill("90")
    expect(page.locator("#limit-problem")).to_have_text("A number from 0.1 to 50.")
    expect(limit).to_have_attribute("aria-invalid", "true")
    limit.fill("20")
    expect(page.locator("#limit-problem")).to_be_empty()
    page.locator("#which").select_option("digits 1")
    ready(page)
    page.locator("#samples [name=seed]").fill("-1")
    expect(page.locator("#seed-problem")).to_have_text("A whole number from 0 to 4,294,967,295.")


def test_labels_are_clicked_saved_and_loaded(
    open_page: Open, toys: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved files are those that `lowerbound threshold` reads."""
    page = open_page(toys)
    rows = page.locator("#rows")
    page.get_by_label("Rows as CSV").fill(PAYMENTS)
    expect(rows.locator(".ranked tbody > tr:not(.opened)")).to_have_count(12)
    expect(page.get_by_label("Rows are named by")).to_have_value("payment")
    expect(rows.get_by_role("button", name="payment")).to_be_visible()  # The rows' names are shown.
    for label, row in (("anomaly", 12), ("anomaly", 11), ("normal", 1), ("normal", 2), ("normal", 3), ("normal", 3)):
        rows.get_by_role("button", name=f"{label}, row {row}", exact=True).click()
    expect(rows.locator(".tally")).to_contain_text("4 rows are labelled, 2 as anomalies.")
    rows.locator("thead").get_by_role("button", name="age").focus()
    for key in ("Tab", "Tab", "Home", "ArrowDown", "ArrowRight", "Space"):  # All rows are one stop.
        page.keyboard.press(key)
    second = rows.locator(".ranked tbody > tr:not(.opened)").nth(1).locator(".label button").first
    expect(second).to_be_focused()
    page.keyboard.press("Space")
    for name, button in (("labels.csv", "Save the labels"), ("scores.csv", "Download the scored rows")):
        with page.expect_download() as download:
            rows.get_by_role("button", name=button).click()
        download.value.save_as(tmp_path / name)
    saved = (tmp_path / "labels.csv").read_text()
    assert saved.split() == ["payment,label", "x0,normal", "x1,normal", "x10,anomaly", "x11,anomaly"]
    threshold([str(tmp_path / "scores.csv"), str(tmp_path / "labels.csv"), "--key", "payment"])
    printed = capsys.readouterr().out
    assert "4 of 12 rows are labelled, 2 of them as anomalies" in printed
    assert "precision 1.00 (2 of 2), recall 1.00 (2 of 2); calls 2 of all rows" in printed
    expect(rows.locator(".threshold")).to_contain_text("have precision 100 % (2 of 2) and recall 100 % (2 of 2)")
    expect(rows.locator(".threshold")).to_contain_text("and call 2 of all rows.")

    page.get_by_label("Rows as CSV").fill(PAYMENTS.replace("x11,", "y11,"))
    expect(rows.locator(".tally")).to_be_empty()
    loading = rows.get_by_label("Load labels")
    loading.set_input_files(str(tmp_path / "labels.csv"))
    expect(page.locator("#labels-problem")).to_have_text("1 of 4 labels name no row here: x11.")
    expect(rows.locator(".tally")).to_contain_text("3 rows are labelled, 1 as an anomaly.")
    expect(rows.get_by_role("button", name="anomaly, row 11")).to_have_attribute("aria-pressed", "true")
    wrong = {"name": "labels.csv", "mimeType": "text/csv", "buffer": b"row,label\n1,odd\n"}
    loading.set_input_files(wrong)
    expect(page.locator("#labels-problem")).to_have_text('The label "odd" is neither normal nor anomaly.')
    loading.set_input_files(wrong | {"buffer": b"row,label\n2,anomaly\n"})
    expect(page.get_by_label("Rows are named by")).to_have_value("row")
    expect(rows.get_by_role("button", name="anomaly, row 2")).to_have_attribute("aria-pressed", "true")


def test_two_models_are_compared_on_the_same_rows(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys)
    compare = page.locator("#compare")
    other = compare.get_by_label("Other model")
    other.select_option("plain 1")
    expect(compare.locator(".verdict")).to_have_text(
        "people 1 and plain 1: The rank correlation over 40 rows is 1.000; 1 is the same order."
    )
    assert page.url.endswith("&with=plain%2F1")
    expect(compare.locator("tbody tr")).to_have_count(10)
    # The strangest of the rows that both have at the same place come first.
    assert compare.locator("tbody tr > :nth-child(2)").all_inner_texts() == [str(i) for i in range(1, 11)]
    page.get_by_label("Rows as CSV").fill(PAYMENTS + "x12,red,old\n")
    expect(compare.locator(".verdict")).to_contain_text("over 12 rows")
    expect(compare.locator("thead")).to_contain_text("payment")
    assert violations(page) == []
    page.reload()
    ready(page)
    expect(compare.locator(".verdict")).to_contain_text("over 40 rows")
    other.select_option("digits 1")
    expect(page.locator("#other-problem")).to_have_text("digits 1 is a model of pictures.")
    expect(compare.locator(".result")).to_be_hidden()
    module = "import(new URL('explorer/lib/ranks.js', document.baseURI))"
    a, b = np.random.default_rng(0).integers(0, 9, (2, 60)).tolist()
    found = page.evaluate(
        f"async ([a, b]) => {{ const {{ places, correlation }} = await {module};"
        "return correlation(places(a), places(b)); }",
        [a, b],
    )
    assert found == pytest.approx(spearmanr(a, b).statistic)


def test_two_models_are_compared_on_the_same_pictures(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys)
    page.locator("#which").select_option("colours 1")
    compare = page.locator("#compare")
    compare.get_by_label("Other model").select_option("shades 1")
    verdict = "colours 1 and shades 1: The rank correlation over 12 pictures is 1.000; 1 is the same order."
    expect(compare.locator(".verdict")).to_have_text(verdict)
    expect(compare.locator("tbody tr")).to_have_count(10)
    expect(compare.locator("tbody canvas")).to_have_count(10)
    expect(compare.locator("thead")).to_contain_text("Place, shades 1")
    page.locator("#pictures").get_by_role("button", name="Inverted").click()
    expect(compare.locator(".verdict")).to_contain_text("over 13 pictures")
    assert violations(page) == []
    problem = page.locator("#other-problem")
    compare.get_by_label("Other model").select_option("digits 1")
    expect(problem).to_have_text("digits 1 takes pictures of 8 × 8, and these are 4 × 6 × 3.")
    compare.get_by_label("Other model").select_option("people 1")
    expect(problem).to_have_text("people 1 is a model of rows.")
    expect(compare.locator(".result")).to_be_hidden()
    converted = page.evaluate(
        """async () => {
            const { inUnitsOf } = await import(new URL("explorer/lib/pictures.js", document.baseURI));
            const input = { kind: "image", shape: [1, 3], low: 0, high: 16, dtype: "uint8" };
            const convert = inUnitsOf({ shape: [1, 3], low: -1, high: 1 }, { input, manifest: {} });
            return [...convert(new Float32Array([-1, 0.1, 1]))];
        }"""
    )
    assert converted == [0, 9, 16]


def test_charts_are_enlarged(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits, viewport={"width": 1280, "height": 900})
    dialog = page.get_by_role("dialog", name="Enlarged")
    for place, shown in (("#pictures .triptych", "canvas"), ("#pictures .detail > .chart", "svg")):
        before = page.locator(place).locator(shown).first.bounding_box()
        page.locator(place).get_by_role("button", name="Enlarge").first.click()
        after = dialog.locator(shown).bounding_box()
        assert before
        assert after
        assert after["width"] > 1.3 * before["width"]
        assert after["height"] < 900
        # Bars beside a picture would look like a part of it.
        assert dialog.locator(shown).evaluate("shown => getComputedStyle(shown).backgroundColor") == "rgba(0, 0, 0, 0)"
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
    page.get_by_text("Calibration", exact=True).click()
    page.locator("#model .card details[open]").get_by_role("button", name="Enlarge").first.press("Enter")
    expect(dialog.locator("img")).to_be_visible()
    assert violations(page) == []
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_the_card_is_one_click_away(visit: Callable[..., Visit], digits: httpx.Client, closed: httpx.Client) -> None:
    page = visit(digits).page
    ready(page)
    with page.expect_popup() as popup:
        page.get_by_role("link", name="The model's card").click()
    expect(popup.value.locator("h1")).to_be_visible()
    assert popup.value.url.endswith("/models/digits/versions/1/model/card")
    keyed = visit(closed, allowed=("401",)).page
    keyed.get_by_label("API key").fill(KEY)
    keyed.keyboard.press("Enter")
    ready(keyed)
    with keyed.expect_download() as download:  # No link carries a key.
        keyed.get_by_role("link", name="The model's card").click()
    assert download.value.suggested_filename == "digits-card.html"
    assert "<h1" in Path(download.value.path()).read_text()


def test_dropped_rows_and_their_faults(open_page: Open, toys: httpx.Client) -> None:
    """A fault of a file is told of below the place where it was dropped, not below the text."""
    page = open_page(toys)
    drop(page, "#rows .drop", "rows.csv", b"height\n3\n")
    expect(page.locator("#file-problem")).to_contain_text("The first line must name the model's columns")
    expect(page.locator("#text-problem")).to_be_empty()
    expect(page.locator("#rows .result")).to_be_hidden()


def test_a_narrow_window_shows_whole_rows_and_one_line_of_controls(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys, viewport={"width": 320, "height": 700})
    page.get_by_label("Rows as CSV").fill('age,colour\n-1234567.125,"blue, or so"\n')
    expect(page.locator("#rows .ranked tbody > tr:not(.opened)")).to_have_count(1)
    page.locator("#rows tbody").get_by_role("button", name="1", exact=True).click()
    cells, room = (page.locator(f"#rows {name}").bounding_box() for name in (".cells", ".explanation"))
    assert cells
    assert room
    assert cells["width"] <= room["width"] <= 320
    page.locator("#rows .scroll").evaluate("box => { box.scrollLeft = 400; }")
    page.get_by_label("Rows as CSV").fill("age,colour\nx,red\n1,red\n")
    expect(page.get_by_text("age: 'x' is not a number")).to_be_visible()
    assert page.locator("#rows .scroll").evaluate("box => box.scrollLeft") == 0
    page.locator("#which").select_option("colours 1")
    expect(page.locator("#title")).to_have_text("colours")
    ready(page)
    boxes = [page.locator(name).bounding_box() for name in (".brand", "#which", "#theme")]
    middles = [box["y"] + box["height"] / 2 for box in boxes if box]
    assert len(middles) == 3
    assert max(middles) - min(middles) < 4
    assert page.evaluate("document.documentElement.scrollWidth") <= 320

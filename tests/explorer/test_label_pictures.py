"""Pictures are labelled by clicks, the labels are saved, loaded and read by the commands, and give a threshold."""

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from service.commands.threshold import main as threshold
from service.readers.labels import read_anomalies
from service.scoring import lowest_threshold
from tests.explorer.conftest import Open
from tests.explorer.pictures import file, png, sample
from tests.service.http_client import Array, npy, send_request

STRANGE = (1, 4)


@pytest.fixture(scope="module")
def levels(digits: httpx.Client) -> Array:
    """Six pictures, two of them strange."""
    pictures = np.rint(np.clip(sample(digits, n=6)["instances"], 0, 16)).astype(np.uint8)
    pictures[STRANGE, :] = np.random.default_rng(3).integers(0, 17, (2, 8, 8), dtype=np.uint8)
    return pictures


@pytest.fixture
def panel(open_page: Open, digits: httpx.Client) -> Locator:
    return open_page(digits, allowed=("400 (Bad Request)",)).locator("#pictures")  # Files that are none.


def bring(panel: Locator, *files: dict[str, Any]) -> None:
    panel.get_by_label("Choose files").set_input_files(list(files))  # type: ignore[arg-type]
    expect(panel.locator(".name")).to_have_text(re.compile(r"^(p\d|new)"))
    expect(panel.locator(".tally")).to_be_empty()


def as_files(levels: Array) -> list[dict[str, Any]]:
    return [file(f"p{i}.png", png(np.round(one * (255 / 16)).astype(np.uint8))) for i, one in enumerate(levels)]


def mark(panel: Locator, label: str) -> None:
    panel.get_by_role("group", name="What is it?").get_by_role("button", name=label).press("Enter")


def save(page: Page, button: str, path: Path) -> Path:
    with page.expect_download() as download:
        page.locator("#pictures").get_by_role("button", name=button).click()
    download.value.save_as(path)
    return path


def test_the_next_picture_follows_the_label_of_one(panel: Locator, digits: httpx.Client, levels: Array) -> None:
    bring(panel, *as_files(levels))
    order = np.argsort(-send_request(digits, "/elbo", levels, binary=True)["score"], kind="stable")
    tiles = panel.locator(".grid button")
    anomaly = panel.get_by_role("group", name="What is it?").get_by_role("button", name="anomaly")
    expect(panel.locator(".wanted")).to_be_hidden()
    for i, place in enumerate(order[:2]):
        expect(panel.locator(".name")).to_have_text(f"p{place}.png")
        mark(panel, "anomaly")
        expect(tiles.nth(i).locator(".mark")).to_have_text("anomaly")
    expect(panel.locator(".name")).to_have_text(f"p{order[2]}.png")
    expect(anomaly).to_be_focused()
    expect(anomaly).to_have_attribute("aria-pressed", "false")
    mark(panel, "normal")
    expect(panel.locator(".name")).to_have_text(f"p{order[3]}.png")
    tiles.nth(2).click()
    expect(panel.locator(".name")).to_have_text(f"p{order[2]}.png")
    mark(panel, "anomaly")  # Another label, or none, leaves the picture open.
    expect(tiles.nth(2)).to_have_attribute(
        "aria-label",
        f"{tiles.nth(2).get_attribute('data-name')}, stranger than "
        f"{tiles.nth(2).locator('.p').first.inner_text()}, labelled anomaly",
    )
    mark(panel, "anomaly")
    expect(tiles.nth(2).locator(".mark")).to_be_empty()
    expect(panel.locator(".name")).to_have_text(f"p{order[2]}.png")
    expect(panel.locator(".tally")).to_contain_text(
        "2 pictures are labelled, 2 as anomalies. Of the 2 called among them"
    )
    mark(panel, "normal")
    expect(panel.locator(".name")).to_have_text(f"p{order[3]}.png")
    panel.get_by_role("button", name="Turned").click()
    expect(panel.locator(".name")).to_have_text(f"p{order[3]}.png, turned")
    expect(panel.get_by_role("group", name="What is it?").get_by_role("button")).to_have_count(0)  # None of the user's.
    expect(tiles.filter(has_text="anomaly")).to_have_count(2)


def test_other_pictures_have_no_buttons_of_those_before(panel: Locator, levels: Array) -> None:
    bring(panel, *as_files(levels))
    panel.page.route("**/elbo?*explain=true*", lambda _: None)
    panel.get_by_label("Choose files").set_input_files(file("new.npy", npy(levels[:4])))
    expect(panel.locator(".judged")).to_contain_text("of 4 pictures")
    expect(panel.get_by_role("group", name="What is it?").get_by_role("button")).to_have_count(0)


def test_a_double_click_labels_one_picture(panel: Locator, levels: Array) -> None:
    bring(panel, *as_files(levels))
    panel.get_by_role("group", name="What is it?").get_by_role("button", name="anomaly").dblclick()
    expect(panel.locator(".tally")).to_contain_text("1 picture is labelled, 1 as an anomaly.")
    panel.page.wait_for_load_state("networkidle")
    expect(panel.locator(".tally")).to_contain_text("1 picture is labelled")


def test_labels_are_saved_and_loaded_by_file(
    panel: Locator, levels: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the page saves is what the commands read, and the other way round."""
    bring(panel, *as_files(levels))
    expect(panel.get_by_label("Pictures are named by")).to_have_value("file")
    for label in ("anomaly", "anomaly", "normal"):
        name = panel.locator(".name").inner_text()
        mark(panel, label)
        expect(panel.locator(".name")).not_to_have_text(name)
    labels = save(panel.page, "Save the labels", tmp_path / "labels.csv")
    scores = save(panel.page, "Download the scores", tmp_path / "scores.csv")
    key, anomalies = read_anomalies(labels)
    assert (key, sorted(anomalies)) == ("file", [f"p{i}.png" for i in STRANGE])
    assert sorted(read_anomalies(scores)[1]) == sorted(anomalies)
    threshold([str(scores), str(labels), "--key", "file"])
    printed = capsys.readouterr().out
    assert "3 of 6 rows are labelled, 2 of them as anomalies" in printed
    assert "precision 1.00 (2 of 2), recall 1.00 (2 of 2); calls 2 of all rows" in printed
    expect(panel.locator(".threshold")).to_contain_text(
        "on have precision 100 % (2 of 2) and recall 100 % (2 of 2) on these labels, and call 2 of all pictures."
    )
    bring(panel, *as_files(levels))
    expect(panel.locator(".tally")).to_be_empty()
    loading, problem = panel.get_by_label("Load labels"), panel.page.locator("#picture-labels-problem")
    loading.set_input_files(file("labels.csv", b"file,label\nnew/p1.png,anomaly\nnew/q.png,normal\np2.png,\n"))
    expect(problem).to_have_text("1 of 2 labels name no picture here: new/q.png.")
    expect(panel.locator(".tally")).to_contain_text("1 picture is labelled, 1 as an anomaly.")
    expect(panel.locator("[data-name='p1.png'] .mark")).to_have_text("anomaly")
    loading.set_input_files(file("labels.csv", b"id,label\n1,anomaly\n"))
    expect(problem).to_contain_text("labels.csv names pictures by id, which the pictures here do not have")


def test_a_dropped_folder_names_pictures_as_the_commands_do(panel: Locator, levels: Array, tmp_path: Path) -> None:
    for i, picture in enumerate(as_files(levels)):
        path = tmp_path / "new" / ("b" if i < 2 else "a") / picture["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture["buffer"])
    (tmp_path / "new" / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / "new" / "notes.txt").write_bytes(b"no picture")
    zone = panel.locator(".drop")
    zone.scroll_into_view_if_needed()
    box = zone.bounding_box()
    assert box
    devtools = panel.page.context.new_cdp_session(panel.page)
    data = {"items": [], "files": [str(tmp_path / "new")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data})
    expect(panel.locator("#pictures-problem")).to_contain_text("new/notes.txt: is no PNG")
    expect(panel.locator(".name")).to_have_text(re.compile(r"^new/[ab]/p\d.png$"))
    expect(panel.locator("#pictures-problem")).not_to_contain_text(".DS_Store")
    expect(panel.locator(".grid button")).to_have_count(len(levels))


def test_pictures_of_an_array_are_labelled_by_their_row(panel: Locator, levels: Array, tmp_path: Path) -> None:
    bring(panel, file("new.npy", npy(levels)))
    expect(panel.get_by_label("Pictures are named by")).to_have_value("row")
    name = panel.locator(".name").inner_text()
    mark(panel, "anomaly")
    expect(panel.locator(".name")).not_to_have_text(name)
    labels = save(panel.page, "Save the labels", tmp_path / "labels.csv")
    assert read_anomalies(labels) == ("row", [name.removeprefix("new.npy, row ")])
    assert (
        save(panel.page, "Download the scores", tmp_path / "scores.csv")
        .read_text()
        .startswith("file,row,score,p_value,called,label")
    )


def test_thresholds_are_those_of_the_command(page: Page) -> None:
    rng = np.random.default_rng(0)
    module = "import(new URL('explorer/lib/thresholds.js', document.baseURI))"
    for precision in [0.7] * 60 + [0.55]:
        scores, anomalous = rng.integers(0, 6, 12).astype(float), rng.random(12) < 0.5
        scores[rng.random(12) < 0.1] = np.inf
        if precision == 0.55:
            scores, anomalous = np.zeros(20), np.arange(20) < 11
        given = [[None if np.isinf(s) else s, bool(a)] for s, a in zip(scores, anomalous, strict=True)]
        best = page.evaluate(
            f"async ([given, precision]) => {{ const {{ lowestThreshold }} = await {module};"
            "const labelled = given.map(([rank, anomalous]) => ({ rank: rank ?? Infinity, anomalous }));"
            "const best = lowestThreshold(labelled, precision);"
            "return best && [best.score === Infinity ? null : best.score, best.hits, best.called]; }",
            [given, precision],
        )
        found = lowest_threshold(scores, anomalous, precision)
        assert best == (found and [None if np.isinf(found.score) else found.score, found.hits, found.called])

"""The panel that scores pictures: what it shows is what `POST /elbo` answers, to the pixel."""

import csv
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.explorer.conftest import Open, assert_shows, drop, pixels
from tests.explorer.pictures import coloured, file, number, png, sample, shown
from tests.service.http_client import Array, npy, send_request


def assert_marked(page: Page, score: float) -> None:
    """The calibration chart soon marks this score."""
    marked = page.locator("#pictures .marked")
    expect(marked).to_contain_text(
        f"{float(f'{score:.4g}'):,.5g}" if abs(score) < 1e5 else f"{float(f'{score:.4g}'):,.0f}"
    )


def test_a_dropped_picture_is_scored_and_taken_apart(open_page: Open, digits: httpx.Client, strange: Array) -> None:
    page = open_page(digits)
    panel = page.locator("#pictures")
    drop(page, "#pictures .drop", "strange.png", png(np.round(strange * (255 / 16)).astype(np.uint8)))
    expect(panel.locator(".name")).to_have_text("strange.png")
    bounds = send_request(digits, "/elbo", strange[None], binary=True, explain=True)
    assert_shows(panel.locator("canvas.sent"), coloured(np.round(strange * (255 / 16))))
    expect(panel.locator(".bounds")).to_be_hidden()
    panel.get_by_text("In numbers").click()
    mean = send_request(digits, "/encode", strange[None], binary=True)["mean"]
    assert_shows(panel.locator("canvas.expected"), shown(digits, mean)[0])
    by_pixel = bounds["feature_log_likelihood"][0]
    for name, expected in ((".low", by_pixel.min()), (".high", by_pixel.max())):
        assert number(panel.locator(name).inner_text()) == pytest.approx(expected, abs=0.05)
    glow = pixels(panel.locator("canvas.unlikely")).astype(int).sum(2)
    assert glow.flat[by_pixel.argmin()] == glow.max()
    assert glow.flat[by_pixel.argmax()] == glow.min()
    assert bounds["p_value"][0] == 1 / 360
    expect(panel.locator(".verdict")).to_have_text("Stranger than all 359 held-out pictures.")
    expect(panel.locator(".p-value")).to_have_text("p = 0.0028.")
    assert_marked(page, bounds["score"][0])
    expect(panel.locator(".marked")).to_contain_text("→")
    table = panel.locator(".bounds tbody td").all_inner_texts()
    assert [number(text) for text in table] == pytest.approx(
        [bounds[name][0] for name in ("elbo", "log_likelihood", "kl")], abs=0.05
    )
    latents = panel.locator(".latents li span:last-child").all_inner_texts()
    assert [number(text) for text in latents] == pytest.approx(np.sort(bounds["latent_kl"][0])[::-1][:8], abs=0.005)


def test_refinement_shows_what_it_changes(open_page: Open, digits: httpx.Client, strange: Array) -> None:
    page = open_page(digits)
    panel = page.locator("#pictures")
    panel.get_by_label("Choose files").set_input_files(file("strange.npy", npy(strange)))
    expect(panel.locator(".name")).to_have_text("strange.npy")
    panel.get_by_text("In numbers").click()
    panel.get_by_label("Refine").select_option("5 steps")
    expect(panel.locator(".bounds thead th")).to_have_text(["nats", "refined", "change"])
    before = send_request(digits, "/elbo", strange[None], binary=True)
    after = send_request(digits, "/elbo", strange[None], binary=True, refine=5)
    texts = panel.locator(".bounds tbody td").all_inner_texts()
    cells = np.array([number(text) for text in texts]).reshape(3, 3)
    for row, name in zip(cells, ("elbo", "log_likelihood", "kl"), strict=True):
        np.testing.assert_allclose(row, [before[name][0], after[name][0], after[name][0] - before[name][0]], atol=0.051)
    assert f"Regret {after['regret'][0]:.2f} nats" in panel.locator(".regret").inner_text()
    panel.get_by_label("Refine").select_option("not at all")
    expect(panel.locator(".bounds thead th")).to_have_text(["nats"])


@pytest.mark.parametrize("score", ["typicality", "multiscale_residual", "regret"])
def test_every_score_can_be_asked_for(page: Page, digits: httpx.Client, strange: Array, score: str) -> None:
    panel = page.locator("#pictures")
    panel.get_by_label("Choose files").set_input_files(file("strange.npy", npy(strange)))
    expect(panel.locator(".name")).to_have_text("strange.npy")
    panel.get_by_label("Score").select_option(score)
    expected = send_request(digits, "/elbo", strange[None], binary=True, score=score)
    assert_marked(page, expected["score"][0])
    label = panel.locator(".distribution").get_attribute("aria-label")
    assert label is not None
    assert label.startswith(f"Held-out {score.replace('_', ' ')} with a median of ")
    panel.get_by_label("Score").select_option("negative_elbo")


def test_many_pictures_are_ranked(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits)
    panel = page.locator("#pictures")
    many = np.random.default_rng(5).integers(0, 17, (230, 8, 8), dtype=np.uint8)
    many[7] = np.rint(np.clip(sample(digits, n=1)["instances"][0], 0, 16))
    panel.get_by_label("Choose files").set_input_files(file("many.npy", npy(many)))
    expect(panel.locator(".note")).to_contain_text("The strangest 200 of 230 are shown.")
    scores = send_request(digits, "/elbo", many, binary=True)["score"]
    expected = [
        f"many.npy, row {i + 1}, stranger than 99.72 %, called" for i in np.argsort(-scores, kind="stable")[:200]
    ]
    names = panel.locator(".grid button").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert names == expected
    expect(panel.locator(".name")).to_have_text(names[0].split(", stranger")[0])
    panel.get_by_role("button", name=names[3], exact=True).click()
    expect(panel.locator(".name")).to_have_text(names[3].split(", stranger")[0])


def test_scored_pictures_are_one_tab_stop_above_the_one_taken_apart(open_page: Open, digits: httpx.Client) -> None:
    """However many there are, the one taken apart is not far below them."""
    page = open_page(digits, viewport={"width": 1280, "height": 900})
    panel = page.locator("#pictures")
    noise = np.random.default_rng(5).integers(0, 17, (150, 8, 8), dtype=np.uint8)
    panel.get_by_label("Choose files").set_input_files(file("many.npy", npy(noise)))
    expect(panel.locator(".judged")).to_contain_text("150 of 150 pictures are called anomalous;")
    gallery = panel.locator(".grid").bounding_box()
    assert gallery
    assert gallery["height"] < 420
    panel.locator(".grid button").first.focus()
    for key in ("End", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    last = panel.locator(".grid button").nth(148)
    expect(last).to_be_focused()
    expect(last).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    expect(panel.get_by_role("button", name="Download the scores")).to_be_focused()


def test_the_scores_of_pictures_can_be_downloaded(page: Page, digits: httpx.Client, strange: Array) -> None:
    panel = page.locator("#pictures")
    usual = np.rint(np.clip(sample(digits, n=1)["instances"][0], 0, 16)).astype(np.uint8)
    panel.get_by_label("Choose files").set_input_files([file("a.npy", npy(usual)), file("b.npy", npy(strange))])
    expect(panel.locator(".name")).to_have_text("b.npy")
    with page.expect_download() as download:
        panel.get_by_role("button", name="Download the scores").click()
    assert download.value.suggested_filename == "digits-scores.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    answer = send_request(digits, "/elbo", np.stack([strange, usual]), binary=True)
    assert [row["file"] for row in rows] == ["b.npy", "a.npy"]
    for name in ("score", "p_value"):
        assert [float(row[name]) for row in rows] == answer[name].tolist()
    assert [row["called"] for row in rows] == ["true", "false"]


def test_pictures_are_called_by_the_rule_that_is_chosen(page: Page, digits: httpx.Client, strange: Array) -> None:
    panel = page.locator("#pictures")
    usual = np.rint(np.clip(sample(digits, n=3)["instances"], 0, 16)).astype(np.uint8)
    panel.get_by_label("Choose files").set_input_files(file("some.npy", npy(np.concatenate([usual, strange[None]]))))
    judged, called = panel.locator(".judged"), panel.locator(".grid .strange")
    expect(judged).to_contain_text(
        "1 of 4 pictures are called anomalous; on average at most 10 % of such calls are wrong."
    )
    expect(called).to_have_count(1)
    panel.get_by_label("False calls at most").fill("1")
    expect(judged).to_have_text(
        "0 of 4 pictures are called anomalous: with 359 held-out pictures no p-value is below 0.0028; at q = 0.01 and "
        "4 pictures at least 2 pictures must be that strange, and 1 is."
    )
    expect(called).to_have_count(0)
    panel.get_by_label("False calls at most").fill("0.1")
    expect(judged).to_contain_text(
        "at q = 0.001 no picture can be called: it takes a larger q or more held-out pictures."
    )
    panel.get_by_label("Call anomalous").select_option("the strangest pictures")
    panel.get_by_label("Pictures", exact=True).fill("2")
    expect(judged).to_contain_text("The 2 strangest of 4 pictures; the last of them is stranger than ")
    expect(called).to_have_count(2)
    expect(panel.locator("[aria-pressed=true]")).to_have_count(1)
    panel.get_by_label("Call anomalous").select_option("pictures below a p-value")
    expect(judged).to_contain_text("1 of 4 pictures are called anomalous; of as many usual pictures about 0 would be.")
    panel.get_by_label("Call anomalous").select_option("so many that few calls are false")
    panel.get_by_label("False calls at most").fill("10")


def test_files_are_read_without_the_verdict_of_others(open_page: Open, digits: httpx.Client, strange: Array) -> None:
    page = open_page(digits)
    panel = page.locator("#pictures")
    page.route("**/instances", lambda _: None)
    panel.get_by_label("Choose files").set_input_files([file("a.npy", npy(strange)), file("b.npy", npy(strange))])
    expect(panel.locator(".note")).to_have_text("Reading 2 files …")
    expect(panel.locator(".result")).to_be_hidden()


@pytest.mark.parametrize(
    ("button", "altered"),
    [
        ("Turned", lambda x: x[::-1, ::-1]),
        ("Mirrored", lambda x: x[:, ::-1]),
        ("Inverted", lambda x: 16 - x),
        ("Blotted", lambda x: np.where(np.pad(np.ones((2, 2)), 3), 16, x)),
    ],
)
def test_alterations_are_what_they_say(
    page: Page, digits: httpx.Client, strange: Array, button: str, altered: Any
) -> None:
    panel = page.locator("#pictures")
    panel.get_by_label("Choose files").set_input_files(file("strange.npy", npy(strange)))
    expect(panel.locator(".name")).to_have_text("strange.npy")
    panel.get_by_role("button", name=button).click()
    expect(panel.locator(".name")).to_have_text(f"strange.npy, {button.lower()}")
    wanted = altered(strange)
    assert_shows(panel.locator("canvas.sent"), coloured(np.round(wanted * (255 / 16))))
    assert_marked(page, send_request(digits, "/elbo", wanted[None].astype(np.uint8), binary=True)["score"][0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.txt", b"not a picture", "notes.txt: is no PNG, JPEG, WebP, TIFF, BMP or GIF picture, and no IDX,"),
        ("cut.npy", npy(np.zeros((2, 8, 8), np.uint8))[:-1], "cut.npy: not a readable .npy array: 127 bytes of data"),
        ("odd.npy", npy(np.zeros((2, 8, 7))), "odd.npy: must have 8 values, not 7"),
        ("loud.npy", npy(np.full((8, 8), 17)), "loud.npy: 17 is outside [0, 16]"),
        ("wide.png", png(np.zeros((8, 9), np.uint8)), "wide.png: has 8 × 9 pixels (height × width), and the model's"),
        ("red.png", png(np.full((8, 8, 3), (9, 0, 0), np.uint8)), "red.png: has colours, and the model's pictures are"),
    ],
)
def test_a_wrong_file_is_told_of(page: Page, strange: Array, name: str, content: bytes, said: str) -> None:
    for panel, label, problem in (
        ("#pictures", "Choose files", "#pictures-problem"),
        ("#walk", "Begin with a file", "#end-a-problem"),
    ):
        alert = page.locator(problem)
        page.locator(panel).get_by_label(label).set_input_files(file(name, content))
        expect(alert).to_contain_text(said)
        if panel == "#pictures":
            expect(page.locator("#pictures .result")).to_be_hidden()  # No verdict of other pictures.
        page.locator(panel).get_by_label(label).set_input_files(file("good.npy", npy(strange)))
        expect(alert).to_be_empty()


def test_a_wrong_file_does_not_reject_the_others(page: Page, strange: Array) -> None:
    files = [file("notes.txt", b"no"), file("good.npy", npy(strange)), file("odd.npy", npy(np.zeros((2, 8, 7))))]
    page.locator("#pictures").get_by_label("Choose files").set_input_files(files)
    alert = page.locator("#pictures-problem")
    expect(alert).to_contain_text("notes.txt: is no PNG")
    expect(alert).to_contain_text("odd.npy: must have 8 values")
    expect(page.locator("#pictures .name")).to_have_text("good.npy")


def test_the_button_that_enlarges_covers_no_text(open_page: Open, digits: httpx.Client, strange: Array) -> None:
    page = open_page(digits, viewport={"width": 390, "height": 844})
    panel = page.locator("#pictures")
    panel.get_by_label("Choose files").set_input_files(file("strange.npy", npy(strange)))
    expect(panel.locator(".verdict")).to_contain_text("Stranger than all")
    chart = panel.locator(".chart").filter(has=page.locator(".distribution"))
    edges = "one => one.getBoundingClientRect().toJSON()"
    button = chart.get_by_role("button", name="Enlarge").evaluate(edges)
    for text in chart.locator("text").all():
        box = text.evaluate(edges)
        assert box["right"] <= button["left"] or box["top"] >= button["bottom"]


def test_the_marks_of_a_skewed_score_do_not_cover_each_other(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits, viewport={"width": 390, "height": 844})
    boxes = page.evaluate(
        """async () => {
            const { distribution } = await import(new URL("explorer/lib/charts.js", document.baseURI));
            const chart = document.querySelector("svg.distribution");
            distribution(chart, Array.from({ length: 101 }, (_, i) => 28 + 127 * (i / 100) ** 2.5), 90, "");
            return [...chart.querySelectorAll("text:not(.marked)")].map((one) => one.getBoundingClientRect().toJSON());
        }"""
    )
    assert len(boxes) == 6
    for line in (boxes[::2], boxes[1::2]):
        for left, right in pairwise(line):
            assert left["right"] < right["left"]

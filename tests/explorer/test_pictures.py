"""The panels of image models that show what they make: it is what the endpoints answer, to the pixel."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.explorer.conftest import Open, assert_shows, pixels
from tests.explorer.pictures import file, number, png, sample, shown
from tests.service.http_client import PNG, Array, npy, picture, post, send_request


def assert_samples(page: Page, expected: Array) -> None:
    for i, wanted in enumerate(expected):
        assert_shows(page.locator("#samples .grid canvas").nth(i), wanted)


# Samples


def test_samples_are_those_of_the_service(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits)
    panel = page.locator("#samples")
    expect(panel.locator("canvas")).to_have_count(48)
    assert_samples(page, shown(digits, sample(digits, n=48, seed=0)["latents"][:6]))
    panel.locator("[name=count]").select_option("24")
    panel.get_by_label("Temperature").fill("0.5")
    panel.get_by_role("button", name="Another seed").click()
    expect(panel.locator("canvas")).to_have_count(24)
    expect(panel.locator("output")).to_have_text("0.50")
    z = sample(digits, n=24, seed=1, temperature=0.5)["latents"]
    assert_samples(page, shown(digits, z[:6]))


def test_chosen_samples_go_where_they_are_sent(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits)
    panel = page.locator("#samples")
    actions = panel.get_by_role("group", name="With the chosen pictures")
    expect(actions.get_by_role("button", name="Score")).to_be_disabled()
    for name in ("Sample 20", "Sample 30", "Sample 31"):
        panel.get_by_role("button", name=name, exact=True).click()
    panel.get_by_role("button", name="Sample 30").click()  # And let go again.
    expect(panel.locator(".chosen")).to_have_text("2 chosen")
    z = sample(digits, n=48, seed=0)["latents"]
    actions.get_by_role("button", name="Score").click()
    expect(page.locator("#pictures .grid button")).to_have_count(2)
    expect(page.locator("#pictures .name")).to_have_text(
        "Sample 20" if strangest(digits, z[[19, 30]]) == 0 else "Sample 31"
    )
    expect(page.locator("#pictures h2")).to_be_focused()
    actions.get_by_role("button", name="Take the sliders there").click()
    actions.get_by_role("button", name="End the walk").click()
    expect(page.locator("[data-end=b] figcaption")).to_have_text("Sample 31")
    assert_shows(page.locator("canvas.now"), shown(digits, z[30:31])[0])
    assert_shows(page.locator(".strip canvas").last, shown(digits, z[30:31])[0])


def strangest(client: httpx.Client, z: Array) -> int:
    expected = send_request(client, "/decode", z, binary=True)["instances"]
    scores = send_request(client, "/elbo", np.rint(np.clip(expected, 0, 16)).astype(np.uint8), binary=True)["score"]
    return int(scores.argmax())


# Latents


def test_a_slider_moves_the_picture_to_what_decode_answers(page: Page, digits: httpx.Client) -> None:
    panel = page.locator("#latents")
    now = panel.locator("canvas.now")
    panel.get_by_role("button", name="To the prior's centre").click()
    z = np.zeros((1, 16), np.float32)
    assert_shows(now, shown(digits, z)[0])
    before = pixels(now)
    slider = panel.get_by_role("slider").first
    slider.fill("1.5")
    z[0, latent_of(slider)] = 1.5
    assert_shows(now, shown(digits, z)[0])
    assert not np.array_equal(pixels(now), before)
    slider.press("ArrowRight")
    z[0, latent_of(slider)] = 1.51
    assert_shows(now, shown(digits, z)[0])
    expect(panel.locator(".sliders output").first).to_have_text("1.51")


def latent_of(slider: Any) -> int:
    return int(slider.get_attribute("id").removeprefix("latent-"))


def test_the_most_active_latents_come_first(page: Page, digits: httpx.Client) -> None:
    probes = np.rint(np.clip(sample(digits, n=256, seed=0, temperature=1)["instances"], 0, 16)).astype(np.uint8)
    spread = send_request(digits, "/encode", probes, binary=True)["mean"].astype(np.float64).std(0)
    sliders = page.locator("#latents input[type=range]")
    assert [latent_of(sliders.nth(i)) for i in range(16)] == np.argsort(-spread).tolist()
    visible = page.locator("#latents .sliders li:visible")
    expect(visible).to_have_count(8)
    page.get_by_label("all latents").check()
    expect(visible).to_have_count(16)
    page.get_by_label("all latents").uncheck()


def test_the_map_is_drawn_and_followed(page: Page, digits: httpx.Client) -> None:
    panel = page.locator("#latents")
    panel.get_by_role("button", name="To the prior's centre").click()
    across, upwards = (int(panel.get_by_label(name).input_value()) for name in ("Across", "Upwards"))
    map_ = panel.locator("canvas.map")
    corner = np.zeros((1, 16), np.float32)
    corner[0, across], corner[0, upwards] = -3, 3
    wanted = shown(digits, corner)[0]
    for _ in range(200):
        drawn = map_.evaluate("c => [c.width, ...c.getContext('2d').getImageData(0, 0, 8, 8).data]")
        if np.array_equal(np.reshape(drawn[1:], (8, 8, 4))[..., :3], wanted):
            break
        page.wait_for_timeout(25)
    assert drawn[0] == 11 * 9
    np.testing.assert_array_equal(np.reshape(drawn[1:], (8, 8, 4))[..., :3], wanted)
    box = map_.bounding_box()
    assert box is not None
    map_.click(position={"x": box["width"] * 0.95, "y": box["height"] * 0.5})
    values = {
        name: number(panel.locator(f"label[for=latent-{i}] ~ output").inner_text())
        for name, i in (("x", across), ("y", upwards))
    }
    assert values["x"] == pytest.approx(2.97, abs=0.05)
    assert values["y"] == pytest.approx(0, abs=0.05)


# Walks


def test_a_walk_goes_from_picture_to_picture(open_page: Open, digits: httpx.Client, strange: Array) -> None:
    page = open_page(digits)
    panel = page.locator("#walk")
    panel.get_by_label("End with a file").set_input_files(file("end.npy", npy(strange)))
    expect(panel.locator("[data-end=b] figcaption")).to_have_text("end.npy")
    a = sample(digits, n=48, seed=0)["latents"][0]
    b = send_request(digits, "/encode", strange[None], binary=True)["mean"][0]
    steps = panel.locator(".strip canvas")
    straight = shown(digits, np.stack([a, (a + b) / 2, b]))
    for i, wanted in zip((0, 5, 10), straight, strict=True):
        assert_shows(steps.nth(i), wanted)
    panel.get_by_label("along the sphere").check()
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    middle = ((a + b) * np.sin(angle / 2) / np.sin(angle)).astype(np.float32)
    assert_shows(steps.nth(5), shown(digits, middle[None])[0], tolerance=1)  # Its last bits are another sine's.
    assert not np.array_equal(pixels(steps.nth(5)), straight[1])


# Other shapes


def test_colours_and_ranges_are_those_of_the_model(open_page: Open, toys: httpx.Client, tmp_path: Path) -> None:
    page = open_page(toys)
    page.locator("#which").select_option("colours 1")
    expect(page.locator("#subtitle")).to_have_text("A model of pictures of 4 × 6 pixels in 2 numbers.")
    expect(page.locator("#rows")).to_be_hidden()
    page.locator("#latents").get_by_role("slider").first.fill("0.37")
    page.locator("#latents").get_by_role("slider").nth(1).fill("-0.37")
    z = np.array([[0.37, -0.37]], np.float32)
    if latent_of(page.locator("#latents").get_by_role("slider").first):
        z = z[:, ::-1].copy()
    expected = picture(post(toys, "/models/colours/decode", z, PNG))
    assert_shows(page.locator("canvas.now"), expected)
    levels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    panel = page.locator("#pictures")
    panel.get_by_label("Choose files").set_input_files(file("levels.png", png(levels)))
    expect(panel.locator(".name")).to_have_text("levels.png")
    assert_shows(panel.locator("canvas.sent"), levels)
    x = (levels * (2 / 255) - 1).astype(np.float32)[None]
    bounds = send_request(toys, "/models/colours/elbo", x, binary=True, explain=True)
    panel.get_by_text("In numbers").click()
    low = bounds["feature_log_likelihood"][0].sum(2).min()
    assert number(panel.locator(".low").inner_text()) == pytest.approx(low, abs=0.05)
    expect(panel.locator(".refinement")).to_be_hidden()  # The bundle has no such graph.

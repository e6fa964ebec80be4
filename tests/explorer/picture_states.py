"""The states of the explorer that show pictures. Importing them adds them to all states."""

from typing import Any

from playwright.sync_api import Page, expect

from tests.explorer.states import STATES, Place, answer, state, visit

__all__ = ["STATES"]

NOTES = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no"}


def choose(page: Page, *files: dict[str, Any]) -> None:
    page.locator("#pictures").get_by_label("Choose files").set_input_files(list(files))  # type: ignore[arg-type]


@state
def pictures(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    return "body"


@state
def samples_chosen(page: Page, place: Place) -> str:
    visit(page, place, place.pictures, "&count=192&temperature=1.4")
    for i in (3, 4):
        page.locator("#samples .grid button").nth(i).click()
    page.locator("#samples [name=seed]").fill("-1")
    expect(page.locator("#seed-problem")).not_to_be_empty()
    return "#samples"


@state
def all_latents(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    page.get_by_label("all latents").check()
    return "#latents"


@state
def walk(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    page.get_by_label("End with a file").set_input_files(place.noise(1))  # type: ignore[arg-type]
    expect(page.locator("[data-end=b] figcaption")).to_have_text("noise.npy")
    page.get_by_label("Begin with a file").set_input_files(NOTES)  # type: ignore[arg-type]
    expect(page.locator("#end-a-problem")).not_to_be_empty()
    return "#walk"


@state
def picture(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    page.locator("#pictures").get_by_role("button", name="Inverted").click()
    expect(page.locator("#pictures .name")).to_contain_text("inverted")
    page.locator("#pictures").get_by_text("In numbers").click()
    page.get_by_label("Refine").select_option("5 steps")
    expect(page.locator(".regret")).not_to_be_empty()
    return "#pictures"


@state
def no_picture_callable(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    page.locator("#pictures").get_by_label("False calls at most").fill("0.1")
    expect(page.locator("#pictures .judged")).to_contain_text("no picture can be called")
    return "#pictures"


@state
def pictures_labelled(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    choose(page, place.noise(24))
    panel = page.locator("#pictures")
    for label in ("anomaly", "normal", "anomaly"):
        name = panel.locator(".name").inner_text()
        panel.locator(".marks").get_by_role("button", name=label).click()
        expect(panel.locator(".name")).not_to_have_text(name)
    panel.get_by_label("Anomalies wanted").fill("0")
    expect(page.locator("#picture-precision-problem")).not_to_be_empty()
    wrong = {"name": "labels.csv", "mimeType": "text/csv", "buffer": b"row,label\n99,anomaly\n"}
    panel.get_by_label("Load labels").set_input_files(wrong)  # type: ignore[arg-type]
    expect(page.locator("#picture-labels-problem")).to_contain_text("name no picture here")
    return "#pictures .work"


@state
def files_wrong(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    choose(page, place.noise(300), NOTES, NOTES | {"name": "a-rather-long-name-of-a-camera-2026-11-30T01:02:03.png"})
    expect(page.locator("#pictures-problem")).not_to_be_empty()
    return "#pictures"


@state
def pictures_under_way(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    answer(page, "**/elbo?*", 0, first=1, count=1)
    choose(page, place.noise(1_500))
    expect(page.locator("#pictures .progress")).to_contain_text("512 of 1,500")
    return "#pictures"


@state
def pictures_stopped(page: Page, place: Place) -> str:
    pictures_under_way(page, place)
    page.locator("#pictures").get_by_role("button", name="Stop").click()
    expect(page.locator("#pictures .note")).to_contain_text("Stopped after 512")
    return "#pictures"


@state
def pictures_refused(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    answer(page, "**/elbo?*", 504, "not within 30 s")
    page.locator("#pictures").get_by_role("button", name="Turned").click()
    expect(page.locator("#pictures > .work > [role=alert]")).not_to_be_empty()
    return "#pictures"


@state
def pictures_compared(page: Page, place: Place) -> str:
    visit(page, place, place.twins[0], f"&with={place.twins[1].replace(' ', '/')}")
    expect(page.locator("#compare .verdict")).not_to_be_empty()
    return "#compare"


@state
def enlarged(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    page.locator("#pictures .detail > .chart").get_by_role("button", name="Enlarge").click()
    return "#large"


@state
def about(page: Page, place: Place) -> str:
    visit(page, place, place.pictures)
    page.evaluate("for (const one of document.querySelectorAll('#model details')) one.open = true")
    return "#model"

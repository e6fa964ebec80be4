"""The states of the explorer, each with the way there: its tests and its pictures go through all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from playwright.sync_api import Page, Route, expect

from tests.explorer.conftest import ready
from tests.service.http_client import npy

WIDTHS = {375: 812, 768: 1024, 1440: 900}
THEMES = ("light", "dark")


@dataclass(frozen=True)
class Place:
    """The models of a server, each as `name version`.

    Attributes:
        url: Of the server.
        table: A model of a table that explains its rows.
        tables: Another that takes the same rows.
        pictures: A model of pictures of whole levels, with all graphs.
        twins: Two models that take the same pictures.
        shape: Of the pictures of `pictures`.
        levels: How many levels they have.
    """

    url: str
    table: str
    tables: str
    pictures: str
    twins: tuple[str, str]
    shape: tuple[int, ...] = (8, 8)
    levels: int = 17

    def noise(self, count: int) -> dict[str, Any]:
        """A file of so many pictures."""
        levels = np.random.default_rng(0).integers(0, self.levels, (count, *self.shape), dtype=np.uint8)
        return {"name": "noise.npy", "mimeType": "application/octet-stream", "buffer": npy(levels)}


Go = Callable[[Page, Place], str]
"""Leads to a state, and gives the selector of what shows it."""

STATES: dict[str, Go] = {}


def state(go: Go) -> Go:
    STATES[go.__name__] = go
    return go


def visit(page: Page, place: Place, model: str, more: str = "") -> None:
    name, version = model.split(" ")
    page.goto(f"{place.url}/?model={name}&version={version}{more}")
    ready(page)


def answer(page: Page, path: str, status: int, detail: str = "", *, first: int = 0, count: int = 1_000_000) -> None:
    """Answer so to `count` requests of a path after the first ones; status 0 is no answer."""
    seen = 0

    def reply(route: Route) -> None:
        nonlocal seen
        seen += 1
        if not first < seen <= first + count:
            route.continue_()
        elif status:
            headers = {"Retry-After": "9"} if status == 429 else {}
            route.fulfill(status=status, headers=headers, json={"detail": detail})

    page.route(path, reply)


def rows(page: Page, *more: str, times: int = 1) -> str:
    """The example rows so many times, each with a name, and other lines."""
    header, *lines = page.get_by_label("Rows as CSV").input_value().splitlines()
    named = [f"row-{i:05},{line}" for i, line in enumerate(lines * times, 1)]
    return "\n".join([f"name,{header}", *named, *more]) + "\n"


def bring(page: Page, text: str, name: str = "rows.csv") -> None:
    payload = {"name": name, "mimeType": "text/csv", "buffer": text.encode()}
    page.locator("#rows").get_by_label("Choose a CSV file").set_input_files(payload)  # type: ignore[arg-type]


def many(page: Page, place: Place) -> None:
    """Bring rows that take several requests."""
    visit(page, place, place.table)
    text = rows(page, times=50)
    answer(page, "**/elbo?*", 0, first=1)
    bring(page, text)
    expect(page.locator("#rows .progress")).to_contain_text("512 of 2,000")


# The page


@state
def loading(page: Page, place: Place) -> str:
    answer(page, "**/models", 0)
    page.goto(place.url)
    page.locator("main[aria-busy=true]").wait_for()
    return "body"


@state
def unreachable(page: Page, place: Place) -> str:
    page.route("**/models", lambda route: route.abort())
    page.goto(place.url)
    expect(page.locator("#failure")).not_to_be_empty()
    return "body"


@state
def not_served(page: Page, place: Place) -> str:
    visit(page, place, "ghosts 3")
    expect(page.locator("#failure")).not_to_be_empty()
    return ".intro, #failure"


@state
def unauthorised(page: Page, place: Place) -> str:
    answer(page, "**/models", 401)
    page.goto(place.url)
    page.get_by_label("API key").fill("some-key")
    page.keyboard.press("Enter")
    expect(page.locator("#key [role=alert]")).not_to_be_empty()
    return "#key"


# Tables


@state
def table(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    return "body"


@state
def row(page: Page, place: Place) -> str:
    visit(page, place, place.table, "&row=7")
    page.locator("#rows .explanation").get_by_text("In numbers").click()
    return "#rows .work"


@state
def rows_labelled(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    bring(page, rows(page))
    buttons = page.locator("#rows .ranked .label button")
    for i in (0, 2, 5):
        buttons.nth(i).click()
    expect(page.locator("#rows .tally")).to_contain_text("3 rows are labelled")
    expect(page.locator("#rows .threshold")).not_to_be_empty()
    wrong = {"name": "labels.csv", "mimeType": "text/csv", "buffer": b"name,label\nrow-00001,anomaly\nx,normal\n"}
    page.locator("#rows").get_by_label("Load labels").set_input_files(wrong)  # type: ignore[arg-type]
    expect(page.locator("#labels-problem")).to_contain_text("name no row here")
    return "#rows .work"


@state
def rows_with_problems(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    text = rows(page, "row-x,1,2,3,4,5,6,7,8,9", "row-y,word,word,word,word")
    page.get_by_label("Rows as CSV").fill(text)
    expect(page.locator("#rows .verdict")).to_contain_text("2 have a problem")
    return "#rows"


@state
def none_callable(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    page.locator("#rows").get_by_label("False calls at most").fill("0.1")
    expect(page.locator("#rows .verdict")).to_contain_text("no p-value is below")
    return "#rows"


@state
def strangest_called(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    page.locator("#rows").get_by_label("Call anomalous").select_option("count")
    expect(page.locator("#rows .verdict")).to_contain_text("The 10 strangest")
    page.locator("#rows").get_by_label("Rows", exact=True).fill("0")
    expect(page.locator("#limit-problem")).not_to_be_empty()
    return "#rows"


@state
def rows_wrong(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    page.get_by_label("Rows as CSV").fill("height\n3\n")
    expect(page.locator("#text-problem")).not_to_be_empty()
    return "#rows"


@state
def file_wrong(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    bring(page, "\x00", "a-rather-long-name-of-a-spreadsheet-of-the-first-quarter-2026.xlsx")
    expect(page.locator("#file-problem")).not_to_be_empty()
    return "#rows"


@state
def rows_refused(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    answer(page, "**/elbo?*", 503, "The model's engine does not answer; another one is being started.")
    page.locator("#rows .examples").click()
    expect(page.locator("#rows > .work > [role=alert]")).not_to_be_empty()
    return "#rows"


@state
def rows_under_way(page: Page, place: Place) -> str:
    many(page, place)
    return "#rows .work"


@state
def rows_stopped(page: Page, place: Place) -> str:
    many(page, place)
    page.locator("#rows").get_by_role("button", name="Stop").click()
    expect(page.locator("#rows .note")).to_contain_text("Stopped after")
    return "#rows .work"


@state
def rows_stopped_at_once(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    text = rows(page, times=50)
    answer(page, "**/elbo?*", 0)
    bring(page, text)
    page.locator("#rows").get_by_role("button", name="Stop").click()
    expect(page.locator("#rows > .work > [role=alert]")).not_to_be_empty()
    return "#rows .work"


@state
def service_busy(page: Page, place: Place) -> str:
    visit(page, place, place.table)
    text = rows(page, times=50)
    answer(page, "**/elbo?*", 429, "not now")
    bring(page, text)
    expect(page.locator("#rows .progress")).to_contain_text("the service is busy")
    return "#rows .work"


@state
def tables_compared(page: Page, place: Place) -> str:
    visit(page, place, place.table, f"&with={place.tables.replace(' ', '/')}")
    expect(page.locator("#compare .verdict")).not_to_be_empty()
    return "#compare"


@state
def other_kind_compared(page: Page, place: Place) -> str:
    visit(page, place, place.table, f"&with={place.pictures.replace(' ', '/')}")
    expect(page.locator("#other-problem")).not_to_be_empty()
    return "#compare"

"""Stop ends a long job at once, also while the service computes; a failed job can be tried again."""

from collections.abc import Callable

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from tests.explorer.conftest import Visit, drop, ready
from tests.service.http_client import npy

ROWS = ("age,colour\n" + "".join(f"{i % 17 / 8},red\n" for i in range(1_500))).encode()
PICTURES = npy(np.random.default_rng(0).integers(0, 17, (1_500, 8, 8), dtype=np.uint8))


def hold_after(page: Page, pieces: int) -> None:
    """Let so many pieces pass, and answer none of the others."""
    left = pieces

    def pass_or_hold(route: Route) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            route.continue_()

    page.route("**/elbo?*", pass_or_hold)


@pytest.fixture
def page(visit: Callable[..., Visit], toys: httpx.Client, request: pytest.FixtureRequest) -> Page:
    page = visit(toys, f"/?model={request.param}", allowed=("507",)).page
    ready(page)
    return page


def stop(page: Page, panel: str, done: int) -> None:
    """Stop a held job by the keyboard; the focus is not lost with the button."""
    progress = page.locator(f"{panel} .progress")
    expect(progress).to_contain_text(f"{done} of 1,500")
    with page.expect_event("requestfailed") as ended:
        progress.get_by_role("button", name="Stop").press("Enter")
    expect(progress).to_be_hidden()
    expect(page.locator(f"{panel} h2")).to_be_focused()
    assert ended.value.failure == "net::ERR_ABORTED"


@pytest.mark.parametrize("page", ["people"], indirect=True)
def test_rows_are_stopped_at_once(page: Page) -> None:
    hold_after(page, pieces=1)
    drop(page, "#rows .drop", "many.csv", ROWS)
    stop(page, "#rows", 512)
    expect(page.locator("#rows .note")).to_have_text("Stopped after 512 of 1,500 rows.")
    expect(page.locator("#rows .verdict")).to_contain_text("of 512 rows are called anomalous")
    drop(page, "#rows .drop", "many.csv", ROWS)
    stop(page, "#rows", 0)
    expect(page.locator("#rows > .work > [role=alert]")).to_have_text("Stopped before the first rows were scored.")
    expect(page.locator("#rows .result")).to_be_hidden()


@pytest.mark.parametrize("page", ["digits"], indirect=True)
def test_pictures_are_stopped_at_once(page: Page) -> None:
    hold_after(page, pieces=0)
    panel = page.locator("#pictures")
    panel.get_by_label("Choose files").set_input_files(
        {"name": "many.npy", "mimeType": "application/octet-stream", "buffer": PICTURES}
    )
    stop(page, "#pictures", 0)
    expect(panel.locator(".work > [role=alert]")).to_have_text("Stopped before the first pictures were scored.")
    expect(panel.locator(".result")).to_be_hidden()


@pytest.mark.parametrize("page", ["people"], indirect=True)
def test_a_comparison_is_stopped_at_once(page: Page) -> None:
    drop(page, "#rows .drop", "many.csv", ROWS)
    expect(page.locator("#rows .verdict")).to_contain_text("of 1,500 rows")
    hold_after(page, pieces=0)
    page.locator("#compare").get_by_label("Other model").select_option("plain 1")
    stop(page, "#compare", 0)
    expect(page.locator("#other-problem")).to_have_text("Stopped before the first rows were scored.")


@pytest.mark.parametrize("page", ["people"], indirect=True)
def test_newer_rows_end_the_request_of_older_ones(page: Page) -> None:
    page.route("**/elbo?*", lambda route: None, times=1)
    with page.expect_request("**/elbo?*"):
        drop(page, "#rows .drop", "many.csv", ROWS)
    with page.expect_event("requestfailed") as ended:
        drop(page, "#rows .drop", "few.csv", b"age,colour\n1,red\n")
    assert ended.value.failure == "net::ERR_ABORTED"
    expect(page.locator("#rows .verdict")).to_contain_text("of 1 row")


@pytest.mark.parametrize(("page", "panel"), [("people", "#rows"), ("digits", "#pictures")], indirect=["page"])
def test_what_failed_is_done_again(page: Page, panel: str) -> None:
    again = page.locator(panel).get_by_role("button", name="Try again")
    expect(again).to_be_hidden()
    page.route("**/elbo?*", lambda route: route.fulfill(status=507, json={"detail": "the memory has run out"}))
    page.locator(f"{panel} [name=score]").dispatch_event("change")
    expect(page.locator(f"{panel} > .work > [role=alert]")).to_have_text("The memory has run out")
    expect(page.locator(f"{panel} .result")).to_be_hidden()
    page.unroute_all()
    again.press("Enter")
    expect(page.locator(f"{panel} .result")).to_be_visible()
    expect(again).to_be_hidden()
    expect(page.locator(f"{panel} > .work > [role=alert]")).to_be_empty()
    expect(page.locator(f"{panel} h2")).to_be_focused()

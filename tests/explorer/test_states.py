"""Every state of the page, at three widths and in both themes: no barrier, and nothing beyond the window."""

import httpx
import pytest
from playwright.sync_api import Browser

from tests.explorer.picture_states import STATES
from tests.explorer.states import THEMES, WIDTHS, Place
from tests.explorer.test_page import violations

BEYOND = """() => {
    const scrolls = (one) => one && (getComputedStyle(one).overflowX !== "visible" || scrolls(one.parentElement));
    const width = document.documentElement.clientWidth;
    return [...document.querySelectorAll("main *, dialog *, header *")]
        .filter((one) => one.checkVisibility() && !one.matches(".which span") && !scrolls(one.parentElement))
        .filter((one) => one.getBoundingClientRect().right > width + 1 || one.getBoundingClientRect().left < -1)
        .map((one) => one.outerHTML.slice(0, 120));
}"""


@pytest.fixture(scope="module")
def place(toys: httpx.Client) -> Place:
    return Place(str(toys.base_url).rstrip("/"), "people 1", "plain 1", "digits 1", ("colours 1", "shades 1"))


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", STATES)
def test_no_barriers_in_any_state(browser: Browser, place: Place, name: str, width: int) -> None:
    for theme in THEMES:
        with browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=theme) as context:
            page = context.new_page()
            page.set_default_timeout(15_000)
            STATES[name](page, place)
            assert violations(page) == []
            assert page.evaluate(BEYOND) == []
            page.unroute_all(behavior="ignoreErrors")

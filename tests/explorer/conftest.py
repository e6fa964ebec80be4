"""A real browser, pages in it that are watched, and servers of digits, a table and colour pictures."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, expect, sync_playwright

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput, read_bundle, write_bundle
from service.storage import DEFAULT_REPOSITORY
from tests.conftest import Serve
from tests.service.http_client import Array
from tests.service.toy_bundles import COLOUR_GRAPHS, EXPLAIN_TABLE, TABLE_GRAPHS, bundle_files

COLOURS = ImageInput(shape=(4, 6, 3), dtype="float32", low=-1, high=1)
PEOPLE = TabularInput(
    columns=(NumericColumn(name="age"), CategoricalColumn(name="colour", categories=("red", "blue, or so")))
)


LEAN = ("--disable-gpu", "--disable-extensions", "--renderer-process-limit=1")
"""What these pages do not use takes a tenth of a browser's time."""

OWN_READING = "willReadFrequently"
"""What a browser says when these tests look at a canvas too often."""


@dataclass
class Visit:
    """A page, and all that a browser could complain about.

    Attributes:
        page: The page.
        origin: Whose requests are its own.
        allowed: Complaints, or parts of them, that the test brings about.
        complaints: All others.
        requests: The addresses that it asked for.
    """

    page: Page
    origin: str
    allowed: tuple[str, ...] = ()
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda said: self.complain(said.text) if said.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self.complain(str(error)))
        self.page.on("request", lambda request: self.requested(request.url))

    def complain(self, text: str) -> None:
        if not any(part in text for part in (*self.allowed, OWN_READING)):
            self.complaints.append(text)

    def requested(self, url: str) -> None:
        self.requests.append(url)
        address = urlsplit(url)
        if address.scheme not in {"data", "blob"} and f"{address.scheme}://{address.netloc}" != self.origin:
            self.complain(f"asked {url}")


expect.set_options(timeout=15_000)  # As for actions: on busy cores the first large body waits for a process to start.

Open = Callable[..., Page]


def installed_browser(playwright: Playwright) -> str:
    """Playwright's own Chromium, or else the system's: what `make test` sees to."""
    for path in (playwright.chromium.executable_path, *map(shutil.which, ("chromium", "chromium-browser"))):
        if path and Path(path).exists():
            return path
    return pytest.fail("there is no Chromium: run `make .venv/test/browser`")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each module: while it is there, nothing else may run an event loop."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=installed_browser(playwright), args=LEAN)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open a server's page; at the end of the test nothing may have been complained about."""
    visits: list[Visit] = []

    def start(client: httpx.Client, path: str = "/", allowed: tuple[str, ...] = (), **context: Any) -> Visit:
        url = client.base_url
        made = Visit(browser.new_context(**context).new_page(), f"{url.scheme}://{url.host}:{url.port}", allowed)
        visits.append(made)
        made.watch()
        made.page.set_default_timeout(15_000)
        made.page.goto(f"{made.origin}{path}")
        return made

    yield start
    for made in visits:
        made.page.context.close()
        assert made.complaints == []


@pytest.fixture
def open_page(visit: Callable[..., Visit]) -> Open:
    """The same, and wait until all panels show something."""

    def start(client: httpx.Client, **context: Any) -> Page:
        page: Page = visit(client, **context).page
        ready(page)
        return page

    return start


def ready(page: Page) -> None:
    """Wait until all panels show something."""
    page.locator("main[aria-busy=false]").wait_for()


@pytest.fixture(scope="session")
def toys(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server of a table, the same without an optional graph, colour pictures twice, and the digits."""
    folder = tmp_path_factory.mktemp("toys")
    rows = np.array([[1.5, 0.0], [np.nan, 1.0], [-2.0, np.nan]])
    write_bundle(folder, *bundle_files("people", PEOPLE, TABLE_GRAPHS | {"explain": EXPLAIN_TABLE}, rows))
    write_bundle(folder, *bundle_files("plain", PEOPLE, TABLE_GRAPHS, rows))
    pictures = np.linspace(-1, 1, 2 * 72, dtype=np.float32).reshape(2, 4, 6, 3)
    write_bundle(folder, *bundle_files("colours", COLOURS, COLOUR_GRAPHS, pictures))
    write_bundle(folder, *bundle_files("shades", COLOURS, COLOUR_GRAPHS, pictures))
    digits = read_bundle(DEFAULT_REPOSITORY / "digits" / "1")
    write_bundle(folder, digits.manifest, digits.files)
    with serve("--models", str(folder), "--default-model", "people", "--engine-threads", "1") as client:
        yield client


def pixels(canvas: Locator) -> Array:
    """The pixels of a canvas: uint8, shape (height, width, 3); all of it is opaque."""
    flat, width = canvas.evaluate(
        "c => [Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data), c.width]"
    )
    shown = np.array(flat, np.uint8).reshape(-1, width, 4)
    assert (shown[..., 3] == 255).all()
    return shown[..., :3]


def assert_shows(canvas: Locator, expected: Array, tolerance: int = 0) -> None:
    """The canvas soon shows these pixels."""
    for _ in range(200):
        shown = pixels(canvas)
        if shown.shape == expected.shape and np.abs(shown.astype(int) - expected).max() <= tolerance:
            return
        canvas.page.wait_for_timeout(25)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=tolerance)


def drop(page: Page, selector: str, name: str, content: bytes) -> None:
    """Let go of a file above an element."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [name, list(content)],
    )
    for event in ("dragover", "drop"):
        page.dispatch_event(selector, event, {"dataTransfer": transfer})


@pytest.fixture(scope="module")
def page(browser: Browser, digits: httpx.Client) -> Page:
    """A page of the digits, shared by tests that leave no trace in what others look at."""
    shared = browser.new_page()
    shared.set_default_timeout(15_000)
    shared.goto(str(digits.base_url))
    ready(shared)
    return shared


@pytest.fixture(scope="module")
def strange() -> Array:
    """A digit's pixels in another order, whole levels."""
    return np.random.default_rng(3).integers(0, 17, (8, 8), dtype=np.uint8)

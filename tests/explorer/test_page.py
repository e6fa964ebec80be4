"""The page as a whole: keys, prefixes, policies, keyboards, screen readers, themes, widths; and the model's panel."""

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from service.api.routes.explorer import FOLDER
from tests.conftest import Serve, run_server, samples
from tests.explorer.conftest import Open, Visit, ready

KEY = "key-of-the-tests-0123456789"
THEMES = ["light", pytest.param("dark", marks=pytest.mark.slow)]
WIDTHS = {360: 740, 820: 1180, 1600: 1000}

Start = Callable[..., Visit]


# What is served


def test_files_may_load_from_the_service_alone(digits: httpx.Client) -> None:
    names = [path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*")]
    assert {"index.html", "style.css", "app.js"} <= set(names)
    for path in ["/", *(f"/explorer/{name}" for name in names if name != "index.html")]:
        answer = digits.get(path).raise_for_status()
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' data:; ")
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-cache"
        again = digits.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        # Whoever forbids inline code has none, and works under any prefix only without absolute addresses.
        if path == "/":
            assert not re.search(r"<script(?! type=\"module\" src)|<style|\s(style|on\w+)=|(href|src)=\"/", answer.text)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text)


def test_there_is_no_way_to_other_files(digits: httpx.Client) -> None:
    for path in ("/explorer/", "/explorer/index.html", "/explorer/nothing.js", "/explorer/..%2Fsettings.py"):
        assert digits.get(path).status_code == 404


@pytest.mark.parametrize("part", ["bytes=0-0", "bytes=9-1", "bytes=999999999-", "lines=0-1"])
def test_files_are_sent_whole(digits: httpx.Client, part: str) -> None:
    assert digits.get("/explorer/app.js", headers={"Range": part}).status_code == 200


def test_the_page_can_be_turned_off(serve: Serve) -> None:
    with serve("--no-explorer", "--engine-threads", "1") as client:
        assert client.get("/").status_code == 404
        assert client.get("/explorer/app.js").status_code == 404
        assert "/" not in client.get("/openapi.json").json()["paths"]
        assert client.get("/sample").is_success


# Keys and prefixes


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with run_server(
        "--engine-threads", "1", log=tmp_path_factory.mktemp("closed") / "log", LOWERBOUND_API_KEYS=KEY
    ) as client:
        yield client


def test_a_key_is_asked_for_where_there_are_keys(visit: Start, closed: httpx.Client) -> None:
    visited = visit(closed, allowed=("401",))
    page = visited.page
    dialog = page.get_by_role("dialog", name="This service asks for a key")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_label("API key")).to_be_focused()
    assert violations(page) == []
    dialog.get_by_label("API key").fill("some-key-0123456789")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_role("alert")).to_have_text("That key was not accepted.")
    page.keyboard.press("Escape")  # Nothing works without one.
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    ready(page)
    expect(page.locator("#samples canvas")).to_have_count(48)
    assert page.locator("#model .card img").count() > 10  # The card's, which needs the key too.
    page.reload()
    ready(page)
    assert not any(KEY in url for url in visited.requests)
    assert KEY not in page.evaluate("JSON.stringify(localStorage) + document.cookie")


@contextmanager
def prefixed(client: httpx.Client) -> Iterator[httpx.Client]:
    """A proxy that has the service under /models/of/ours/ and nothing anywhere else."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            prefix, found, path = self.path.partition("/models/of/ours/")
            if prefix or not found:
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with closing(http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80)) as onward:
                onward.request(self.command, f"/{path}", body, dict(self.headers))
                answer = onward.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = handle_one  # noqa: N815 - the names that `http.server` looks for

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{proxy.server_address[1]}") as through:
            yield through
        proxy.shutdown()


def test_the_page_works_under_a_prefix(visit: Start, digits: httpx.Client) -> None:
    with prefixed(digits) as proxy:
        visited = visit(proxy, path="/models/of/ours/")
        ready(visited.page)
        expect(visited.page.locator("#samples canvas")).to_have_count(48)
        own = [url for url in visited.requests if not url.startswith("data:")]
        assert len(own) > 20
        assert all(url.startswith(f"{visited.origin}/models/of/ours/") for url in own)
        visited.page.close()


def test_a_lost_service_is_told_of(visit: Start, tmp_path: Path) -> None:
    with run_server("--engine-threads", "1", log=tmp_path / "log") as client:
        visited = visit(client, allowed=("net::ERR",))
        ready(visited.page)
    visited.page.locator("#samples .another").click()
    expect(visited.page.locator("#samples > .work > [role=alert]")).to_have_text("The service cannot be reached.")
    visited.page.locator("#model").scroll_into_view_if_needed()
    visited.page.locator("#which").dispatch_event("change")
    expect(visited.page.locator("#failure")).to_have_text("The service cannot be reached.")
    expect(visited.page.locator("#failure")).to_be_in_viewport()


def test_without_a_model_there_are_no_empty_panels(visit: Start, digits: httpx.Client) -> None:
    page = visit(digits, path="/docs", allowed=("net::ERR",)).page
    page.route("**/models", lambda _: None)
    page.goto(str(digits.base_url))
    expect(page.get_by_role("heading", name="Loading…")).to_be_visible()
    assert page.locator("main > section:visible, nav a:visible, #which:visible").count() == 0
    page.unroute_all()
    page.route("**/models", lambda route: route.abort())
    page.goto(str(digits.base_url))
    expect(page.locator("#failure")).to_have_text("The service cannot be reached.")
    expect(page.get_by_role("heading", name="No model to show")).to_be_visible()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    assert page.locator("main > section:visible, nav a:visible, #which:visible").count() == 0
    again = page.get_by_role("button", name="Try again")
    page.unroute_all()
    page.route("**/versions/1/model", lambda route: route.abort())
    again.press("Enter")
    expect(page.locator("#which")).to_be_visible()  # One step further.
    expect(page.locator("#failure")).to_have_text("The service cannot be reached.")
    page.unroute_all()
    again.press("Enter")
    ready(page)
    expect(page.get_by_role("heading", name="digits")).to_be_visible()
    expect(page.locator("#failure")).to_be_empty()
    expect(again).to_have_count(0)
    expect(page.locator("#content")).to_be_focused()


# People


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("theme", THEMES)
def test_no_barriers_in_the_pages_of_pictures(open_page: Open, digits: httpx.Client, theme: str) -> None:
    page = open_page(
        digits, color_scheme=theme, viewport={"width": 1280, "height": 900}, allowed=("400 (Bad Request)",)
    )
    page.locator("#samples .grid button").nth(1).click()
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.get_by_label("Refine").select_option("5 steps")
    expect(page.locator(".regret")).not_to_be_empty()
    assert violations(page) == []
    page.locator("#pictures").get_by_label("Choose files").set_input_files(
        {"name": "x.txt", "mimeType": "text/plain", "buffer": b"x"}
    )
    expect(page.locator("#pictures-problem")).not_to_be_empty()
    assert violations(page) == []


@pytest.mark.parametrize("theme", THEMES)
def test_no_barriers_in_the_pages_of_tables(open_page: Open, toys: httpx.Client, theme: str) -> None:
    page = open_page(toys, color_scheme=theme, viewport={"width": 390, "height": 800})
    page.get_by_label("Rows as CSV").fill("age,colour\n1.5,red\n30,red\n,red\n")
    expect(page.locator("#rows tr.anomalous")).to_have_count(2)
    page.locator("#rows tr.anomalous").first.get_by_title("What makes it strange").click()
    expect(page.locator("#rows .cells")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_barriers_in_the_page_of_endpoints(visit: Start, digits: httpx.Client, theme: str) -> None:
    page = visit(digits, path="/docs", color_scheme=theme, viewport={"width": 390, "height": 800}).page
    page.locator("summary").first.click()
    expect(page.get_by_role("heading", name="Parameters")).to_be_visible()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(open_page: Open, toys: httpx.Client, width: int) -> None:
    page = open_page(toys, viewport={"width": width, "height": WIDTHS[width]})
    for model in ("people 1", "digits 1"):
        page.locator("#which").select_option(model)
        expect(page.locator("#title")).to_have_text(model.removesuffix(" 1"))
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        nav = page.get_by_role("navigation", name="Panels")
        assert nav.evaluate("one => one.scrollWidth <= one.clientWidth")


def test_the_keyboard_is_enough(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    tiles = page.locator("#samples .grid button")
    page.locator("#samples .another").focus()
    page.keyboard.press("Tab")
    expect(tiles.first).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(tiles.first).to_be_focused()
    for key in ("End", "ArrowRight", "Home", "ArrowLeft", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    tile = tiles.nth(2)
    expect(tile).to_be_focused()
    expect(page.locator("#samples .grid button[tabindex='0']")).to_have_count(1)
    page.keyboard.press("Space")
    expect(tile).to_have_attribute("aria-pressed", "true")
    page.locator("#samples").get_by_role("button", name="Score").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#pictures .name")).to_have_text("Sample 3")
    page.keyboard.press("Tab")  # From the panel's title on.
    expect(page.locator("#pictures .lead input[type=file]")).to_be_focused()


@pytest.mark.parametrize(("motion", "scroll"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_nothing_moves_for_those_who_ask_for_that(
    open_page: Open, digits: httpx.Client, motion: str, scroll: str
) -> None:
    page = open_page(digits, reduced_motion=motion)
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == scroll


def test_models_can_be_changed(open_page: Open, toys: httpx.Client) -> None:
    page = open_page(toys)
    assert page.locator("#which option").all_inner_texts() == [
        "people 1",
        "colours 1",
        "digits 1",
        "plain 1",
        "shades 1",
    ]
    for model, visible in (("digits 1", "#samples"), ("people 1", "#rows")):
        page.locator("#which").select_option(model)
        expect(page).to_have_title(f"{model.removesuffix(' 1')} · Lowerbound")
        expect(page.locator(visible)).to_be_visible()


# The model


def test_the_model_says_what_it_is(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits)
    answer = digits.get("/model").json()
    manifest = answer["manifest"]
    panel = page.locator("#model")
    expect(panel.locator(".facts")).to_contain_text(answer["device"])
    panel.get_by_text("Held-out figures").click()
    rows = panel.locator(".metrics tbody tr")
    expect(rows).to_have_count(len(manifest["metrics"]))
    expect(panel.get_by_role("row", name="test elbo \u2212151.141", exact=True)).to_be_visible()
    panel.get_by_text("Provenance").click()
    expect(panel.locator(".provenance")).to_contain_text(answer["bundle"])
    expect(panel.locator(".provenance")).to_contain_text(manifest["provenance"]["data_sha256"])
    expect(panel.locator(".recipe")).to_contain_text('"gaussian_shared"')
    panel.get_by_text("Calibration", exact=True).click()
    chart = panel.locator(".card details[open] img").first
    expect(chart).to_be_visible()
    assert chart.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 100
    assert chart.get_attribute("alt")


def test_what_is_tried_out_is_no_evidence_of_drift(open_page: Open, digits: httpx.Client, toys: httpx.Client) -> None:
    for client in (digits, toys):
        page = open_page(client)
        before = watched(client)
        page.reload()
        ready(page)
        assert watched(client) == before


def watched(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """How many rows of each model are evidence."""
    found = samples(client.get("/metrics").text)
    return {key: value for key, value in found.items() if key[0] == "lowerbound_drift_rows_total"}


def test_the_model_says_what_it_does_just_now(open_page: Open, digits: httpx.Client) -> None:
    page = open_page(digits)
    page.locator("#model").scroll_into_view_if_needed()
    expect(page.locator("[data-live=requests]")).to_have_text(re.compile(r"^\d"), timeout=10_000)
    for _ in range(100):
        digits.get("/sample", params={"n": 1})
    expect(page.locator("[data-live=requests]")).to_have_text(
        re.compile(r"^([5-9]|[1-9]\d)(\.\d+)? / s"), timeout=10_000
    )
    expect(page.locator("[data-live=median]")).to_have_text(re.compile(r"^[\d.]+ ms"))

"""How fluid the explorer's sliders are, in a real browser; and what the page looks like.

    make serve &
    .venv/test/bin/python -m tests.benchmarks.explorer http://127.0.0.1:8000 [FOLDER]

A slider is moved for some seconds, once in every frame that the browser shows, which it does 60 times a second; then as
fast as answers come. Printed: decodes a second, and their times from question to answer. The goal is one in each frame.
With a folder, pictures of the page go there: three widths in both themes.
"""

import platform
import statistics
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.explorer.conftest import installed_browser, ready

SECONDS, ROUNDS = 5, 3
WIDTHS = {390: 844, 820: 1180, 1600: 1000}

MOVE = """
([seconds, inFrames]) => new Promise((done) => {
    const slider = document.querySelector("#latents input[type=range]");
    const next = inFrames ? requestAnimationFrame : (work) => setTimeout(work, 0);
    performance.setResourceTimingBufferSize(100000);
    performance.clearResourceTimings();
    const started = performance.now();
    let frames = 0;
    (function move() {
        if (performance.now() - started > 1000 * seconds) {
            const asked = performance.getEntriesByType("resource").filter(({ name }) => name.endsWith("/decode"));
            done([frames, asked.map(({ duration }) => duration)]);
            return;
        }
        slider.value = 3 * Math.sin(++frames / 20);
        slider.dispatchEvent(new Event("input"));
        next(move);
    })();
})
"""


def main(url: str = "http://127.0.0.1:8000", folder: str | None = None) -> None:
    """Print the table, and take the pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_browser(playwright))
        page = browser.new_page()
        page.goto(url)
        ready(page)
        print(f"{page.locator('#which').input_value()}, {platform.machine()}, Chromium {browser.version}")
        print(
            "| the slider is moved | moves a second | decodes a second (least to most) | median ms | 99th percentile |"
        )
        print("|---|---:|---:|---:|---:|")
        for how, in_frames in (("in every frame", True), ("as fast as answers come", False)):
            measure(page, how, in_frames=in_frames)
        if folder:
            for theme in ("light", "dark"):
                for width, height in WIDTHS.items():
                    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
                    page.goto(url)
                    ready(page)
                    page.wait_for_load_state("networkidle")
                    page.screenshot(path=Path(folder) / f"{width}-{theme}.png", full_page=True)
        browser.close()


def measure(page: Page, how: str, *, in_frames: bool) -> None:
    """Print one line: the median of the rounds."""
    rounds = [page.evaluate(MOVE, [SECONDS, in_frames]) for _ in range(ROUNDS)]
    moves = statistics.median(frames for frames, _ in rounds) / SECONDS
    decodes = sorted(len(times) / SECONDS for _, times in rounds)
    times = sorted(time for _, round_times in rounds for time in round_times)
    rate = f"{decodes[len(decodes) // 2]:.0f} ({decodes[0]:.0f} to {decodes[-1]:.0f})"
    print(f"| {how} | {moves:.0f} | {rate} | {statistics.median(times):.1f} | {times[int(0.99 * len(times))]:.1f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])

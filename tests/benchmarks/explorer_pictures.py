"""The pictures of the explorer in the README and its guide, made anew from a running service.

    .venv/test/bin/python -m tests.benchmarks.explorer_pictures write people.csv
    lowerbound train table --data people.csv --name people --dataset.drop person --fit.steps 1500
    make train RECIPE=fashion-mnist
    make serve MODELS=models &
    .venv/test/bin/python -m tests.benchmarks.explorer_pictures http://127.0.0.1:8000 BOOT

BOOT is a picture of the test rows, 28×28, as PNG. The pictures go to `.github/`.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.explorer.conftest import installed_browser, ready

PLACE = Path(__file__).parents[2] / ".github"
RENTS = {"Oslo": 520, "Bergen": 400, "Tromsø": 330}


def write(path: Path, rows: int = 2000) -> None:
    """A table of people: income goes with age, weight with height, and rent with the city, the rooms and the income."""
    rng = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["person", "age", "income", "height", "weight", "city", "rooms", "rent"])
        for i in range(rows):
            age = int(np.clip(rng.gamma(9, 4.6) + 4, 18, 88))
            income = round(2200 + 38 * age * float(np.exp(0.22 * rng.standard_normal())), -1)
            height = round(172 + 8.5 * rng.standard_normal())
            weight = round(height - 104 + 7 * rng.standard_normal(), 1)
            city = str(rng.choice(list(RENTS), p=[0.5, 0.3, 0.2]))
            rooms = 1 + int(rng.binomial(4, np.clip((income - 2000) / 6000, 0.05, 0.9)))
            rent = round(RENTS[city] + 170 * rooms + 0.09 * income + 45 * rng.standard_normal())
            writer.writerow([f"p{i:04}", age, int(income), height, weight, city, rooms, rent])


def take(url: str, boot: Path) -> None:
    """Take both pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_browser(playwright))
        take_rows(browser.new_page(viewport={"width": 1500, "height": 1000}, color_scheme="dark"), url)
        take_pictures(browser.new_page(viewport={"width": 1180, "height": 1300}, color_scheme="light"), url, boot)
        browser.close()
    for name in ("explorer-rows.png", "explorer-pictures.png"):  # In 128 colours: a third of the bytes.
        Image.open(PLACE / name).convert("RGB").quantize(128).save(PLACE / name, optimize=True)


def take_rows(page: Page, url: str) -> None:
    """Examples of the model's own; in one the rent is far too high, and one person is far too light."""
    page.goto(f"{url}/?model=people&seed=1")
    ready(page)
    editor = page.get_by_label("Rows as CSV")
    names, *rows = editor.input_value().split()
    lines = [f"person,{names}", *(f"p{i},{line}" for i, line in enumerate(rows, 1))]
    lines[29] = "p29,43,3610,172,66.4,Oslo,2,2900"
    lines[12] = "p12,33,3320,187,31,Bergen,2,868"
    editor.fill("\n".join(lines))
    page.locator("#rows thead").get_by_role("button", name="person").wait_for()
    page.locator("#rows tbody").get_by_role("button", name="29", exact=True).click()
    page.locator("#rows .cells").wait_for()
    page.locator("#rows").get_by_role("button", name="anomaly, row 29").click()
    page.evaluate("document.activeElement.blur()")
    page.locator("#rows").screenshot(path=PLACE / "explorer-rows.png")


def take_pictures(page: Page, url: str, boot: Path) -> None:
    """A boot upside down, with 20 steps of refinement."""
    page.goto(f"{url}/?model=fashion-mnist")
    ready(page)
    panel = page.locator("#pictures")
    panel.get_by_label("Choose files").set_input_files(boot)
    panel.locator(".name").filter(has_text=boot.name).wait_for()
    panel.get_by_role("button", name="Turned").click()
    panel.locator(".name").filter(has_text="turned").wait_for()
    panel.get_by_text("In numbers").click()
    panel.get_by_label("Refine").select_option("20 steps")
    panel.locator(".regret:not(:empty)").wait_for()
    page.evaluate("document.activeElement.blur()")
    panel.screenshot(path=PLACE / "explorer-pictures.png")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        take(sys.argv[1], Path(sys.argv[2]))

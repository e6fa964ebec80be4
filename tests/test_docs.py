"""The pages are held to the code: their commands run, their outputs are real, tables complete, links lead somewhere."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.bundle import BOUNDS, ImageInput
from service.bundle.graphs import OPTIONAL_GRAPHS, REQUIRED_GRAPHS, graph_contract
from tests import reference_pages
from training.model import ARCHITECTURES, LIKELIHOODS, PRIORS
from training.recipe_files import names

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / ".github" / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
README = PAGES["README.md"]
ADDRESS = "127.0.0.1:8000"


def page(name: str) -> str:
    return PAGES[f"docs/{name}.md"]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def examples() -> Iterator[tuple[str, str]]:
    """Every Python example of the pages, and what it prints."""
    for text in PAGES.values():
        yield from zip(blocks("python", text), blocks("text", text), strict=True)


def anchors(text: str) -> set[str]:
    """The names that a repository's web view gives to headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def first_column(text: str) -> list[str]:
    """The code words that open the rows of the tables in a text."""
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def code_words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def assert_nearly_equal(real: Any, shown: Any) -> None:
    match real:
        case dict():
            assert real.keys() == shown.keys()
            for key, value in real.items():
                assert_nearly_equal(value, shown[key])
        case list():
            assert len(real) == len(shown)
            for value, other in zip(real, shown, strict=True):
                assert_nearly_equal(value, other)
        case float():
            assert real == pytest.approx(shown, rel=1e-3, abs=1e-3)
        case _:
            assert real == shown


def address(client: httpx.Client) -> str:
    return f"{client.base_url.host}:{client.base_url.port}"


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 150


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: no file at {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{name}: no heading at {target}"


def test_the_tests_that_are_named_exist() -> None:
    page = (ROOT / "docs/benchmarks/faults.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 21
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests/service" / file).read_text(), f"{file}::{test}"


def test_every_page_is_linked() -> None:
    found, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        links = re.findall(r"\]\(([^)\s#]+\.md)", PAGES[name])
        waiting += [str(((ROOT / name).parent / link).resolve().relative_to(ROOT)) for link in links]
    assert found == PAGES.keys()


@pytest.mark.parametrize("name", PAGES)
def test_shell_examples_parse(name: str) -> None:
    for block in blocks("sh", PAGES[name]):
        subprocess.run(["bash", "-n", "-c", block], check=True)


def test_the_curl_example_is_real(digits: httpx.Client) -> None:
    (block,) = blocks("console", README)
    command, shown = re.fullmatch(r"\$ (curl .*?')\n(\{.*\})\n", block, re.DOTALL).groups()  # type: ignore[union-attr]
    done = subprocess.run(["bash", "-c", command.replace(ADDRESS, address(digits))], capture_output=True, check=True)
    assert_nearly_equal(json.loads(done.stdout), json.loads(shown))


@pytest.mark.parametrize(("code", "shown"), list(examples()))
def test_the_python_examples_are_real(digits: httpx.Client, code: str, shown: str) -> None:
    code = code.replace(ADDRESS, address(digits))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == shown


WALKS = {
    "payments": ("payments.py", None, "look.py"),
    "pictures": ("pictures.py", None, None, None),
    "fashion-mnist": ("fashion-mnist.py", None, None, None),
}
"""What runs before each command of a page: the page's own scripts, unless a command runs them."""

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_whole_walks_are_real(tmp_path: Path, name: str) -> None:
    """Numbers differ a little from one machine to another; all words are compared."""
    if name == "fashion-mnist" and not FASHION.exists():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    text = page(f"guide/{name}")
    for script, code in zip((f"{name}.py", "look.py"), blocks("py", text), strict=True):
        (tmp_path / script).write_text(code)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"}
    walk = [step for block in blocks("console", text) for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    for before, step in zip(WALKS[name], walk, strict=True):
        command, _, shown = step.partition("\n")
        if before:
            subprocess.run([sys.executable, before], cwd=tmp_path, check=True)
        done = subprocess.run(
            ["bash", "-c", f"{command} 2>&1"], cwd=tmp_path, env=environment, capture_output=True, check=True, text=True
        )
        pattern = ".*".join(re.escape(_without_numbers(part)) for part in shown.split("...\n"))
        assert re.fullmatch(pattern, _without_numbers(done.stdout), re.DOTALL), done.stdout


def _without_numbers(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,:]*", "N", text))


def test_make_knows_the_commands() -> None:
    commands = re.findall(r"^make .*?(?=\s+#|$)", blocks("sh", README)[0], re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, check=True, text=True)
        assert re.search(r"lowerbound (serve|train)|-m (pytest|venv)", done.stdout)


def test_make_takes_paths_with_blanks() -> None:
    """A dry run says what the shell would get."""
    for command, option in (("serve MODELS", "--models"), ("train DATA", "--data")):
        made = ["make", "--dry-run", *f"{command}=my rows".split(" ", 1)]
        done = subprocess.run(made, cwd=ROOT, capture_output=True, check=True, text=True)
        assert f'{option} "my rows"' in done.stdout


def test_the_table_of_packages_is_complete() -> None:
    listed = first_column(page("architecture"))
    folders = [path for name in ("service", "training") for path in (ROOT / name).iterdir() if path.is_dir()]
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in folders if path.name != "__pycache__")


def test_generated_tables_are_those_of_the_code() -> None:
    """`make docs` writes them."""
    found = list(reference_pages.pages())
    assert len(found) == 4
    for path in found:
        text = path.read_text()
        assert reference_pages.generate(text) == text


@pytest.mark.skipif(sys.platform != "linux", reason="processes are measured under /proc")
def test_the_table_of_metrics_is_complete(digits: httpx.Client) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(digits.get("/metrics").text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    rows = re.findall(r"^\| (`lowerbound_.*?|`process_.*?) \| (.*?) \|", page("reference/metrics"), re.MULTILINE)
    listed = {name: set(code_words(given)) for names, given in rows for name in code_words(names)}
    assert listed.keys() == labels.keys()
    for name, expected in labels.items():
        assert expected in (set(), listed[name])  # None where nothing has happened yet.


def test_the_endpoint_table_is_complete(digits: httpx.Client) -> None:
    listed = {tuple(row.split(" ")) for row in first_column(page("reference/http").partition("## Parameters")[0])}
    paths = digits.get("/openapi.json").json()["paths"]
    real = {(method.upper(), path) for path, methods in paths.items() for method in methods if "{" not in path}
    assert listed == real


def test_every_parameter_and_field_is_named(digits: httpx.Client) -> None:
    text = page("reference/http") + page("reference/open-inference-protocol")
    paths = digits.get("/openapi.json").json()["paths"]
    for methods in paths.values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                assert f"`{parameter['name']}" in text or parameter["in"] == "path"
    for name in (*BOUNDS, "score", "p_value", "mean", "log_variance", "draws", "instances", "latents"):
        assert f"`{name}`" in text


def test_the_recipe_and_model_tables_are_complete() -> None:
    text, _, _ = page("reference/recipes").partition("## Fields")
    assert set(first_column(text)) - {"model.likelihood"} == {*names(), *LIKELIHOODS}
    for name in (*ARCHITECTURES, *PRIORS):
        assert f"`{name}`" in text


def test_the_bundle_table_is_complete() -> None:
    text, _, _ = page("reference/bundle").partition("## Limits")
    listed = first_column(text)
    graphs = [f"{graph}.onnx" for graph in REQUIRED_GRAPHS + OPTIONAL_GRAPHS]
    assert listed == [
        *graphs,
        "weights.bin",
        "calibration.npz",
        "missing_cells.npz",
        "golden.npz",
        "card/",
        "manifest.json",
        "manifest.sig",
    ]
    for graph in REQUIRED_GRAPHS + OPTIONAL_GRAPHS:
        contract = graph_contract(graph, ImageInput(shape=(8, 8), dtype="uint8", low=0, high=16), 2)
        tensors = (
            ", ".join(f"`{t.name}`" for t in contract.inputs)
            + " → "
            + ", ".join(f"`{t.name}`" for t in contract.outputs)
        )
        assert tensors in page("reference/bundle")


def test_the_plan_s_sums_are_right() -> None:
    text = page("benchmarks/capacity")
    core, gpu = (
        float(price) for price in re.findall(r"([\d.]+) \$ for", text)[:1] + re.findall(r"(\d+) \$ for one", text)
    )
    rows = re.findall(r"^\| (core|H200): .*? \| ([\d,]+) \| (\d+) % \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for kind, rate, use, shown in rows:
        done = float(rate.replace(",", "")) * int(use) / 100
        hours, number = 1e9 / done / 3600, 1e6 / done
        price = core if kind == "core" else gpu
        expected = (f"{hours:,.1f}", f"{number:,.1f}", f"{hours * price:,.2f}", f"{number * price:,.2f}")
        assert tuple(shown.split(" | ")) == expected
    sizes = re.findall(r"^\| (784 levels|784 floats|20 columns), (.*?) \| .*? \| ([\d,]+) \| ", text, re.MULTILINE)
    by_kind: dict[str, dict[str, float]] = {}
    for kind, name, size in sizes:
        by_kind.setdefault(kind, {})[name] = float(size.replace(",", "")) * 8 * 1e6 / 1e9
    for kind, formats in by_kind.items():
        (shown,) = re.findall(rf"^\| {kind} \| (.*) \|$", text, re.MULTILINE)
        names = ("JSON", ".npy", "Arrow", "/v2, binary")
        assert shown.split(" | ") == [f"{formats[name]:.1f}" for name in names]

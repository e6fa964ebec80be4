"""The detection benchmarks: one command, one table.

    make .venv/benchmark/done
    .venv/benchmark/bin/python -m tests.benchmarks.detection nll
    .venv/benchmark/bin/python -m tests.benchmarks.detection shift --mnist FOLDER
    .venv/benchmark/bin/python -m tests.benchmarks.detection one-class
    .venv/benchmark/bin/python -m tests.benchmarks.detection tables --tables FOLDER
    .venv/benchmark/bin/python -m tests.benchmarks.detection false-alarms --mnist FOLDER --tables FOLDER
    .venv/benchmark/bin/python -m tests.benchmarks.detection contamination --tables FOLDER

FOLDER holds MNIST's IDX files, or tables as .npz files of X and y. Models are trained by named recipes. Any option that
is not listed below is one of the recipe's, as `--fit.epochs 3`. Every finished cell is kept: an interrupted command
goes on where it stopped when given again.
"""

import argparse
import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.errors import LowerboundError
from tests.benchmarks.detection import nll, report, tasks
from tests.benchmarks.detection.cells import Cell, Cells, hardware
from tests.benchmarks.detection.false_alarms import false_alarms
from tests.benchmarks.detection.methods import METHODS, OURS, AbsentError, score
from training.evaluation.detection import detection_figures
from training.recipes import Recipe

SHARES = (0.0, 0.05, 0.1)
"""Of anomalies in the training rows."""

NLL_RECIPES = tuple(str(path) for path in sorted((Path(__file__).parent / "recipes").glob("nll-*.yaml")))


def main() -> int:
    """Fill one table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", choices=("nll", "shift", "one-class", "tables", "false-alarms", "contamination"))
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), metavar="FOLDER")
    parser.add_argument("--mnist", type=Path, metavar="FOLDER")
    parser.add_argument("--tables", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="of those that the table has")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="of those that the experiments have")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--recipe", nargs="+", default=[], metavar="[EXPERIMENT=]RECIPE", help="instead of the default")
    parser.add_argument("--draws", type=int, default=5000, help="importance samples of nll")
    parser.add_argument("--rows", type=int, default=10_000, help="test rows of nll")
    parser.add_argument("--keep", type=Path, default=Path("runs/detection"), help="where cells and tables are kept")
    given, corrections = parser.parse_known_args()
    console = Console(file=sys.stderr, soft_wrap=True)
    given.keep.mkdir(parents=True, exist_ok=True)
    cells = Cells(given.keep / "cells.jsonl")
    try:
        text = (_nll if given.table == "nll" else _detection)(given, corrections, cells, console)
    except (LowerboundError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print(f"interrupted; what is finished is kept in {cells.path}: the same command goes on", markup=False)
        return 130
    (given.keep / f"{given.table}.md").write_text(text + "\n")
    print(text)
    return 0


def _detection(given: argparse.Namespace, corrections: list[str], cells: Cells, console: Console) -> str:
    experiments = {experiment.name: experiment for experiment in _experiments(given)}
    chosen: dict[str, str] = dict(recipe.rpartition("=")[::2] for recipe in given.recipe)
    recipes = {
        name: Recipe.read(chosen.get(name, chosen.get("", experiment.recipe)), corrections)
        for name, experiment in experiments.items()
    }
    shares = SHARES if given.table == "contamination" else SHARES[:1]
    methods = given.methods or ((OURS,) if given.table == "false-alarms" else METHODS)
    wanted = [
        (experiment, case, seed, share, method)
        for experiment in experiments.values()
        for case in experiment.cases
        if not given.cases or case in given.cases
        for seed in given.seeds
        for share in shares
        for method in methods
    ]
    rows, absent = [], {}
    with _progress(console) as progress:
        bar = progress.add_task("", total=len(wanted))
        for experiment, case, seed, share, method in wanted:
            recipe = recipes[experiment.name]
            key = {"experiment": experiment.name, "case": case, "seed": seed, "share": share, "method": method}
            if method == OURS:
                key["recipe"] = _digest(recipe)
            progress.update(bar, description=f"{experiment.name} {case}, seed {seed}, {share:.0%}: {method}")
            try:
                if not (cell := cells.get(key)):
                    cell = _measure(experiment, case, seed, share, method, recipe, cells.folder(key))
                    cells.add(key, cell)
                rows.append(report.Row(experiment.name, case, method, seed, share, cell))
            except AbsentError as error:
                absent[method] = str(error)
            progress.advance(bar)
    return _written(given, experiments, recipes, rows, absent)


def _measure(
    experiment: tasks.Experiment, case: str, seed: int, share: float, method: str, recipe: Recipe, folder: Path
) -> Cell:
    task = experiment.make(case, seed, share)
    started = time.perf_counter()
    rows = np.concatenate([task.normal, *task.anomalies.values()])
    folder.mkdir(exist_ok=True)
    with _quietly(folder.parent / "log"):
        scored = score(method, recipe, task, rows, seed, folder)
    shutil.rmtree(folder)
    cut = len(task.normal)
    parts = np.split(np.arange(cut, len(rows)), np.cumsum([len(part) for part in task.anomalies.values()])[:-1])
    figures = {
        anomalies: {
            name: detection_figures(np.concatenate([values[:cut], values[part]]), np.arange(cut + len(part)) >= cut)
            for name, values in scored.scores.items()
        }
        for anomalies, part in zip(task.anomalies, parts, strict=True)
    }
    chosen = scored.scores[scored.default]
    return {
        "default": scored.default,
        "figures": figures,
        "false_alarms": false_alarms(chosen[:cut], chosen[parts[0]], seed),
        "contamination": task.contamination,
        "columns": _columns(task),
        "rows": {"train": len(task.train), "normal": cut} | {n: len(p) for n, p in task.anomalies.items()},
        "seconds": time.perf_counter() - started,
        "hardware": hardware(),
    }


def _columns(task: tasks.Task) -> dict[str, int]:
    """How many columns a table has, and how many are constant, or whole numbers, in training."""
    if task.data.kind != "tabular":
        return {}
    constant = np.ptp(task.train, axis=0) == 0
    whole = (task.train == np.round(task.train)).all(axis=0)
    return {"all": len(constant), "constant": int(constant.sum()), "whole": int((whole & ~constant).sum())}


def _nll(given: argparse.Namespace, corrections: list[str], cells: Cells, console: Console) -> str:
    found: dict[str, list[Cell]] = {}
    for path in given.recipe or NLL_RECIPES:
        recipe = Recipe.read(path, corrections)
        for seed in given.seeds:
            key = {"experiment": "nll", "recipe": _digest(recipe), "seed": seed}
            key |= {"draws": given.draws, "rows": given.rows}
            if not (cell := cells.get(key)):
                console.print(f"{recipe.name}, seed {seed}")
                folder = cells.folder(key)
                folder.mkdir(exist_ok=True)
                started = time.perf_counter()
                cell = nll.measure(recipe, given.fashion, given.draws, given.rows, seed, folder)
                cells.add(key, cell | {"seconds": time.perf_counter() - started, "hardware": hardware()})
                shutil.rmtree(folder)
            found.setdefault(recipe.name, []).append(cells.get(key) or cell)
    used = [cell for part in found.values() for cell in part]
    return f"{nll.table(found, given.draws)}\n\n{_footing(given.seeds, used)}"


def _experiments(given: argparse.Namespace) -> Iterator[tasks.Experiment]:
    """Those of the table whose data is given."""

    def wanted(name: str, *tables: str) -> bool:
        return given.table in tables and (not given.only or name in given.only)

    if wanted("shift", "shift", "false-alarms") and (given.mnist or given.table == "shift"):
        if not given.mnist:
            raise LowerboundError("shift needs --mnist, a folder of MNIST's IDX files")
        yield tasks.shift(given.fashion, given.mnist)
    if wanted("fashion-one-class", "one-class", "contamination"):
        yield tasks.fashion_one_class(given.fashion)
    if wanted("digits-left-out", "one-class", "contamination", "false-alarms"):
        yield tasks.digits(one_class=False)
    if wanted("digits-one-class", "one-class", "contamination"):
        yield tasks.digits(one_class=True)
    if wanted("tables", "tables", "contamination", "false-alarms") and (given.tables or given.table == "tables"):
        if not given.tables:
            raise LowerboundError("tables needs --tables, a folder of .npz files")
        yield tasks.tables(given.tables)


def _written(
    given: argparse.Namespace,
    experiments: dict[str, tasks.Experiment],
    recipes: dict[str, Recipe],
    rows: list[report.Row],
    absent: dict[str, str],
) -> str:
    def title(name: str) -> str:
        return experiments[name].title

    parts = []
    if given.table == "false-alarms":
        parts.append(report.false_alarm_table(rows, title))
    elif given.table == "contamination":
        parts.append(report.contamination_table(rows, title))
    else:
        for name, experiment in experiments.items():
            chosen = [row for row in rows if row.experiment == name]
            parts += [f"{experiment.title} ({recipes[name].name})", report.detection_table(chosen)]
            if any(row.method == OURS for row in chosen):
                parts.append(report.score_table(chosen))
            if name == "tables":
                parts.append(report.column_table(chosen))
    parts += [f"{method}: {problem}" for method, problem in absent.items()]
    parts.append(_footing(given.seeds, [row.cell for row in rows]))
    return "\n\n".join(parts)


def _footing(seeds: list[int], cells: list[Cell]) -> str:
    machines = ", ".join(sorted({cell["hardware"] for cell in cells}))
    seconds = sum(cell["seconds"] for cell in cells)
    return f"Seeds {', '.join(map(str, seeds))}; {machines}; {seconds:,.0f} s of computing."


def _digest(recipe: Recipe) -> str:
    """What of a recipe decides scores."""
    record = recipe.model_dump(mode="json", include={"model", "fit", "bound"}) | {"validation": recipe.split.validation}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True)


@contextlib.contextmanager
def _quietly(log: Path) -> Iterator[None]:
    """The epochs of a training go to the log, and not between the bars."""
    with log.open("a") as file, contextlib.redirect_stderr(file):
        yield


if __name__ == "__main__":
    sys.exit(main())

"""`lowerbound score MODEL INPUT ... OUTPUT`: answers for files of rows, into a folder of Parquet files."""

import argparse
import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.bulk import job
from service.bulk.batches import Input
from service.bulk.one_file import is_one_file, refuse_existing, write_file
from service.bulk.readers import open_inputs, read_from
from service.bulk.strangest import plain, strangest_rows
from service.bulk.writer import PartWriter
from service.bundle import Bundle, read_bundle
from service.cli import HelpPage
from service.codecs.rows import PROBLEM
from service.engine import PROVIDERS, Device, EngineFactory, Kind, Precision, choose
from service.errors import ExtraError, FileError
from service.inference.limits import MAX_ENGINE_THREADS
from service.scoring import ElboQuery
from service.scoring.conformal import discoveries, why_none

if TYPE_CHECKING:
    from service.bulk.on_ray import Cluster

QUERY = ("num_draws", "seed", "score", "refine", "explain", "unseen", "fdr")
"""The parameters of `/elbo` that are options here."""

MOST_SHOWN = 20
"""Problems that are shown, the others being counted."""


DESCRIPTION = """
Score files far larger than memory, without a server. The values are those of the HTTP endpoints, to the bit.

Examples:
  lowerbound score models/rows/1 rows.parquet more.csv scores
  lowerbound score models/digits/1 pictures/ scores --explain
  lowerbound score models/rows/1 rows.parquet scores --cluster auto

  lowerbound score models/payments/1 payments.csv scores.csv --keep payment_id --fdr 0.1 --explain

OUTPUT becomes a folder of Parquet files, in the order of the inputs, or one file if its name ends in .csv or .parquet.
Ctrl-C or a lost machine costs at most a part of the folder: the same command goes on.
"""


def main(arguments: list[str]) -> None:
    """Answer for all rows.

    Raises:
        ValidationError: An option is wrong.
        LowerboundError: The bundle or an input cannot be used, or there are no rows.
    """
    given = _arguments(arguments)
    console = Console(stderr=True, soft_wrap=True)
    try:
        query = ElboQuery.model_validate(
            {name: getattr(given, name) for name in QUERY if getattr(given, name) is not None}
        )
        _answer(given, query, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("every whole file is kept, and the same command goes on") from None


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lowerbound score", description=DESCRIPTION, formatter_class=HelpPage)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a bundle's folder, <repository>/<name>/<version>")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=".npy, .parquet, .csv, .tsv, a folder of pictures")
    parser.add_argument("output", metavar="OUTPUT", help="a folder, made if absent; or a file .csv or .parquet")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="COLUMN", help="column of the inputs to write too; repeatable"
    )
    parser.add_argument(
        "--operation",
        choices=job.OPERATIONS,
        default="elbo",
        help="columns of the answer: those of /elbo, of /encode, or E[x given z]",
    )
    for name in QUERY:
        text = ElboQuery.model_fields[name].description
        types = {"score": str, "unseen": str, "fdr": float}
        kind = {"action": "store_true"} if name == "explain" else {"type": types.get(name, int)}
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"For elbo. {text}", **kind)
    parser.add_argument("--device", choices=get_args(Device), default="auto", help="device to compute on")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="lowest precision of a GPU")
    parser.add_argument(
        "--max-batch", type=_from_one, help="limit of rows x draws in one engine call (default: 512, on a GPU 32768)"
    )
    parser.add_argument(
        "--engine-threads",
        type=partial(_from_one, most=MAX_ENGINE_THREADS),
        help="batches that an engine computes at the same time (default: all cores, on a GPU 4)",
    )
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="address of a Ray cluster to compute on; auto: the one of this machine"
    )
    return parser.parse_args(arguments)


def _from_one(text: str, most: int = 2**31) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 to {most:,}")
    return int(text)


def _answer(given: argparse.Namespace, query: ElboQuery, console: Console) -> None:
    bundle = read_bundle(given.model)
    one_file = is_one_file(given.output)
    if one_file:
        refuse_existing(given.output)
    inputs = open_inputs(given.inputs, bundle.manifest.input, given.keep)
    counts = _counts(inputs)
    parts = PartWriter(
        f"{given.output}.parts" if one_file else given.output, _request(given, query, bundle, inputs, counts)
    )
    if parts.done and not one_file:
        console.print(f"{_summary(parts, given.output)}, all there", markup=False, highlight=False)
        return

    bulk_job = _job(given, query, bundle)
    with _progress(console) as progress:
        shown: list[str] = []
        bar = progress.add_task("", total=sum(counts), completed=parts.rows)

        def write(batch: pa.RecordBatch) -> None:
            parts.add(batch)
            for problem in batch.column(PROBLEM).drop_null().to_pylist()[: MOST_SHOWN - len(shown)]:
                shown.append(problem)
                console.print(plain(problem), style="yellow", highlight=False)
            progress.advance(bar, batch.num_rows)

        try:
            if given.cluster is None:
                asyncio.run(bulk_job.answer(read_from(inputs, parts.rows, bulk_job.batch_rows), write))
            else:
                with _cluster(given.cluster, given.device, given.engine_threads) as cluster:
                    cluster.answer(bulk_job, inputs, parts.rows, write)
        except BaseException:
            parts.abandon()
            raise
    parts.close()
    called = _discover(parts, query.fdr, bundle) if query.fdr is not None else None
    parts.finish()
    if given.operation == "elbo" and (strangest := strangest_rows(parts, given.keep)):
        console.print(strangest)
    if one_file:
        write_file(parts, given.output)
    for line in filter(None, (called, _summary(parts, given.output))):
        console.print(line, markup=False, highlight=False)


def _job(given: argparse.Namespace, query: ElboQuery, bundle: Bundle) -> job.BulkJob:
    # Each machine of a cluster finds out what `auto` is; this one may have no device.
    unknown: Kind = "cpu" if given.device == "auto" else given.device
    provider = PROVIDERS[unknown if given.cluster else choose(given.device)]
    max_batch, threads = given.max_batch or provider.max_batch, given.engine_threads or provider.engine_threads(1)
    factory = EngineFactory(given.device, given.precision, max_batch)
    return job.BulkJob(bundle, factory.engine, max_batch, threads, job.OPERATIONS[given.operation], query)


def _counts(inputs: Sequence[Input]) -> list[int]:
    """The number of rows in each input.

    Raises:
        FileError: All are without rows.
    """
    counts = [source.count() for source in inputs]
    if not any(counts):
        raise FileError(f"{', '.join(source.path for source in inputs)}: no rows to score; nothing is written")
    return counts


def _discover(parts: PartWriter, fdr: float, bundle: Bundle) -> str:
    """Let the column `discovery` look at the rows of all parts together, and say how many are called."""
    p = np.concatenate([part["p_value"].to_numpy() for part in parts.read(["p_value"])])
    called = discoveries(p, fdr)
    start = 0

    def next_rows(part: pa.Table) -> pa.Array:
        nonlocal start
        start += part.num_rows
        return pa.array(called[start - part.num_rows : start])

    parts.set_column("discovery", next_rows)
    text = f"{int(called.sum()):,} of {len(p):,} rows are called anomalous at a false-discovery rate of {fdr:g}"
    return text if called.any() else f"{text}: {why_none(p, fdr, bundle.manifest.calibration.rows)}"


def _summary(parts: PartWriter, output: str) -> str:
    problems = f", {parts.problems:,} with a problem: see the column {PROBLEM!r}" if parts.problems else ""
    return f"{output}: {parts.rows:,} rows{problems}"


def _cluster(address: str, device: Device, engine_threads: int | None) -> "Cluster":
    """A Ray cluster, if its packages are there."""
    try:
        from service.bulk.on_ray import Cluster  # noqa: PLC0415 - an optional package
    except ModuleNotFoundError as error:
        raise ExtraError(f"--cluster {address}: pip install 'lowerbound[cluster]' ({error})") from error
    return Cluster(address, device, engine_threads)


def _request(
    given: argparse.Namespace, query: ElboQuery, bundle: Bundle, inputs: Sequence[Input], counts: Sequence[int]
) -> dict[str, object]:
    """The parameters that decide the answers; an interrupted job goes on only with the same ones."""
    return {
        "model": bundle.manifest.title,
        "bundle": bundle.digest,
        "operation": given.operation,
        "parameters": query.model_dump(include=set(QUERY)),
        "keep": given.keep,
        "inputs": [{"path": source.path, "rows": rows} for source, rows in zip(inputs, counts, strict=True)],
    }


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn(), TextColumn("left"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)

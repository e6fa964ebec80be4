"""`lowerbound threshold SCORES LABELS`: what labels say of scores, and the threshold for a wanted precision."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from service.cli import CommandOptions, parse
from service.codecs.strangest import strangeness
from service.errors import FileError
from service.readers.columns import is_text
from service.readers.labels import find_column, read_file, read_labels, texts
from service.scoring import lowest_threshold


class Thresholding(CommandOptions):
    """Find the score above which rows are called anomalous, from rows that somebody has labelled.

    Examples:
      lowerbound threshold scores.csv labels.csv
      lowerbound threshold scores.parquet labels.csv --key payment_id --precision 0.8

    LABELS has the column `label`, normal or anomaly, and the key that SCORES has too. It may name few of the rows.
    """

    model_config = SettingsConfigDict(cli_prog_name="lowerbound threshold")

    scores: CliPositionalArg[Path] = Field(description="What `lowerbound score` has written: a file or a folder.")
    labels: CliPositionalArg[Path] = Field(description="A file .csv or .parquet.")
    key: str = Field(
        default="row", description="Column that says which row is meant, as one kept with --keep; of pictures: file."
    )
    precision: float = Field(
        default=0.9, gt=0, le=1, description="Share of anomalies wanted among the labelled rows that are called."
    )


def main(arguments: list[str]) -> None:
    """Print precision and recall of the labelled rows, as they were called and at the threshold.

    Raises:
        ValidationError: An option is wrong.
        FileError: A file cannot be read, or labels rows that are not there.
    """
    given = parse(Thresholding, arguments)
    scored = read_file(given.scores)
    keys = texts(scored, given.key, given.scores)
    score, p_value = (_typed(scored, name, pa.float64(), given.scores) for name in ("score", "p_value"))
    places = _places(keys, given)
    labels = read_labels(given.labels, given.key, places)
    if absent := [key for key in labels if key not in places]:
        raise FileError(f"{given.labels}: {given.key} {absent[0]!r} is not in {given.scores}")
    anomalous = np.array(list(labels.values()), np.bool_)
    labelled = np.array([places[key] for key in labels], np.int64)
    ranks = pc.fill_null(strangeness(score, p_value), -np.inf).to_numpy()
    total = int(anomalous.sum())
    print(f"{len(labelled):,} of {len(scored):,} rows are labelled, {total:,} of them as anomalies")
    if "discovery" in scored.column_names:
        called = pc.fill_null(_typed(scored, "discovery", pa.bool_(), given.scores), False).to_numpy()[labelled]
        print(_figures("by discovery", int((called & anomalous).sum()), int(called.sum()), total))
    found = lowest_threshold(ranks[labelled], anomalous, given.precision)
    if found is None:
        print(f"no threshold has a precision of {given.precision:g} on these labels")
        return
    print(_figures(f"score >= {found.score:.6g}", found.hits, found.called, total), end="")
    print(f"; calls {int((ranks >= found.score).sum()):,} of all rows")


def _figures(rule: str, hits: int, called: int, total: int) -> str:
    precision = f"{hits / called:.2f}" if called else "none"
    recall = f"{hits / total:.2f}" if total else "none"
    return f"{rule}: precision {precision} ({hits:,} of {called:,}), recall {recall} ({hits:,} of {total:,})"


def _typed(scored: pa.Table, name: str, kind: pa.DataType, path: Path) -> pa.ChunkedArray:
    """A column of this type, which is texts in a CSV file."""
    cells = find_column(scored, name, path)
    try:
        return (pc.if_else(pc.equal(cells, ""), None, cells) if is_text(cells.type) else cells).cast(kind)
    except pa.ArrowException as error:
        raise FileError(f"{path}: the column {name!r} must be of type {kind}: {error}") from error


def _places(keys: list[str], given: Thresholding) -> dict[str, int]:
    places = {key: place for place, key in enumerate(keys)}
    if len(places) < len(keys):
        ((key, _),) = Counter(keys).most_common(1)
        raise FileError(f"{given.scores}: {given.key} {key!r} occurs twice; give another --key, kept with --keep")
    return places

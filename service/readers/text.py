"""Text files of a table: their encoding, their delimiter, and their records with the lines they stand on."""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from service.bundle import TabularInput, TextFormat
from service.errors import FileError
from service.readers.encoding import decode_sample, python_encoding, tell_encoding
from service.readers.files import Source, open_file, open_text, reading

if TYPE_CHECKING:
    from _csv import Reader  # Public under no name.

DELIMITERS = (",", ";", "\t", "|", "^", "~", "\x01", "\x1f")
SAMPLE = 2**22
"""Bytes of a file that decide its encoding and delimiter."""

LARGEST_CELL = 2**24
"""Characters of a cell."""

_SAMPLED_RECORDS = 200
CELL = re.compile(r"[+-]?\d+[.,]\d+|\d{4}-\d\d-\d\d.*")
"""A text that is rather a cell than a name."""

_AMOUNT = re.compile(rf"[+-]?\d+([.,]\d+)*|{CELL.pattern}")
ROW_NAMES = "rownames"
"""The column that R writes before the others, without a name."""

_SEP = re.compile(r'\ufeff?"?sep=(.)"?\s*$', re.MULTILINE)
"""Excel's first line, which tells the delimiter."""

_SHOWN = 3
"""Wrong rows that an error names."""

_TITLED, _LINE_BEFORE, _UNLIKE_HEADER = 0.5, 0.95, 0.25
"""Factors of a delimiter's fit: for lines before its header, for each of them, and for a first row unlike it."""


def find_format(
    path: Source, delimiter: str | None = None, encoding: str | None = None, like: TabularInput | None = None
) -> TextFormat:
    """Find a text file's encoding and delimiter.

    Args:
        path: Of the file.
        delimiter: If it is known.
        encoding: If it is known.
        like: Columns that the first line must have, and how text was written in the file that they are from; the
            delimiter that divides the line into those is preferred.

    Raises:
        FileError: The file is empty, no text, or in an encoding that has to be told.
    """
    with reading(path), open_file(path) as file:
        sample = file.read(SAMPLE)
    encoding, text = decode_sample(path, sample, encoding, like.text if like else None, whole=len(sample) < SAMPLE)
    if not text.strip():
        raise FileError(f"{path}: empty")
    start = text.lstrip("\ufeff \r\n\t")[:9].lower()
    if (start[:1] in {"{", "["} and '":' in text) or start[:2] == "[[":
        raise FileError(f"{path}: JSON; save it as CSV or Parquet")
    if start.startswith("@relation"):
        raise FileError(f"{path}: ARFF; save it as CSV or Parquet")
    if start.startswith(("<?xml", "<!doctype", "<html", "<table")):
        raise FileError(f"{path}: XML or HTML; save it as CSV or Parquet")
    if delimiter is None and (told := _SEP.match(text)):
        delimiter = told[1]
    found = delimiter or _find_delimiter(text, like)
    if not delimiter and not like and (doubt := _find_division(text, found)):
        raise FileError(f"{path}: one column alone, by {', '.join(map(repr, DELIMITERS[:4]))} and the like; {doubt}")
    return TextFormat(delimiter=found, encoding=encoding)


class Head(NamedTuple):
    """Where the rows of a text file begin.

    Attributes:
        line: Of the header, from 1.
        names: Of the columns.
        has_rows: Whether there are any.
    """

    line: int
    names: list[str]
    has_rows: bool


def read_head(path: Source, text: TextFormat) -> Head:
    """Find the header.

    Raises:
        FileError: The file is empty; or see `records`.
    """
    found = records(path, text)
    line, names = next(found, (0, []))
    if not names:
        raise FileError(f"{path}: empty")
    return Head(line, [name.strip().strip("\ufeff") for name in names], next(found, None) is not None)


def records(path: Source, text: TextFormat) -> Iterator[tuple[int, list[str]]]:
    """Read the records of a file, the header first, each with the line it starts on, from 1.

    Blank lines are no records, nor are lines before the header, such as a title or Excel's `sep=;`. Where all rows have
    a cell more than the header, it gets a name more. Characters that the encoding has not are lone surrogates.

    Raises:
        FileError: A quotation mark is not closed, or stands amid a cell.
    """
    found = _all_records(path, text)
    sample = list(itertools.islice(found, _SAMPLED_RECORDS))
    start, width = _find_header([record for _, record in sample], text.delimiter)
    rows = sample[start + 1 :]
    for line, header in sample[start : start + 1]:
        yield line, _complete(header, [record for _, record in rows])
    for line, record in itertools.chain(rows, found):
        if width == 1 or len(record) > 1 or record[0].strip():
            yield line, record


def _complete(header: list[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The header with the name that all rows show it to lack: of an empty last cell, or of R's names of rows."""
    if rows and all(len(row) == len(header) + 1 for row in rows):
        if not any(row[-1].strip() for row in rows):
            return [*header, ""]
        if all(header) and ROW_NAMES not in header and len({row[0] for row in rows}) == len(rows) > 1:
            return [ROW_NAMES, *header]
    return header


def _all_records(path: Source, text: TextFormat) -> Iterator[tuple[int, list[str]]]:
    """Read all records but empty lines."""
    with reading(path), open_text(path, text.encoding) as file:
        decoded = io.TextIOWrapper(file, python_encoding(text.encoding), errors="surrogateescape", newline="")
        reader = _divide(decoded, text.delimiter, strict=True)
        line = 1
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            raise FileError(f"{path}, line {line}: {_in_words(str(error), text)}") from error


def _divide(lines: Iterable[str], delimiter: str, *, strict: bool = False) -> "Reader":
    """Read records, whose cells may be long: the limit is one of the process, and begins at 131,072 characters."""
    csv.field_size_limit(LARGEST_CELL)
    return csv.reader(lines, delimiter=delimiter, strict=strict)


def _in_words(problem: str, text: TextFormat) -> str:
    """The csv module's problem with a record, and the remedy."""
    if problem == "unexpected end of data":
        return "a quotation mark that begins a cell is never closed; close it, or write it twice within quotes"
    if problem.endswith("expected after '\"'"):
        return f"a quotation mark stands amid a cell; write it twice, or put {text.delimiter!r} after it"
    return problem


def _find_header(found: Sequence[Sequence[str]], delimiter: str) -> tuple[int, int]:
    """Find the header's number among the first records, and its width.

    It is the first record that has more than one cell, where most have; before it may stand a title, alone or padded
    with delimiters, or several lines of fewer cells, as an account and its balance.
    """
    start = 1 if found and "".join(found[0]).strip() in {"sep=", f"sep={delimiter}"} else 0
    widths = Counter(len(record) for record in found[start:] if any(cell.strip() for cell in record))
    usual = max(widths, key=lambda width: (widths[width], width), default=0)
    if usual == 1:
        start += sum(1 for _ in itertools.takewhile(lambda record: not record[0].strip(), found[start:]))
    for number, record in enumerate(found[start:], start):
        alone = not any(cell.strip() for cell in record[1:])
        below = found[number + 1] if number + 1 < len(found) else ()
        # A record above cells is a header, though it may name only the first column.
        padded = alone and (usual > 2 or len(record) < usual) and not any(map(CELL.fullmatch, below))
        # The header of rows that end with a delimiter is one cell shorter than they are.
        title = len(record) < usual and (
            len(below) < usual or (number > start and not any(map(_AMOUNT.fullmatch, below)))
        )
        if usual < 2 or not (len(record) < usual - 1 or padded or title):
            return number, len(record)
    return start, len(found[start]) if start < len(found) else 0


def wrong_records(path: Source, text: TextFormat) -> dict[int, str]:
    """Find the rows, from 0, that have more or fewer cells than the header, and say so of each with its line.

    Raises:
        FileError: See `records`.
    """
    found = records(path, text)
    width = len(next(found, (0, []))[1])
    return {
        row: f"line {line} has {len(record)} cell{'' if len(record) == 1 else 's'}; "
        f"the header has {width}, divided by {text.delimiter!r}"
        for row, (line, record) in enumerate(found)
        if len(record) != width
    }


def check_records(path: Source, text: TextFormat) -> None:
    """Read all records to find the wrong ones.

    Raises:
        FileError: Names the first rows with more or fewer cells than the header, an open quotation mark, or bytes that
            are not of the encoding.
    """
    if wrong := wrong_records(path, text):
        shown = "; ".join(f"row {row + 1}: {detail}" for row, detail in itertools.islice(wrong.items(), _SHOWN))
        more = f"; and {len(wrong) - _SHOWN:,} more such rows" if len(wrong) > _SHOWN else ""
        remedy = f"correct or remove these lines; a cell with {text.delimiter!r} in it needs double quotes"
        raise FileError(f"{path}, {shown}{more}; {remedy}")
    for row, (line, record) in enumerate(records(path, text)):
        if any("\udc80" <= character <= "\udcff" for character in "".join(record)):
            where = f"row {row} (line {line})" if row else f"header (line {line})"
            raise FileError(f"{path}, {where}: not {text.encoding.upper()}; {tell_encoding(path)}")


def find_letters(path: Source, text: TextFormat) -> str | None:
    """Find the first cell with a character beyond ASCII, which shows whether the encoding is right."""
    return next((cell for _, record in records(path, text) for cell in record if not cell.isascii()), None)


def find_line(path: Source, text: TextFormat, row: int) -> int | None:
    """Find the line, from 1, on which a row, from 0, starts."""
    found = next(itertools.islice(records(path, text), row + 1, None), None)
    return found and found[0]


def _find_delimiter(text: str, like: TabularInput | None) -> str:
    """Choose by the wanted names, then by how many records have as many cells as the header, then by that number.

    Lines before the header count against it, as the commas of `1,5;2,5` do not divide the header `a;b`, and so does a
    first row unlike the header, as where `Balance:;1.234,56` stands above that.
    """

    def fit(delimiter: str) -> tuple[int, float, int]:
        reader = _divide(io.StringIO(text, newline=""), delimiter)
        found = [record for _, record in zip(range(_SAMPLED_RECORDS), reader, strict=False) if record]
        start, width = _find_header(found, delimiter)
        if width < 2:
            return 0, 0.0, 0
        header = {name.strip() for name in found[start]}
        # The last record may be cut, and a line may divide the header from the rows.
        rows = [record for record in found[start + 1 : -1] or found[start + 1 :] if "".join(record).strip("-+=_ ")]
        alike = [len(record) == width for record in rows]
        share = sum(alike) / len(alike) if alike else 1.0
        if start:
            share *= _TITLED * _LINE_BEFORE**start
        if alike and not alike[0]:
            share *= _UNLIKE_HEADER
        return sum(name in header for name in names), share, width

    names = like.given if like else ()
    likely = (like.text.delimiter,) if like and like.text else ()
    candidates: tuple[str, ...] = (*likely, *DELIMITERS)
    return max(candidates, key=fit)


def _find_division(text: str, delimiter: str) -> str | None:
    """Say what seems to divide lines that no delimiter does: the same in the header and in all lines."""
    lines = [line for line in text.splitlines()[:_SAMPLED_RECORDS] if line.strip()]
    if len(lines) > 1 and all(line[0] == line.rstrip()[-1] == '"' for line in lines):
        found = list(_divide(lines, ","))
        for mark in DELIMITERS if all(len(record) == 1 for record in found) else ():
            if found[0][0].count(mark) and len({record[0].count(mark) for record in found}) == 1:
                return f"each line stands in quotation marks as a whole, with {mark!r} within; remove these marks"
    if len(lines) < 2 or any(delimiter in line for line in lines):
        return None
    lines = lines if len(lines) < _SAMPLED_RECORDS else lines[:-1]
    for mark in sorted({character for character in lines[0] if not (character.isalnum() or character in "\"'_.+-")}):
        if len({line.count(mark) for line in lines}) == 1:
            return f"if {mark!r} divides its lines, say so by --dataset.delimiter {mark!r}; if not, by {delimiter!r}"
    header, *rows = map(len, _divide(lines, " "))
    if header > 1 and len(set(rows)) == 1 and rows[0] in {header, header + 1}:
        return f"if ' ' divides its lines, say so by --dataset.delimiter ' '; if not, by {delimiter!r}"
    if len(lines[0].split()) > 1 and len({len(line.split()) for line in lines}) == 1:
        return "its lines seem to be divided by several blanks, which are not read; save it with one delimiter"
    return None

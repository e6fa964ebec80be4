"""Text files of a table: their encoding, their delimiter, and their records with the lines they stand on."""

import codecs
import csv
import io
import re
from collections.abc import Iterator

from service.bundle import TabularInput, TextFormat
from service.errors import FileError
from service.readers.files import open_file, reading

DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 2**22
"""Bytes of a file that decide its encoding and delimiter."""

_SAMPLED_RECORDS = 200
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def find_format(
    path: str, delimiter: str | None = None, encoding: str | None = None, like: TabularInput | None = None
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
    likely = like.text if like else None
    encoding = encoding or _find_encoding(path, sample, likely, whole=len(sample) < SAMPLE)
    try:
        text = codecs.getincrementaldecoder(python_encoding(encoding))().decode(sample)
    except (UnicodeDecodeError, LookupError) as error:
        raise FileError(f"{path}: not {encoding} ({error}); say which, by the option encoding") from error
    if not text.strip():
        raise FileError(f"{path}: empty")
    return TextFormat(delimiter=delimiter or _find_delimiter(text, like), encoding=encoding)


def python_encoding(encoding: str) -> str:
    """Python's name for the encoding that reads a byte order mark as no character."""
    return "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding


def records(path: str, text: TextFormat) -> Iterator[tuple[int, list[str]]]:
    """Read the records of a file but blank lines, the header first, each with the line it starts on, from 1.

    Characters that the encoding has not are lone surrogates.

    Raises:
        FileError: A quotation mark is not closed, or stands amid a cell.
    """
    with reading(path), open_file(path) as file:
        decoded = io.TextIOWrapper(file, python_encoding(text.encoding), errors="surrogateescape", newline="")
        reader = csv.reader(decoded, delimiter=text.delimiter, strict=True)
        line = 1
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            raise FileError(f"{path}, line {line}: {error}") from error


def check_records(path: str, text: TextFormat) -> None:
    """Read all records to find the first that is wrong.

    Raises:
        FileError: Names the record with more or fewer cells than the header, an open quotation mark, or bytes that are
            not of the encoding.
    """
    width = 0
    for row, (line, record) in enumerate(records(path, text)):
        width = width or len(record)
        where = f"{path}, row {row} (line {line})" if row else f"{path}, header (line {line})"
        if len(record) != width:
            raise FileError(f"{where}: {len(record)} cells; the header has {width}, divided by {text.delimiter!r}")
        if any("\udc80" <= character <= "\udcff" for character in "".join(record)):
            raise FileError(f"{where}: not {text.encoding.upper()}; say which, by the option encoding")


def find_line(path: str, text: TextFormat, row: int) -> int | None:
    """Find the line, from 1, on which a row, from 0, starts."""
    for number, (line, _) in enumerate(records(path, text)):
        if number == row + 1:
            return line
    return None


def _find_encoding(path: str, sample: bytes, likely: TextFormat | None, *, whole: bool) -> str:
    for mark, name in _BOMS:
        if sample.startswith(mark):
            return name
    if sample.startswith(b"PK"):
        raise FileError(f"{path}: a spreadsheet or an archive; save it as CSV or Parquet")
    start = sample[:4096]
    if 3 * start[1::2].count(0) > len(start[1::2]):
        return "utf-16-le"
    if b"\0" in start:
        raise FileError(f"{path}: neither text nor Parquet")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=whole)
    except UnicodeDecodeError:
        if likely:
            return likely.encoding
        high, low = len(re.findall(rb"[\x80-\xff]", sample)), len(re.findall(rb"[A-Za-z]", sample))
        if high > low:
            raise FileError(f"{path}: not UTF-8; say its encoding, by the option encoding") from None
        # Files of few letters beyond ASCII that are not UTF-8 come from Windows; detectors mistake them for others.
        return "cp1252"
    return "utf-8"


def _find_delimiter(text: str, like: TabularInput | None) -> str:
    """Choose by the wanted names, then by how many records have as many cells as the header, then by that number."""

    def fit(delimiter: str) -> tuple[int, float, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        found = [record for _, record in zip(range(_SAMPLED_RECORDS), reader, strict=False) if record]
        width = len(found[0]) if found else 0
        if width < 2:
            return 0, 0.0, 0
        header = {name.strip() for name in found[0]}
        # The last record of a sample may be cut.
        alike = [len(record) == width for record in found[1:-1] or found[1:]]
        return sum(name in header for name in names), sum(alike) / len(alike) if alike else 1.0, width

    names = like.given if like else ()
    likely = (like.text.delimiter,) if like and like.text else ()
    candidates: tuple[str, ...] = (*likely, *DELIMITERS)
    return max(candidates, key=fit)

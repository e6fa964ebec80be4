"""The encoding of text files."""

import codecs
import re

from service.bundle import TextFormat
from service.errors import FileError
from service.readers.arrays import NPY
from service.readers.files import Source, TextBytes

_AMONG_DIGITS = re.compile(rb"(?<=\d)\xa0(?=\d)|(?<=\d)[ \xa0]?\x80|\x80(?=[ \xa0]?\d)")
"""The blank between thousands, and the sign of the euro, in Windows-1252: no letters of another alphabet."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # It begins as UTF-16's does.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = {
    b"PK": "a spreadsheet or an archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "a stream of Arrow",
    b"SQLite": "a database",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    NPY: "a NumPy array, for the recipe arrays",
    b"\x89PNG": "a picture, for the recipe images",
    b"\xff\xd8\xff": "a picture, for the recipe images",
    b"%PDF": "a PDF document",
    b"ORC": "an ORC file",
    b"Obj\1": "an Avro file",
    b"\x89HDF": "an HDF5 file",
}
"""Other files, by how they begin."""


def decode_sample(
    path: Source, sample: bytes, encoding: str | None, likely: TextFormat | None, *, whole: bool
) -> tuple[str, str]:
    """Decode the first bytes of a file.

    Args:
        path: Of the file.
        sample: The bytes.
        encoding: If it is known.
        likely: How text was written in the file that the model is from.
        whole: The file has no more bytes.

    Returns:
        The encoding, and the text.

    Raises:
        FileError: It is no text, or in an encoding that has to be told.
    """
    found = encoding or _find_encoding(path, sample, likely, whole=whole)
    try:
        "".encode(found)  # Others unpack.
        return found, codecs.getincrementaldecoder(python_encoding(found))().decode(sample)
    except (UnicodeError, LookupError) as error:
        wrong = f"not {found} ({error})"
        if encoding is None and isinstance(error, UnicodeDecodeError):
            line = sample.count(b"\n", 0, error.start) + 1
            wrong = f"not UTF-8, nor Windows-1252 by the byte {sample[error.start]:#x} on line {line:,}"
        raise FileError(f"{path}: {wrong}; {tell_encoding(path)}") from error


def python_encoding(encoding: str) -> str:
    """Python's name for the encoding that reads a byte order mark as no character."""
    return "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding


def _find_encoding(path: Source, sample: bytes, likely: TextFormat | None, *, whole: bool) -> str:
    if known := next((name for mark, name in _BOMS if sample.startswith(mark)), None):
        return known
    if kind := next((kind for magic, kind in _FOREIGN.items() if sample.startswith(magic)), None):
        raise FileError(f"{path}: {kind}; save it as CSV or Parquet, plain, gzipped or compressed by zstd")
    start = sample[:4096]
    if b"\0" in start:
        for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            if 3 * start[first::2].count(0) > len(start[first::2]):
                return name
    if b"\0" in sample:
        raise FileError(
            f"{path}: neither text nor Parquet; byte {sample.index(0) + 1} is NUL; save it as CSV or Parquet"
        )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=whole)
    except UnicodeDecodeError:
        if likely:
            return likely.encoding
        sample = _AMONG_DIGITS.sub(b"", sample)
        high, low = len(re.findall(rb"[\x80-\xff]", sample)), len(re.findall(rb"[A-Za-z]", sample))
        foreign = sum(map(len, re.findall(rb"[\x80-\xff]{4,}", sample)))
        if high > low or 2 * foreign > high:
            detail = f"not UTF-8, nor Windows-1252 by its letters; {tell_encoding(path)}"
            examples = "" if isinstance(path, TextBytes) else ", such as cp1251 (Cyrillic), cp1253 (Greek) or gb18030"
            raise FileError(f"{path}: {detail}{examples}") from None
        # Western texts have few letters beyond ASCII, and hardly ever four in a row; detectors mistake them for others.
        return "cp1252"
    return "utf-8"


def tell_encoding(path: Source) -> str:
    """The remedy where a file is in another encoding."""
    return "send UTF-8" if isinstance(path, TextBytes) else "say its encoding, by the option encoding"

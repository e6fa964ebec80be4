"""One exchange over HTTP: read the body within its limit, agree on media types, render the answer with its headers."""

from functools import lru_cache
from typing import Any

import numpy as np
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from service.bundle import ImageInput, TabularInput
from service.codecs.codec import FILE_READERS, READERS, WRITERS, AnyFile, Columns, Json, Png, Writer
from service.codecs.compression import check_encoding, decompress_aside
from service.codecs.instances import has_categories, parse_rows, picture, render
from service.codecs.rows import Reading, Rows
from service.errors import InvalidError, MediaTypeError, NotAcceptableError, TooLargeError
from service.inference import Model
from service.observability.logs import count_rows
from service.readers.arrays import Levels

MODEL_HEADERS = {
    "Lowerbound-Model": "The model's name.",
    "Lowerbound-Version": "Its version.",
    "Lowerbound-Bundle": "SHA-256 of its manifest.",
    "Lowerbound-Device": "The device in use.",
}


async def read_body(request: Request, field: str) -> object:
    """The values in a request's body, as its `Content-Type` says to read them; JSON where it says nothing.

    Raises:
        MediaTypeError: No codec reads that type, or the body is compressed in a way that is not read.
        TooLargeError: More bytes than `max_body`; the rest is not read.
        MalformedError: See `Reader.decode`.
        InvalidError: See `Reader.decode`.
    """
    media_type = _media_type(request)
    readers = READERS | FILE_READERS if field == "instances" else READERS
    reader = readers.get(media_type)
    if reader is None:
        raise MediaTypeError(f"bodies of {media_type!r} are not read; send {', '.join(readers)}", "header.Content-Type")
    return reader.decode(await read_bytes(request), field)


async def read_rows(request: Request, model: Model, reading: Reading) -> Rows:
    """The instances in a request's body, for a model.

    Raises:
        RequestError: See `read_body` and `parse_rows`.
        TooLargeError: They are more than the model answers at once.
    """
    values = await read_body(request, "instances")
    data = model.manifest.input
    if isinstance(values, np.ndarray) and values.shape == data.shape and _media_type(request) == AnyFile.media_type:
        values = values[None]  # A file of one instance may leave out the axis of rows.
    if isinstance(values, np.ndarray | list | Levels):
        model.check_rows(len(values))
    if isinstance(values, np.ndarray) and has_categories(data) and _media_type(request) == Json.media_type:
        values = values.tolist()  # In JSON a number stands for itself, as in records, not for a category's code.
    return parse_rows(values, data, reading)


async def read_bytes(request: Request) -> bytes:
    """A request's body, decompressed as its `Content-Encoding` says.

    Raises:
        TooLargeError: More bytes than `max_body`, as they come or decompressed; the rest is not read.
        EncodingError: See `decompress`.
        MalformedError: See `decompress`.
    """
    encoding = _header(request, b"content-encoding").lower()
    check_encoding(encoding)
    limit: int = request.app.state.settings.max_body
    return await decompress_aside(await _receive(request, limit), encoding, limit)


async def _receive(request: Request, limit: int) -> bytes:
    declared = _header(request, b"content-length")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLargeError(f"{int(declared):,} bytes; at most {limit:,} are read", "body")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise TooLargeError(f"more than {limit:,} bytes, which is all that is read", "body")
        if not message.get("more_body", False):
            return b"".join(chunks)


def _media_type(request: Request) -> str:
    return _header(request, b"content-type", Json.media_type).partition(";")[0].strip().lower()


def choose_writer(request: Request, *extra: str) -> Writer:
    """The writer of the answer: the best match of `Accept` among the codecs and the types in `extra`.

    Raises:
        NotAcceptableError: The client accepts none of them.
    """
    return WRITERS[_best(_header(request, b"accept", "*/*"), (*READERS, *extra))]


def respond(model: Model, writer: Writer, columns: dict[str, Any]) -> Response:
    """An answer, naming the model that gave it; a picture shows its `instances` and nothing else."""
    data = model.manifest.input
    count_rows(len(next(iter(columns.values()))))
    shown: Columns = columns
    if isinstance(data, ImageInput) and writer.media_type == Png.media_type:
        shown = {"picture": picture(columns["instances"], data)}
    elif isinstance(data, TabularInput) and writer.records:
        shown = render(columns, data)
    return _Answer(writer.encode(shown), _heading(*_identity(model), writer.media_type))


class _Answer(Response):
    """A response whose headers, but for the length, were made before."""

    def __init__(self, content: bytes, heading: list[tuple[bytes, bytes]]) -> None:
        self.status_code = 200
        self.background = None
        self.body = content
        self.raw_headers = [*heading, (b"content-length", b"%d" % len(content))]


@lru_cache(maxsize=256)
def _heading(*values: str) -> list[tuple[bytes, bytes]]:
    """The headers of every answer of one type by one model, as they go over the wire.

    By what they say, not by the model: that must not be kept.
    """
    names = (*MODEL_HEADERS, "content-type")
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in zip(names, values, strict=True)]


def picture_type(model: Model) -> tuple[str, ...]:
    """The media types, beside those of all answers, that instances of this model can be shown in."""
    return (Png.media_type,) if isinstance(model.manifest.input, ImageInput) else ()


def identify(model: Model) -> dict[str, str]:
    """The headers that say which model answered, on what device."""
    return dict(zip(MODEL_HEADERS, _identity(model), strict=True))


def _identity(model: Model) -> tuple[str, str, str, str]:
    manifest = model.manifest
    return manifest.name, str(manifest.version), model.bundle.digest, model.engine.device


def _header(request: Request, name: bytes, absent: str = "") -> str:
    """A header's first value; a loop over the few that there are, where Starlette makes an object first."""
    for key, value in request.scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return absent


@lru_cache(maxsize=256)
def _best(accept: str, offers: tuple[str, ...]) -> str:
    ranges = _accepted(accept)
    best, quality = "", 0.0
    for offer in offers:
        matching = [(name.count("*"), -q) for name, q in ranges if _matches(offer, name)]
        # The most specific range decides; among equals the first offer, JSON, wins.
        offered = -min(matching)[1] if matching else 0.0
        if offered > quality:
            best, quality = offer, offered
    if not best:
        raise NotAcceptableError(f"the answers are {', '.join(offers)}", "header.Accept")
    return best


def _accepted(header: str) -> list[tuple[str, float]]:
    ranges = []
    for part in header.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            ranges.append((name, float(quality)))
        except ValueError as error:
            raise InvalidError(f"{quality!r} is no quality", "header.Accept") from error
    return ranges


def _matches(offer: str, accepted: str) -> bool:
    return accepted in {offer, "*/*", offer.partition("/")[0] + "/*"}

"""One exchange over HTTP: read the body within its limit, agree on media types, render the answer with its headers."""

from collections.abc import Collection
from functools import lru_cache

from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.api.budget import UNCOUNTED, ByteBudget
from service.bundle import Array, ImageInput
from service.codecs import bodies
from service.codecs.child import ChildProcess, LongBytes, in_pieces
from service.codecs.codec import Writer
from service.codecs.compression import MAX_RATIO, SMALL, check_encoding, decompress
from service.codecs.instances import parse_latents
from service.codecs.registry import ALL_READERS, ANSWERS, READERS, WRITERS, Png
from service.codecs.rows import Reading, Rows
from service.errors import InvalidError, MediaTypeError, NotAcceptableError, TooLargeError
from service.inference import Model
from service.observability.context import Content, Header, RequestContext

MODEL_HEADERS = {
    "Lowerbound-Model": "The model's name.",
    "Lowerbound-Version": "Its version.",
    "Lowerbound-Bundle": "SHA-256 of its manifest.",
    "Lowerbound-Device": "The device in use.",
}

_PIECE = 2**20


async def read_rows(request: RequestContext, model: Model, reading: Reading) -> Rows:
    """The instances in a request's body, for a model, as its `Content-Type` says to read them.

    Raises:
        MediaTypeError: No codec reads that type, or the body is compressed in a way that is not read.
        TooLargeError: More bytes than `max_body`, of which the rest is not read; or more rows than the model answers.
        RequestError: See `bodies`.
    """
    media_type = _check_media_type(request, ALL_READERS)
    body = await read_bytes(request)
    data, max_rows = model.manifest.input, model.max_rows
    rows = bodies.read_rows_if_quick(body, media_type, data, reading, max_rows)
    if rows is not None:
        return rows
    state = request.scope["app"].state
    child: ChildProcess = state.child
    rows = await child.run(bodies.read_rows, body, media_type, data, reading, max_rows)
    state.budget.add(max(0, rows.x.nbytes - len(body)))
    return rows


async def read_latents(request: RequestContext, model: Model) -> Array:
    """The latents in a request's body, (batch, L).

    Raises:
        RequestError: See `read_rows`.
    """
    media_type = _check_media_type(request, READERS)
    body, latent_size = await read_bytes(request), model.manifest.latent_size
    values = bodies.decode_if_quick(body, media_type, "latents")
    if values is not bodies.SLOW:
        return parse_latents(values, latent_size)
    child: ChildProcess = request.scope["app"].state.child
    return await child.run(bodies.read_latents, body, media_type, latent_size)


async def read_bytes(request: RequestContext) -> bytes | LongBytes:
    """A request's body, decompressed as its `Content-Encoding` says.

    Raises:
        ClientDisconnect: The client has left.
        TooLargeError: More bytes than `max_body`, as they come or decompressed; the rest is not read.
        EncodingError: See `decompress`.
        MalformedError: See `decompress`.
        OverloadedError: See `ByteBudget`.
    """
    encoding = request.header(b"content-encoding").lower()
    check_encoding(encoding)
    declared = request.header(b"content-length")
    state = request.scope["app"].state
    limit: int = state.settings.max_body
    if declared.isdecimal() and int(declared) > limit:
        raise TooLargeError(f"{int(declared):,} bytes; at most {limit:,} are read", "body")
    message = await request.receive()
    body: bytes | LongBytes = message.get("body", b"")
    if message.get("more_body") or len(body) > min(limit, UNCOUNTED) or message["type"] == "http.disconnect":
        body = await _receive_large(request, message, limit, state.budget)
    if encoding in {"", "identity"}:
        return body
    budget: ByteBudget = state.budget
    most = min(limit, MAX_RATIO * len(body))
    budget.take(most)
    quick = isinstance(body, bytes) and len(body) <= SMALL
    plain: bytes = await state.child.call(quick, decompress, body, encoding, limit)
    budget.add(len(plain) - most)
    return plain


async def _receive_large(
    request: RequestContext, message: Message, limit: int, budget: ByteBudget
) -> bytes | LongBytes:
    """The body whose first message this is; a `LongBytes` where it is too large to be read on the event loop."""
    # Pieces, since one buffer that grows leaves behind what it was copied from. They grow by steps larger than what a
    # socket reads: where memory ends, it ends here.
    pieces, size = [bytearray()], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLargeError(f"more than {limit:,} bytes, which is all that is read", "body")
        if size > UNCOUNTED:
            budget.take(len(chunk))
        if len(pieces[-1]) > _PIECE:
            pieces.append(bytearray())
        pieces[-1] += chunk
        if not message.get("more_body", False):
            return LongBytes(pieces) if size > bodies.QUICK_ARRAY else b"".join(pieces)
        if size > bodies.QUICK_ARRAY:
            await budget.pause(len(chunk))
        message = await request.receive()


def _check_media_type(request: RequestContext, readers: Collection[str]) -> str:
    media_type = request.header(b"content-type").partition(";")[0].strip().lower()
    if media_type not in readers:
        given = f"bodies of {media_type!r} are not read" if media_type else "names no media type"
        raise MediaTypeError(f"{given}; send {', '.join(readers)}", "header.Content-Type")
    return media_type


def choose_writer(request: RequestContext, *extra: str) -> Writer:
    """The writer of the answer: the best match of `Accept` among the codecs and the types in `extra`.

    Raises:
        NotAcceptableError: The client accepts none of them.
    """
    return WRITERS[_best(request.header(b"accept", "*/*"), (*ANSWERS, *extra))]


async def render(
    request: RequestContext,
    model: Model,
    writer: Writer,
    columns: dict[str, Array],
    rows: Rows | None = None,
    too_far: Array | None = None,
    fields: str | None = None,
) -> tuple[Content, list[Header]]:
    """The bytes of an answer, and its headers, which name the model that gave it; see `bodies.write_answer`.

    Raises:
        OverloadedError: Other requests hold so many bytes of answers that there is no room.
    """
    data, media_type = model.manifest.input, writer.media_type
    request.rows = len(next(iter(columns.values()))) if rows is None else rows.total
    content: Content
    if bodies.is_quick_answer(columns, media_type, rows):
        content = bodies.write_answer(columns, media_type, data, rows, too_far, fields)
        if len(content) > UNCOUNTED:
            hold_answer(request, len(content))
    else:
        state = request.scope["app"].state
        held = state.answers.hold(sum(values.nbytes for values in columns.values()))
        named = rows and bodies.without_values(rows)
        written = bodies.write_answer, columns, media_type, data, named, too_far, fields
        content = pieces = await state.child.run(in_pieces, *written)
        hold_answer(request, sum(map(len, pieces)), held)
    return content, _heading(*_identity(model), media_type)


def hold_answer(request: RequestContext, size: int, before: int = 0) -> None:
    """Count the bytes of an answer that is written, see `ByteBudget.hold`, until its client has taken it."""
    answers: ByteBudget = request.scope["app"].state.answers
    if answers.hold(size, before):
        answers.watch(lambda: request.taken)


@lru_cache(maxsize=256)
def _heading(*values: str) -> list[Header]:
    """The headers of every answer of one type by one model, as they go over the wire.

    Keyed by header values, so that the cache does not keep unloaded models alive.
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

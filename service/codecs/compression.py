"""Compressed bodies: the content codings that requests may come in, undone within a limit."""

import zlib

from service.errors import EncodingError, MalformedError, TooLargeError

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Their window bits in zlib; `deflate` is in zlib's wrapping, and `x-gzip` the same as `gzip`, as RFC 9110 has it."""

MAX_RATIO = 1040
"""Bytes that one compressed byte makes, at most: 1,032 and something for short bodies."""

SMALL = 2**13
"""Bytes that are decompressed within some ten milliseconds, to a thousand times as many at most."""


def check_encoding(encoding: str) -> None:
    """Refuse a coding that is not undone, before the body is read.

    Raises:
        EncodingError: It is neither gzip nor deflate, nor `identity`, nor empty.
    """
    if encoding not in {"", "identity", *_WINDOW_BITS}:
        raise EncodingError(f"{encoding!r} bodies are not read", "header.Content-Encoding", ("gzip", "deflate"))


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The bytes that were compressed, at most `limit` of them; no more than that is ever held.

    Raises:
        MalformedError: The bytes are damaged, cut off, or followed by others.
        TooLargeError: There are more than `limit`.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedError(f"not a {encoding} body: {error}", "body") from error
    if len(plain) > limit:
        raise TooLargeError(f"more than {limit:,} bytes when decompressed, which is all that is read", "body")
    if not stream.eof or stream.unused_data:
        raise MalformedError(f"not one {encoding} body: {'bytes follow it' if stream.eof else 'cut off'}", "body")
    return plain

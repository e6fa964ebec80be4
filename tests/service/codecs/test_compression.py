"""Compressed bodies: exactly one stream, and no more bytes than the limit."""

import gzip
import zlib
from collections.abc import Callable

import pytest

from service.codecs.compression import decompress
from service.errors import MalformedError, TooLargeError


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_of_the_limit_is_the_largest(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    assert decompress(pack(bytes(1000)), encoding, 1000) == bytes(1000)
    with pytest.raises(TooLargeError):
        decompress(pack(bytes(1001)), encoding, 1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bytes_beside_one_stream_are_refused(encoding: str) -> None:
    body = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](b"rows")
    for damaged, said in ((body + b"x", "bytes follow it"), (body + body, "bytes follow it"), (body[:-1], "cut off")):
        with pytest.raises(MalformedError, match=said):
            decompress(damaged, encoding, 1000)

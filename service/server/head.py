"""Heads of requests, as strict as RFC 9112."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import httptools

_HOST = re.compile(rb"([\w.~!$&'()*+,;=%-]*|\[[\da-fA-F:.]+\])(:\d*)?")
"""RFC 3986, section 3.2: `uri-host [ ":" port ]`."""

_SINGLE = b"host", b"content-type", b"content-encoding", b"transfer-encoding", b"authorization"
"""Fields of which a proxy may take one, and the service another."""


class RefusedError(Exception):
    """The connection refuses the request. Arguments: status and detail of the answer."""


def check_head(version: str, method: bytes, fields: Mapping[bytes, bytes]) -> None:
    """Refuse what RFC 9112 forbids and the parser lets through; names of fields are in lower case.

    Raises:
        RefusedError: With the status that the RFC names.
    """
    if version not in {"1.0", "1.1"}:
        raise RefusedError(505, f"HTTP/{version} is not spoken; send HTTP/1.1")
    host = fields.get(b"host")
    if host is None and version == "1.1":
        raise RefusedError(400, "there is no header field `Host`; send one")
    if host is not None and not _HOST.fullmatch(host):
        raise RefusedError(400, "`Host` is neither a name nor an address")
    if coding := fields.get(b"transfer-encoding"):
        if version == "1.0":
            raise RefusedError(400, "HTTP/1.0 has no `Transfer-Encoding`")
        if coding.lower() != b"chunked":
            raise RefusedError(501, "of the transfer codings only `chunked` is understood")
    if method == b"CONNECT":
        raise RefusedError(501, "CONNECT is not supported")


def check_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a field that stands there several times, and may not.

    Raises:
        RefusedError: 400.
    """
    times = Counter(name for name, _ in headers)
    for name in _SINGLE:
        if times[name] > 1:
            raise RefusedError(400, f"there are several header fields `{name.decode().title()}`; send one")


def refusal(error: httptools.HttpParserError) -> tuple[int, str]:
    """Status and detail of the answer; the parser puts its own error around one that it was stopped by."""
    cause = error.__context__
    return cause.args if isinstance(cause, RefusedError) else (400, str(error))

"""Access: API keys, and pages of other origins."""

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import KeysError, UnauthorizedError
from service.small_files import read_small_file

ENVIRONMENT = "LOWERBOUND_API_KEYS"
"""Keys come by this variable or by a file, never by the command line, which every user of a machine can read."""

SHORTEST = 16
"""Characters of the shortest key: with fewer, guesses might find it."""

_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # The token after `Bearer`: RFC 6750, section 2.1.
_PREFLIGHT = b"access-control-request-method"
_OPEN = ("/health/", "/v2/health/", "/explorer/")


def read_keys(file: Path | None) -> frozenset[bytes]:
    """The SHA-256 digests of the keys in a file and in the environment; none if neither names any.

    Nothing but digests is kept, so that no log, page or traceback can show a key.

    Args:
        file: One key a line; from # to the line's end is a comment.

    Raises:
        KeysError: The file cannot be read or holds no key; a key is too short, or no Bearer token. The message says
            which, and does not repeat it.
    """
    keys = {
        f"{ENVIRONMENT}, key {i}": key for i, key in enumerate(re.split(r"[,\s]+", os.environ.get(ENVIRONMENT, "")), 1)
    }
    if file is not None:
        try:
            lines = read_small_file(file).decode(errors="replace").splitlines()
        except OSError as error:
            raise KeysError(f"{file}: cannot be read: {error.strerror}") from error
        in_file = {f"{file}, line {i}": line.partition("#")[0].strip() for i, line in enumerate(lines, 1)}
        if not any(in_file.values()):
            raise KeysError(f"{file}: holds no key")
        keys |= in_file
    for place, key in keys.items():
        if key and not (_KEY.fullmatch(key) and len(key) >= SHORTEST):
            raise KeysError(f"{place}: a key is at least {SHORTEST} letters, digits and -._~+/, and may end in =")
    return frozenset(_digest(key.encode()) for key in keys.values() if key)


def with_auth(
    app: ASGIApp, keys: Collection[bytes], origins: Collection[str], answered: Callable[[ASGIApp], ASGIApp]
) -> ASGIApp:
    """Wrap the application in checks of keys and origins; without either, return it as it is.

    Args:
        app: What is asked.
        keys: See `read_keys`; a request must have one of them.
        origins: Whose pages may ask; `*` for all.
        answered: Puts `RequestMiddleware` around what refuses.
    """
    if keys:
        app = ApiKeyMiddleware(app, keys, answered(_refuse))
    if origins:  # Around the guard: a browser asks without a key whether it may send one.
        cross_origin = CORSMiddleware(
            app, allow_origins=origins, allow_methods=("GET", "POST"), allow_headers=("*",), expose_headers=("*",)
        )
        return _counting_preflights(cross_origin, answered(cross_origin))
    return app


def is_open(path: str) -> bool:
    """Whether a path answers without a key: health checks and the explorer's files do.

    Its files hold nothing of any model, and without them no user could enter a key.
    """
    return path == "/" or path.startswith(_OPEN)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ApiKeyMiddleware:
    """ASGI middleware that answers 401 to requests without a key, before their body is read."""

    def __init__(self, app: ASGIApp, keys: Iterable[bytes], refuse: ASGIApp) -> None:
        self._app = app
        self._keys = tuple(keys)
        self._refuse = refuse

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan" or is_open(scope["path"]) or self._admits(scope["headers"]):
            return self._app(scope, receive, send)
        return self._refuse(scope, receive, send)

    def _admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether there is a key; the way there is the same for all tokens of a length, right or wrong."""
        for name, value in headers:
            if name == b"authorization":
                scheme, _, token = value.partition(b" ")
                is_bearer = scheme.lower() == b"bearer"
                given = _digest(token.strip(b" "))
                found = False
                for key in self._keys:
                    found |= hmac.compare_digest(key, given)
                return found and is_bearer
        return False


def _counting_preflights(app: ASGIApp, counted: ASGIApp) -> ASGIApp:
    """The application, but `counted` for preflight requests, which CORS answers: with an id, and in the metrics."""

    def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_preflight = scope["type"] == "http" and scope["method"] == "OPTIONS" and _PREFLIGHT in dict(scope["headers"])
        return (counted if is_preflight else app)(scope, receive, send)

    return call


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    raise UnauthorizedError("bring one of the service's keys, as `Bearer KEY`", "header.Authorization")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

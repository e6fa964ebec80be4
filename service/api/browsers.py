"""Protection from web pages: the names that the service answers to, other origins, and the policy of its own pages."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ForbiddenError

_SAFE = {"GET", "HEAD", "OPTIONS"}
LOOPBACK_NAMES = ("localhost", ".localhost")
"""The names that the service answers to on an address of this machine, unless told."""


def page_headers(policy: str) -> dict[str, str]:
    """The headers of a page for people; the policy says where scripts, styles and all else may come from."""
    fixed = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    return {
        "Content-Security-Policy": f"{policy}; {fixed}",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


class BrowserMiddleware:
    """ASGI middleware that answers 403 to requests that a page of another site may have made a browser send.

    A page whose name's owner lets it resolve to this machine (DNS rebinding) sends its own name as `Host`. IP
    addresses cannot be rebound and are always allowed, so probes by address work. A page of another origin sends an
    `Origin` that differs from `Host`; clients other than browsers send none.

    Args:
        app: What answers all other requests.
        hosts: Names allowed in `Host`; one that begins with a dot stands for all names below it, `*` for all names.
        origins: Origins of other sites whose pages may send requests; `*` for all.
        answered: Puts `RequestMiddleware` around what refuses.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], origins: Collection[str], answered: Callable[[ASGIApp], ASGIApp]
    ) -> None:
        self._app = app
        self._hosts = [host.lower() for host in hosts]
        self._origins = {origin.encode() for origin in origins}
        self._refuse = answered(self._raise)
        self._is_allowed = lru_cache(maxsize=256)(self._matches)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host, origin = headers.get(b"host", b""), headers.get(b"origin", b"")
            is_safe = not origin or scope["method"] in _SAFE
            if not self._is_allowed(host) or not (is_safe or self._may_send(origin, headers, host)):
                return self._refuse(scope, receive, send)
        return self._app(scope, receive, send)

    def _matches(self, host: bytes) -> bool:
        name = _name(host)
        try:
            ip_address(name)
        except ValueError:
            wildcards = (allowed for allowed in self._hosts if allowed.startswith("."))
            return not name or "*" in self._hosts or name in self._hosts or name.endswith(tuple(wildcards))
        return True

    def _may_send(self, origin: bytes, headers: Mapping[bytes, bytes], host: bytes) -> bool:
        is_own = headers.get(b"sec-fetch-site") == b"same-origin" or origin.lower().partition(b"://")[2] == host.lower()
        return is_own or b"*" in self._origins or origin in self._origins

    async def _raise(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"")
        if not self._is_allowed(host):
            raise ForbiddenError(
                f"the service does not answer to the name {_name(host)!r}; --allowed-hosts names those that it does",
                "header.Host",
            )
        origin = headers[b"origin"].decode("latin-1")
        raise ForbiddenError(
            f"pages of {origin} may not send this; --cors-origins names those that may", "header.Origin"
        )


def _name(host: bytes) -> str:
    """The name or address in a `Host`, without its port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")

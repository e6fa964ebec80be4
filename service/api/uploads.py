"""Bodies that are large, or come in several messages: received within their limits, beside the smaller requests."""

from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.api.budget import UNCOUNTED, ByteBudget
from service.codecs.bodies import QUICK_ARRAY
from service.codecs.child import LongBytes
from service.errors import TooLargeError
from service.observability.context import RequestContext


async def receive(request: RequestContext, message: Message, limit: int, budget: ByteBudget) -> bytes | LongBytes:
    """The body whose first message this is; a `LongBytes` where it is too large to be read on the event loop.

    Raises:
        ClientDisconnect: The client has left.
        TooLargeError: The body has more bytes than `limit`; the rest is not read.
        OverloadedError: See `ByteBudget`.
    """
    buffer = bytearray()  # It grows by steps larger than what a socket reads: where memory ends, it ends here.
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size = len(buffer) + len(chunk)
        if size > limit:
            raise TooLargeError(f"more than {limit:,} bytes, which is all that is read", "body")
        if size > UNCOUNTED:
            budget.take(len(chunk))
        buffer += chunk
        if not message.get("more_body", False):
            return LongBytes(buffer) if size > QUICK_ARRAY else bytes(buffer)
        if size > QUICK_ARRAY:
            await budget.pause(len(chunk))
        message = await request.receive()

"""The cost of HTTP alone: reads the body, answers a constant. `FOLDER PORT`."""

import sys
from typing import Any

import uvicorn

ANSWER = b'{"elbo":[0.0]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", lifespan="off")

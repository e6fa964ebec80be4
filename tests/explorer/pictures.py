"""Pictures for the explorer's tests: as files that are sent, and as the endpoints answer them."""

import io
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.service.http_client import NPY, PNG, Array, columns, picture, post

MINUS = "\u2212"


def coloured(grey: Array) -> Array:
    return np.repeat(grey[..., None], 3, axis=2)


def shown(client: httpx.Client, z: Array, prefix: str = "") -> Array:
    """Each point's picture, as `/decode` draws it."""
    return np.stack([coloured(picture(post(client, f"{prefix}/decode", row[None], PNG))) for row in z])


def sample(client: httpx.Client, **query: Any) -> dict[str, Array]:
    return columns(client.get("/sample", params=query, headers={"Accept": NPY}))


def png(levels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "png")
    return buffer.getvalue()


def file(name: str, content: bytes) -> Any:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def number(text: str) -> float:
    return float(text.replace(MINUS, "-").replace(",", ""))

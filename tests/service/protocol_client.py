"""Requests of the Open Inference Protocol, by Triton's own client."""

from typing import Any

import httpx
import numpy.typing as npt
import tritonclient.http as triton

from service.codecs.oip import datatype

Array = npt.NDArray[Any]


def address(client: httpx.Client) -> str:
    return str(client.base_url).removeprefix("http://").rstrip("/")


def tensor(array: Array, name: str = "x", *, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype(array.dtype.name))
    return made.set_data_from_numpy(array, binary_data=binary)


def wanted(names: list[str], *, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]

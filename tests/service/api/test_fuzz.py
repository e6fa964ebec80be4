"""Valid bytes, damaged at random: every answer is a typed one, and never a fault of the service.

`pytest -s tests/service/api/test_fuzz.py -m slow` prints how many were tried and how they were answered.
"""

import collections
import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.api.problem_details import PROBLEM_MEDIA_TYPE
from service.api.schemas import Problem
from service.bundle import Array
from service.codecs.compression import decompress
from service.codecs.oip import read_raw, read_request
from service.errors import STATUS, RequestError
from tests.conftest import run_server
from tests.service.damage import THOROUGH, Counts, damaged, edited, report
from tests.service.http_client import ARROW, CSV, JSON, NPY, arrow, npy

pytestmark = pytest.mark.slow

ANSWERS = {200, *(status.value for status in STATUS.values())} - {401, 503, 504}


def dumps(document: Any) -> bytes:
    return json.dumps(document).encode()


def binary_request(name: str, datatype: str, array: np.ndarray[Any, Any], **outputs: Any) -> tuple[bytes, int]:
    """A request of the Open Inference Protocol with its tensor in binary, and the length of its JSON."""
    data = array.tobytes()
    tensor = {"name": name, "shape": array.shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    head = dumps({"id": "7", "inputs": [tensor], "outputs": [{"name": key, **value} for key, value in outputs.items()]})
    return head + data, len(head)


IMAGES = np.random.default_rng(0).integers(0, 17, (2, 8, 8), dtype=np.uint8)
ROWS = [{"age": 1.5, "colour": "red"}, {"age": None, "colour": None}]


def npz(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, X=array)
    return buffer.getvalue()


def picture(kind: str, *shape: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(shape, 90, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def fixed_size_lists() -> pa.Table:
    flat = pa.array(IMAGES.reshape(-1))
    return pa.table({"instances": pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(flat, 8), 8)})


CORPUS: dict[str, list[bytes]] = {
    JSON: [
        dumps({"instances": IMAGES.tolist()}),
        dumps({"instances": IMAGES[:1].astype(float).tolist()}),
        dumps({"instances": ROWS}),
        dumps({"instances": [[1.5, "red"], [None, None]]}),
        dumps({"latents": [[0.5] * 16]}),
    ],
    NPY: [
        npy(IMAGES),
        npy(IMAGES.astype(">f8")),
        npy(np.asfortranarray(IMAGES)),
        npy(np.array([[1.5, 0], [np.nan, 1]])),
    ],
    ARROW: [
        arrow(fixed_size_lists()),
        arrow(pa.table({"age": [1.5, None], "colour": pa.array(["red", None]).dictionary_encode()})),
        arrow(pa.table({"age": pa.array([1, 2], pa.int16()), "colour": ["red", "blue"]})),
    ],
    CSV: [
        b"age,colour\n1.5,red\n,\n",
        'colour;age;\u00df\n"bl""ue";-1,5;\u20ac\n\nred;1e400;x\n'.encode(),
        "sep=\t\nage\tcolour\n1\tred\n".encode("utf-16"),
    ],
    "image/png": [picture("png", 8, 8), picture("png", 8, 8, 3)],
    "image/jpeg": [picture("jpeg", 8, 8), picture("jpeg", 8, 8, 3)],
    "application/octet-stream": [
        *(picture(kind, 8, 8) for kind in ("webp", "tiff", "bmp", "gif")),
        bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 8]) + bytes(64),
        npz(IMAGES),
    ],
}
PATHS = ["/elbo", "/encode", "/decode"]
MODELS = ["digits", "people"]


@dataclass(frozen=True)
class Target:
    """A server of two kinds of models, its log, and how it has answered so far."""

    client: httpx.Client
    log: Path
    counts: dict[str, Counts]

    def send_request(self, kind: str, path: str, content: bytes, headers: dict[str, str]) -> None:
        """Send this, and hold the answer to what is promised of all."""
        answer = self.client.post(path, content=content, headers=headers)
        self.counts[kind][str(answer.status_code)] += 1
        if path.startswith("/v2"):
            assert answer.status_code in ANSWERS | {501, 504}  # A request may ask for no time at all.
            assert answer.status_code == 200 or re.fullmatch(r".+", answer.json()["error"], re.DOTALL)
            return
        assert answer.status_code in ANSWERS
        if answer.status_code != 200:
            assert answer.headers["Content-Type"] == PROBLEM_MEDIA_TYPE
            problem = Problem.model_validate_json(answer.content)
            assert problem.status == answer.status_code
            assert problem.detail


@pytest.fixture(scope="module")
def target(several_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    log = tmp_path_factory.mktemp("fuzz") / "log"
    counts: dict[str, Counts] = collections.defaultdict(Counts)
    with run_server("--models", str(several_models), "--default-model", "digits", log=log) as client:
        yield Target(client, log, counts)
        assert client.get("/health/ready").is_success
    assert "Traceback" not in log.read_text()
    assert "ERROR" not in log.read_text()
    report(counts)


@pytest.mark.parametrize("media_type", CORPUS)
def test_damaged_bodies_are_answered(target: Target, media_type: str) -> None:
    @given(
        content=damaged(CORPUS[media_type]),
        path=st.sampled_from(PATHS),
        model=st.sampled_from(MODELS),
        labelled=st.sampled_from([media_type] * 9 + [*CORPUS]),
    )
    @THOROUGH
    def send_request(content: bytes, path: str, model: str, labelled: str) -> None:
        target.send_request(media_type, f"/models/{model}{path}", content, {"Content-Type": labelled, "Accept": NPY})

    send_request()


def test_edited_documents_are_answered(target: Target) -> None:
    @given(
        document=edited([json.loads(body) for body in CORPUS[JSON]]),
        path=st.sampled_from(PATHS),
        model=st.sampled_from(MODELS),
    )
    @THOROUGH
    def send_request(document: Any, path: str, model: str) -> None:
        target.send_request("edited JSON", f"/models/{model}{path}", dumps(document), {"Content-Type": JSON})

    send_request()


# The Open Inference Protocol

X = {"name": "x", "shape": [2, 8, 8], "datatype": "UINT8", "data": IMAGES.reshape(-1).tolist()}
REQUESTS: list[Any] = [
    {"inputs": [X]},
    {"id": "7", "inputs": [X], "outputs": [{"name": "elbo", "parameters": {"binary_data": True}}, {"name": "kl"}]},
    {
        "inputs": [X | {"data": IMAGES.tolist()}],
        "parameters": {"num_draws": 2, "seed": 3, "refine": 1, "timeout": 10**6},
    },
]
BINARY = [
    binary_request("x", "UINT8", IMAGES),
    binary_request("x", "UINT8", IMAGES, elbo={"parameters": {"binary_data": True}}),
    binary_request("z", "FP32", np.zeros((1, 16), np.float32)),
]
LENGTHS = st.sampled_from([length for _, length in BINARY])
GRAPHS = ["digits", "digits.encoder", "digits.decoder", "people"]


def test_edited_requests_are_answered(target: Target) -> None:
    @given(document=edited(REQUESTS), graph=st.sampled_from(GRAPHS))
    @THOROUGH
    def send_request(document: Any, graph: str) -> None:
        target.send_request("v2, edited JSON", f"/v2/models/{graph}/infer", dumps(document), {})

    send_request()


def test_damaged_requests_are_answered(target: Target) -> None:
    @given(
        content=damaged([body for body, _ in BINARY]),
        length=LENGTHS.map(str)
        | st.sampled_from(["0", "1", "-1", "999999999999", "x", ""])
        | st.integers(0, 300).map(str),
        encoding=st.sampled_from(["identity", "gzip", "deflate", "br"]),
        graph=st.sampled_from(GRAPHS),
        harm=st.none() | st.integers(0, 2**16),
    )
    @THOROUGH
    def send_request(content: bytes, length: str, encoding: str, graph: str, harm: int | None) -> None:
        sent = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)(content)
        if harm is not None:
            sent = sent[: harm % (len(sent) + 1)]
        headers = {"Inference-Header-Content-Length": length, "Content-Encoding": encoding}
        target.send_request("v2, damaged binary", f"/v2/models/{graph}/infer", sent, headers)

    send_request()


def test_damaged_requests_are_read_or_refused() -> None:
    """The parser alone, which is quick: more of the same."""
    counts: dict[str, Counts] = collections.defaultdict(Counts)

    @given(content=damaged([body for body, _ in BINARY]), length=st.none() | st.integers(-1, 300) | LENGTHS)
    @settings(THOROUGH, max_examples=3000)
    def read(content: bytes, length: int | None) -> None:
        try:
            read_request(content, length)
            counts["v2, the parser"]["read"] += 1
        except RequestError as error:
            counts["v2, the parser"][type(error).__name__] += 1
        with contextlib.suppress(RequestError):
            read_raw(content, "x", "uint8", (8, 8))

    read()
    report(counts)


def test_damaged_streams_are_undone_or_refused() -> None:
    counts: dict[str, Counts] = collections.defaultdict(Counts)
    plain = dumps({"instances": IMAGES.tolist()})

    @given(
        content=damaged([gzip.compress(plain), zlib.compress(plain), zlib.compress(bytes(10**6))]),
        encoding=st.sampled_from(["gzip", "deflate"]),
    )
    @settings(THOROUGH, max_examples=3000)
    def undo(content: bytes, encoding: str) -> None:
        try:
            assert len(decompress(content, encoding, 2000)) <= 2000
            counts["compression"]["read"] += 1
        except RequestError as error:
            counts["compression"][type(error).__name__] += 1

    undo()
    report(counts)

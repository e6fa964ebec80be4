"""Errors of the Open Inference Protocol: its statuses, its one shape, and the place of the offending value."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.conftest import Serve
from tests.service.protocol_client import address, tensor, wanted

Array = npt.NDArray[Any]

LENGTH = "Inference-Header-Content-Length"
JSON = "application/json"
INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def client(digits: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(digits), concurrency=4) as client:
        yield client


def assert_error(answer: httpx.Response, status: int, error: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == JSON
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["X-Request-ID"]
    assert answer.json().keys() == {"error"}
    assert re.search(error, answer.json()["error"]), answer.text


@pytest.mark.parametrize(
    ("model", "parameters", "status", "message"),
    [
        ("digits", {"draws": 3}, 400, r"parameters\.draws: is unknown; did you mean 'num_draws'\?"),
        ("digits", {"explain": True}, 400, r"parameters\.explain: is not read here"),
        ("digits", {"num_draws": 0}, 400, r"parameters\.num_draws: .* greater than or equal to 1"),
        ("digits", {"num_draws": "3"}, 400, r"parameters\.num_draws: .* valid integer"),
        ("digits", {"num_draws": True}, 400, r"parameters\.num_draws: .* valid integer"),
        ("digits", {"num_draws": 10**6}, 413, r"parameters\.num_draws: 1,000,000 draws; at most 4,096"),
        ("digits", {"seed": -1}, 400, r"parameters\.seed"),
        ("digits", {"score": "magic"}, 400, r"parameters\.score: .* 'negative_elbo'"),
        ("digits.encoder", {"seed": 1}, 400, r"parameters\.seed: is not read here"),
        ("digits.decoder", {"seed": 1}, 400, r"parameters\.seed: is not read here"),
        ("digits.draw", {"num_draws": 1}, 400, r"parameters\.num_draws: is not read here"),
        ("digits.explain", {"score": "negative_elbo"}, 400, r"parameters\.score: is not read here"),
        ("faces", {}, 404, "Not Found: no model 'faces' is served; there are digits"),
        ("digits.refine", {}, 404, r"no model 'digits\.refine' is served; there are .*digits\.encoder"),
    ],
)
def test_wrong_parameters_and_models(
    client: triton.InferenceServerClient,
    x: Array,
    z: Array,
    model: str,
    parameters: dict[str, Any],
    status: int,
    message: str,
) -> None:
    sent = tensor(z, "z") if model in {"digits.decoder", "digits.draw"} else tensor(x)
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(model, [sent], parameters=parameters)
    assert caught.value.status() == str(status)


def test_wrong_tensors(client: triton.InferenceServerClient, x: Array, z: Array) -> None:
    def refused(message: str, *inputs: triton.InferInput, model: str = "digits", **more: Any) -> None:
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(model, list(inputs), **more)
        assert caught.value.status() == "400"

    refused(r"x\[0\]\[0\]: must be an array of 8 values, not a number", tensor(x[0]))
    refused(r"x\[0\]: must have 8 values, not 64", tensor(x.reshape(5, 64)))
    refused("x: must hold at least one instance", tensor(x[:0]))
    refused(r"x\[0\]\[0\]\[0\]: 17 is outside \[0, 16\]", tensor(np.full_like(x, 17)))
    refused(r"x\[0\]\[0\]\[0\]: 0\.5 is not a whole level", tensor(np.full(x.shape, 0.5)))
    refused(r"x\[0\]\[0\]\[0\]: nan is not a finite number", tensor(np.full(x.shape, np.nan, np.float32)))
    refused(r"inputs: digits takes the one input 'x', not 'z'", tensor(z, "z"))
    refused(r"inputs: digits takes the one input 'x', not 'x', 'noise'", tensor(x), tensor(z, "noise"))
    refused(r"z\[0\]: must have 16 values, not 4", tensor(z.reshape(5, 4, 4), "z"), model="digits.decoder")
    refused(r"z\[0\]\[0\]: inf is not a finite", tensor(np.full_like(z, np.inf), "z"), model="digits.draw")
    refused(r"outputs\[1\]\.name: no output is named 'loss'", tensor(x), outputs=wanted(["kl", "loss"], binary=True))
    refused(
        r"outputs\[0\]\.parameters\.classification: no output is a class",
        tensor(x),
        outputs=[triton.InferRequestedOutput("kl", class_count=3)],
    )
    shared = triton.InferInput("x", [5, 8, 8], "UINT8")
    shared.set_shared_memory("region", 320)
    refused(r"inputs\[0\]\.parameters\.shared_memory_region: shared memory is not used", shared)
    text = triton.InferInput("x", [1], "BYTES").set_data_from_numpy(np.array([b"x"], object))
    refused(r"inputs\[0\]\.datatype: 'BYTES' is not read", text)


def test_what_the_protocol_has_and_this_service_has_not(client: triton.InferenceServerClient) -> None:
    for call in (
        client.get_system_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
        client.get_model_repository_index,
        lambda: client.load_model("digits"),
        lambda: client.get_model_config("faces"),
        lambda: client.get_model_metadata("digits", "2"),
        lambda: client.get_inference_statistics("digits", "x"),
    ):
        with pytest.raises(InferenceServerException, match=r"Not Found: |path\.version: ") as caught:
            call()
        assert caught.value.status() == "404"


def sent(x: Array, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": x.shape, "datatype": "UINT8", "data": x.tolist()}]} | changes


def test_errors_have_one_shape(digits: httpx.Client, x: Array) -> None:
    assert_error(digits.get("/v2/"), 404, "^Not Found: GET /v2/$")
    assert_error(digits.get("/v2/nowhere"), 404, "^Not Found: GET /v2/nowhere$")
    assert_error(digits.get(INFER), 405, "^Method Not Allowed: GET /v2/models/digits/infer$")
    assert digits.get(INFER).headers["Allow"] == "POST"
    assert_error(digits.post(INFER), 400, "^Bad Request: not readable JSON")
    assert_error(digits.post(INFER, content=b"[]"), 400, "^body: ")
    for length in ("-1", "x", "9999999", "1.5"):
        assert_error(digits.post(INFER, json=sent(x), headers={LENGTH: length}), 400, f"^(body|header.{LENGTH}): ")
    assert_error(digits.post(INFER, content=b"123", headers={LENGTH: "0"}), 400, "^body: 3 bytes; a row of x has 64")
    assert_error(digits.post(INFER, content=b"", headers={LENGTH: "0"}), 400, "^x: must hold at least one instance")
    surrogate = digits.post(INFER, content=json.dumps(sent(x, parameters={"\ud800": 1})))
    assert_error(surrogate, 400, "^parameters: .* unicode string")
    for wrong in ({"timeout": -1}, {"timeout": "1"}, {"priority": -1}, {"binary_data_output": 1}):
        assert_error(digits.post(INFER, json=sent(x, parameters=wrong)), 400, f"^parameters.{next(iter(wrong))}: ")
    # Elsewhere errors stay problems.
    assert digits.get("/v20").headers["Content-Type"] == "application/problem+json"


def test_members_of_other_servers_are_ignored(digits: httpx.Client, x: Array) -> None:
    """What MLServer's and Triton's clients send beside the values."""
    plain = sent(x)
    (only,) = plain["inputs"]
    more = {
        "model_name": "digits",
        "parameters": {"content_type": "np", "sequence_id": 7, "triton_enable_empty_final_response": True},
        "inputs": [{**only, "parameters": {"content_type": "np", "headers": {}}, "metadata": {}}],
        "outputs": [{"name": "elbo", "parameters": {"content_type": "np"}}],
    }
    answer = digits.post(INFER, json=more)
    assert answer.status_code == 200, answer.text
    assert (
        answer.json()["outputs"] == digits.post(INFER, json=plain | {"outputs": [{"name": "elbo"}]}).json()["outputs"]
    )


def test_compression_is_bounded_and_known(serve: Serve, x: Array) -> None:
    with serve("--max-body", "5000", "--engine-threads", "1") as client:
        body = json.dumps(sent(x[:1])).encode()
        for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
            headers = {"Content-Encoding": coding}
            assert client.post(INFER, content=pack(body.ljust(5000)), headers=headers).status_code == 200
            bomb = client.post(INFER, content=pack(bytes(10**6)), headers=headers)
            assert_error(bomb, 413, "^body: more than 5,000 bytes when decompressed")
            assert_error(client.post(INFER, content=body, headers=headers), 400, f"^body: not a {coding} body")
        assert_error(client.post(INFER, content=bytes(5001)), 413, "^body: 5,001 bytes; at most 5,000")
        unknown = client.post(INFER, content=body, headers={"Content-Encoding": "br"})
        assert_error(unknown, 501, "^header.Content-Encoding: 'br' bodies are not read; send gzip, deflate, or plain")
        assert unknown.headers["Accept-Encoding"] == "gzip, deflate"
        assert client.post(INFER, content=body, headers={"Content-Encoding": "identity"}).status_code == 200


def test_timeouts(serve: Serve, client: triton.InferenceServerClient, x: Array) -> None:
    many = np.repeat(x[:1], 64, axis=0)
    with pytest.raises(InferenceServerException, match=r"not answered within 0\.001 seconds") as caught:
        client.infer("digits", [tensor(many)], timeout=1000, parameters={"num_draws": 4096})
    assert caught.value.status() == "504"
    assert client.infer("digits", [tensor(x)], timeout=10**7, priority=3).as_numpy("elbo").shape == (5,)
    body, length = triton.InferenceServerClient.generate_request_body([tensor(many)], parameters={"num_draws": 4096})
    with serve("--engine-threads", "1", "--timeout", "0.1") as server:
        answer = server.post(INFER, content=body, headers={LENGTH: str(length)})
        assert_error(answer, 504, "^Gateway Timeout: not answered within 0.1 seconds")


def test_overload_says_when_to_come_back(serve: Serve, x: Array) -> None:
    body, length = triton.InferenceServerClient.generate_request_body(
        [tensor(np.repeat(x[:1], 64, axis=0))], parameters={"num_draws": 4096}
    )
    with serve("--engine-threads", "1", "--timeout", "300") as server, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.post, INFER, content=body, headers={LENGTH: str(length)}) for _ in range(4)]
        answers = [request.result() for request in asked]
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert_error(answer, 429, "^Too Many Requests: 262,144 row-draws are queued")
                assert int(answer.headers["Retry-After"]) >= 1


def test_no_request_has_very_many_tensors(digits: httpx.Client) -> None:
    inputs = [{"name": f"x{i}", "shape": [1], "datatype": "FP64", "data": [1]} for i in range(101)]
    said = "at most 100 items"
    assert_error(digits.post(INFER, json={"inputs": inputs}), 400, f"inputs: .*{said}")
    wanted = {"inputs": inputs[:1], "outputs": [{"name": "elbo"}] * 101}
    assert_error(digits.post(INFER, json=wanted), 400, f"outputs: .*{said}")
    assert_error(digits.post(INFER, json={"inputs": inputs[:100]}), 400, "takes the one input 'x', not 'x0', 'x1'")

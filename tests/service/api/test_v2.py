"""The Open Inference Protocol with Triton's own clients: the same numbers as the ordinary endpoints, to the bit."""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from service.bundle import BOUNDS, Bundle
from tests.conftest import Serve
from tests.service import http_client
from tests.service.protocol_client import address, tensor, wanted

Array = npt.NDArray[Any]

OUTPUTS = [*BOUNDS, "score", "p_value"]
LENGTH = "Inference-Header-Content-Length"
JSON = "application/json"
INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def client(digits: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(digits), concurrency=4) as client:
        yield client


send_request = partial(http_client.send_request, binary=True)


def columns(result: triton.InferResult) -> dict[str, Array]:
    return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}


def assert_same(first: dict[str, Array], second: dict[str, Array]) -> None:
    assert list(first) == list(second)
    for name, values in second.items():
        assert (first[name].dtype, first[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(first[name], values, name)


# What is served


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "lowerbound"
    assert metadata["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    for name in ("digits", "digits.encoder", "digits.decoder", "digits.explain", "digits.draw"):
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
    for name in ("faces", "digits.elbo", "digits.", ".encoder", "digits.encoder.encoder", "Digits"):
        assert not client.is_model_ready(name)
    for version in ("2", "x", "01", "0"):
        assert not client.is_model_ready("digits", version)


def test_models_describe_themselves(client: triton.InferenceServerClient, digits_bundle: Bundle) -> None:
    size = digits_bundle.manifest.latent_size
    expected: dict[str, tuple[tuple[str, str, list[int]], dict[str, tuple[str, list[int]]]]] = {
        "digits": (("x", "UINT8", [8, 8]), {name: ("FP64", []) for name in OUTPUTS}),
        "digits.encoder": (("x", "UINT8", [8, 8]), {"mean": ("FP32", [size]), "log_variance": ("FP32", [size])}),
        "digits.decoder": (("z", "FP32", [size]), {"x_mean": ("FP32", [8, 8])}),
        "digits.explain": (
            ("x", "UINT8", [8, 8]),
            {"feature_log_likelihood": ("FP64", [8, 8]), "latent_kl": ("FP64", [size])},
        ),
        "digits.draw": (("z", "FP32", [size]), {"x": ("FP32", [8, 8])}),
    }
    for model, ((name, kind, shape), outputs) in expected.items():
        for version in ("", "1"):
            metadata = client.get_model_metadata(model, version)
            assert (metadata["name"], metadata["versions"]) == (model, ["1"])
            assert metadata["platform"] == "onnxruntime_onnx"
            assert metadata["inputs"] == [{"name": name, "datatype": kind, "shape": [-1, *shape]}]
            assert metadata["outputs"] == [
                {"name": output, "datatype": its, "shape": [-1, *of]} for output, (its, of) in outputs.items()
            ]
            config = client.get_model_config(model, version)
            assert (config["name"], config["backend"]) == (model, "onnxruntime")
            assert config["dynamic_batching"] == {}
            assert config["max_batch_size"] == 2**18 // (16 if model in {"digits", "digits.explain"} else 1)
            assert config["input"] == [{"name": name, "data_type": f"TYPE_{kind}", "dims": shape}]
            assert config["output"] == [
                {"name": output, "data_type": f"TYPE_{its}", "dims": of} for output, (its, of) in outputs.items()
            ]


def test_statistics_count(serve: Serve, x: Array) -> None:
    with serve() as server, triton.InferenceServerClient(address(server)) as client:
        assert len(client.get_inference_statistics()["model_stats"]) == 5
        for _ in range(3):
            client.infer("digits.encoder", [tensor(x)])
        with pytest.raises(InferenceServerException):  # And nothing computed.
            client.infer("digits.encoder", [tensor(x)], parameters={"seed": 3})
        httpx.post(f"http://{address(server)}/encode", json={"instances": x.tolist()}).raise_for_status()
        (stats,) = client.get_inference_statistics("digits.encoder", "1")["model_stats"]
        assert (stats["name"], stats["version"]) == ("digits.encoder", "1")
        assert (stats["inference_count"], stats["execution_count"]) == (20, 4)
        assert abs(time.time() - stats["last_inference"] / 1000) < 60
        times = stats["inference_stats"]
        assert times.keys() == {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output"}
        counts = {name: duration["count"] for name, duration in times.items() if duration["count"]}
        assert counts == {"success": 4, "queue": 4, "compute_infer": 4}
        assert times["success"]["ns"] == times["queue"]["ns"] + times["compute_infer"]["ns"]
        assert 0 < times["compute_infer"]["ns"] < 60e9
        every = client.get_inference_statistics()["model_stats"]
        assert {model["name"]: model["inference_count"] for model in every if model["inference_count"]} == {
            "digits.encoder": 20
        }


# Answers


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [None, True, False])
@pytest.mark.parametrize("parameters", [{}, {"seed": 5, "num_draws": 7}, {"score": "negative_log_evidence"}])
def test_the_bounds_are_those_of_elbo(
    digits: httpx.Client,
    client: triton.InferenceServerClient,
    x: Array,
    binary_in: bool,
    binary_out: bool | None,
    parameters: dict[str, Any],
) -> None:
    outputs = None if binary_out is None else wanted(OUTPUTS, binary=binary_out)
    result = client.infer(
        "digits", [tensor(x, binary=binary_in)], outputs=outputs, request_id="one", parameters=parameters
    )
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("one", "digits", "1")
    assert all(("data" in output) == (binary_out is False) for output in answer["outputs"])
    assert_same(columns(result), send_request(digits, "/elbo", x, **parameters))


@pytest.mark.parametrize("binary", [True, False])
def test_every_graph_answers_as_its_endpoint(
    digits: httpx.Client, client: triton.InferenceServerClient, x: Array, z: Array, binary: bool
) -> None:
    def infer(model: str, array: Array, name: str, **parameters: Any) -> dict[str, Array]:
        outputs = wanted([output["name"] for output in client.get_model_metadata(model)["outputs"]], binary=binary)
        return columns(client.infer(model, [tensor(array, name, binary=binary)], "1", outputs, parameters=parameters))

    assert_same(infer("digits.encoder", x, "x"), send_request(digits, "/encode", x))
    decoded = infer("digits.decoder", z, "z")
    assert_same({"instances": decoded["x_mean"]}, send_request(digits, "/decode", z))
    drawn = infer("digits.draw", z, "z", seed=9)
    assert_same({"instances": drawn["x"]}, send_request(digits, "/decode", z, draw=True, seed=9))
    explained = send_request(digits, "/elbo", x, explain=True, seed=2, num_draws=6)
    expected = {name: explained[name] for name in ("feature_log_likelihood", "latent_kl")}
    assert_same(infer("digits.explain", x, "x", seed=2, num_draws=6), expected)


def test_some_outputs_in_an_order_of_their_own(
    digits: httpx.Client, client: triton.InferenceServerClient, x: Array
) -> None:
    outputs = wanted(["p_value"], binary=False) + wanted(["kl"], binary=True) + wanted(["elbo"], binary=False)
    result = client.infer("digits", [tensor(x)], outputs=outputs)
    assert [sorted(output) for output in result.get_response()["outputs"]] == [
        ["data", "datatype", "name", "shape"],
        ["datatype", "name", "parameters", "shape"],
        ["data", "datatype", "name", "shape"],
    ]
    expected = send_request(digits, "/elbo", x)
    assert_same(columns(result), {name: expected[name] for name in ("p_value", "kl", "elbo")})


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("binary", [True, False])
def test_other_numbers_are_the_same_instances(
    client: triton.InferenceServerClient, x: Array, dtype: str, binary: bool
) -> None:
    expected = columns(client.infer("digits", [tensor(x)]))
    assert_same(columns(client.infer("digits", [tensor(x.astype(dtype), binary=binary)])), expected)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_requests(client: triton.InferenceServerClient, x: Array, coding: str, binary: bool) -> None:
    expected = columns(client.infer("digits", [tensor(x)]))
    packed = client.infer(
        "digits",
        [tensor(x, binary=binary)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert_same(columns(packed), expected)


def test_the_asynchronous_client(digits: httpx.Client, x: Array, z: Array) -> None:
    async def session() -> list[triton.InferResult]:
        async with triton_aio.InferenceServerClient(address(digits)) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("digits.encoder", "1")
            assert (await client.get_server_metadata())["name"] == "lowerbound"
            assert (await client.get_model_metadata("digits"))["inputs"][0]["shape"] == [-1, 8, 8]
            assert (await client.get_model_config("digits"))["backend"] == "onnxruntime"
            assert (await client.get_inference_statistics("digits"))["model_stats"][0]["name"] == "digits"
            with pytest.raises(InferenceServerException, match="no model 'faces' is served; there are digits"):
                await client.infer("faces", [tensor(x)])
            asked: list[Awaitable[triton.InferResult]] = [
                client.infer("digits", [tensor(x)]),
                client.infer("digits", [tensor(x, binary=False)], outputs=wanted(OUTPUTS, binary=False)),
                client.infer("digits", [tensor(x)], request_compression_algorithm="gzip"),
                client.infer("digits.decoder", [tensor(z, "z")]),
            ]
            return list(await asyncio.gather(*asked))

    *bounds, decoded = map(columns, asyncio.run(session()))
    for answer in bounds:
        assert_same(answer, send_request(digits, "/elbo", x))
    assert_same({"instances": decoded["x_mean"]}, send_request(digits, "/decode", z))


def test_many_at_once_are_each_answered_alone(digits: httpx.Client, x: Array) -> None:
    async def session() -> list[triton.InferResult]:
        async with triton_aio.InferenceServerClient(address(digits), conn_limit=16) as client:
            return list(
                await asyncio.gather(*(client.infer("digits", [tensor(x[i % 5 : i % 5 + 1])]) for i in range(60)))
            )

    expected = send_request(digits, "/elbo", x)
    for i, result in enumerate(asyncio.run(session())):
        assert_same(columns(result), {name: values[i % 5 : i % 5 + 1] for name, values in expected.items()})


@pytest.mark.parametrize("rows", [1, 5])
def test_raw_bodies(digits: httpx.Client, x: Array, rows: int) -> None:
    answer = digits.post(INFER, content=x[:rows].tobytes(), headers={LENGTH: "0"})
    assert answer.headers["Content-Type"] == "application/octet-stream"
    result = triton.InferenceServerClient.parse_response_body(answer.content, header_length=int(answer.headers[LENGTH]))
    assert_same(columns(result), send_request(digits, "/elbo", x[:rows]))


@pytest.mark.parametrize("media_type", [None, JSON, "application/octet-stream", "text/html", "nonsense"])
def test_the_content_type_is_not_looked_at(digits: httpx.Client, x: Array, media_type: str | None) -> None:
    body, _ = triton.InferenceServerClient.generate_request_body([tensor(x, binary=False)], outputs=[])
    headers = {"Accept": "text/html"} | ({"Content-Type": media_type} if media_type else {})
    answer = digits.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Lowerbound-Model"] == "digits"


def test_without_parameters_the_answer_is_json(digits: httpx.Client, x: Array) -> None:
    sent = {"inputs": [{"name": "x", "shape": x.shape, "datatype": "UINT8", "data": x.tolist()}]}
    answer = digits.post("/v2/models/digits/versions/1/infer", json=sent)
    assert answer.headers["Content-Type"] == JSON
    assert LENGTH not in answer.headers
    assert answer.json().keys() == {"model_name", "model_version", "outputs"}
    expected = send_request(digits, "/elbo", x)
    assert {output["name"]: output["data"] for output in answer.json()["outputs"]} == {
        name: values.tolist() for name, values in expected.items()
    }
    some = digits.post(INFER, json=sent | {"parameters": {"binary_data_output": True}, "outputs": [{"name": "kl"}]})
    assert some.content[int(some.headers[LENGTH]) :] == expected["kl"].tobytes()


def test_a_table_with_missing_cells(several: httpx.Client) -> None:
    rows = np.array([[1.5, 1], [2, np.nan], [np.nan, 0]])
    expected = send_request(several, "/models/people/elbo", rows)
    with triton.InferenceServerClient(address(several)) as client:
        assert client.get_model_metadata("people")["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}]
        for binary in (True, False):  # The client writes a bare NaN.
            assert_same(columns(client.infer("people", [tensor(rows, binary=binary)])), expected)
        uncalibrated = client.infer(
            "people", [tensor(rows)], outputs=wanted(OUTPUTS, binary=False), parameters={"seed": 1}
        )
        assert_same(columns(uncalibrated), send_request(several, "/models/people/elbo", rows, seed=1))
        assert not client.is_model_ready("people.draw")
        with pytest.raises(InferenceServerException, match=r"x\[1\]\.colour: 2\.0 is not a category code"):
            client.infer("people", [tensor(np.array([[1.0, 1], [1, 2]]))])
        with pytest.raises(InferenceServerException, match=r"x\[1\]: too far from the training data"):
            client.infer("people", [tensor(np.array([[1.0, 1], [1e200, 1]]))])
        assert client.get_model_metadata("digits")["versions"] == ["1", "2"]
        some = np.zeros((1, 8, 8), np.uint8)
        for version, answering in (("", "2"), ("1", "1"), ("2", "2")):
            assert client.infer("digits", [tensor(some)], version).get_response()["model_version"] == answering


# The OpenAPI page


def test_the_page_describes_the_protocol(digits: httpx.Client, x: Array) -> None:
    page = digits.get("/openapi.json").json()
    models = ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"]
    paths = {path: methods for path, methods in page["paths"].items() if path.startswith("/v2")}
    assert set(paths) == {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"} | {
        prefix + end for prefix in models for end in ("", "/ready", "/config", "/stats", "/infer")
    }
    error = {"$ref": "#/components/schemas/ProtocolError"}
    for methods in paths.values():
        for operation in methods.values():
            assert set(operation["responses"]) == {"200", "default"}
            assert operation["responses"]["default"]["content"] == {JSON: {"schema": error}}
    for prefix in models:
        operation = paths[f"{prefix}/infer"]["post"]
        assert set(operation["requestBody"]["content"]) == {JSON, "application/octet-stream"}
        assert {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"} == {
            LENGTH,
            "Content-Encoding",
        }
        described = operation["responses"]["200"]
        assert set(described["content"]) == {JSON, "application/octet-stream"}
        body, length = triton.InferenceServerClient.generate_request_body([tensor(x)])
        answer = digits.post(INFER, content=body, headers={LENGTH: str(length)})
        own = set(answer.headers) - {"date", "server", "content-length", "content-type"}
        assert own == {header.lower() for header in described["headers"]}
    for path, methods in paths.items():
        if "get" in methods:
            reference = methods["get"]["responses"]["200"]["content"][JSON]["schema"]["$ref"].rpartition("/")[2]
            answer = digits.get(path.replace("{name}", "digits").replace("{version}", "1"))
            assert set(answer.json()) == set(page["components"]["schemas"][reference]["properties"])


def test_the_service_is_still_healthy(digits: httpx.Client, client: triton.InferenceServerClient) -> None:
    assert client.is_server_ready()
    assert digits.get("/health/ready").json() == {"status": "ready"}

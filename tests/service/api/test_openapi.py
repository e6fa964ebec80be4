"""The OpenAPI page is valid, complete, and says what the service does."""

import asyncio
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate

from service.api.app import OPERATIONS
from service.api.content import MODEL_HEADERS
from service.api.problem_details import PROBLEM_MEDIA_TYPE
from service.api.routes import docs
from service.api.routes.elbo import NO_DISCOVERY
from service.observability.context import REQUEST_ID_HEADER
from service.readers.pictures import MEDIA_TYPES
from tests.service.http_client import ARROW, CSV, JSON, NPY, PNG

FILE = "application/octet-stream"
PREFIXES = ["", "/models/{name}", "/models/{name}/versions/{version}"]
COMPUTING = {operation.path: operation.method.lower() for operation in OPERATIONS}
PROBLEMS = {"400", "401", "403", "404", "406", "413", "415", "422", "429", "503", "504"}


@pytest.fixture(scope="module")
def page(digits: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = digits.get("/openapi.json").raise_for_status().json()
    return document


def operations(page: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolve(page: dict[str, Any], reference: str) -> Any:
    found: Any = page
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_the_page_is_valid(page: dict[str, Any]) -> None:
    validate(page)


def test_every_reference_leads_somewhere(page: dict[str, Any]) -> None:
    found = set(references(page))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        assert isinstance(resolve(page, reference), dict)


def test_no_schema_is_left_over(page: dict[str, Any]) -> None:
    used = {reference.rpartition("/")[2] for reference in references(page)}
    assert set(page["components"]["schemas"]) <= used | {"HTTPValidationError", "ValidationError"}


def test_every_path_is_there(page: dict[str, Any]) -> None:
    families = [*COMPUTING, "/model", "/model/card"]
    expected = {prefix + family for prefix in PREFIXES for family in families}
    ordinary = {path for path in page["paths"] if not path.startswith("/v2")}  # Those are in test_v2.py.
    assert ordinary == expected | {"/", "/models", "/health/live", "/health/ready", "/metrics"}


def test_every_page_answers_head(digits: httpx.Client, page: dict[str, Any]) -> None:
    paths = [path for path, methods in page["paths"].items() if "get" in methods and "{" not in path]
    changing = {"date", "x-request-id"}
    for path in (*paths, "/models/digits/sample", "/v2/models/digits/config", "/explorer/app.js", "/docs"):
        head, got = digits.head(path), digits.get(path)
        assert (head.status_code, head.content) == (200, b"")
        ignored = changing | ({"content-length"} if path == "/metrics" else set())
        shown = [{name: text for name, text in answer.headers.items() if name not in ignored} for answer in (head, got)]
        assert shown[0] == shown[1]


def test_operations_have_names_of_their_own(page: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(page)]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] and operation["description"] for _, _, operation in operations(page))


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", COMPUTING)
def test_computing_endpoints_are_described(page: dict[str, Any], prefix: str, family: str) -> None:
    operation = page["paths"][prefix + family][COMPUTING[family]]
    responses = operation["responses"]
    assert set(responses) == {"200"} | PROBLEMS
    pictures = {PNG} if family in {"/decode", "/sample", "/instances"} else set()
    assert set(responses["200"]["content"]) == {JSON, NPY, ARROW, CSV} | pictures
    answer = resolve(page, responses["200"]["content"][JSON]["schema"]["$ref"])
    assert all(field.get("description") for field in answer["properties"].values())
    more = {NO_DISCOVERY} if family == "/elbo" else set()
    assert set(responses["200"]["headers"]) == {*MODEL_HEADERS, REQUEST_ID_HEADER} | more
    for status in PROBLEMS:
        assert set(responses[status]["content"]) == {PROBLEM_MEDIA_TYPE}
        assert responses[status]["description"]
        own = {"401": {"WWW-Authenticate"}, "429": {"Retry-After"}}.get(status, set())
        assert set(responses[status]["headers"]) == {REQUEST_ID_HEADER} | own
    names = set(re.findall(r"{(\w+)}", prefix))
    assert {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"} == names
    assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path")


@pytest.mark.parametrize("family", ["/encode", "/decode", "/elbo", "/instances"])
def test_bodies_are_described(page: dict[str, Any], family: str) -> None:
    body = page["paths"][family]["post"]["requestBody"]
    assert body["required"]
    files = set() if family == "/decode" else {*MEDIA_TYPES, FILE, CSV}
    assert set(body["content"]) == {JSON, NPY, ARROW} | files
    field = "latents" if family == "/decode" else "instances"
    schema = resolve(page, body["content"][JSON]["schema"]["$ref"])
    assert schema["required"] == [field]
    assert schema["additionalProperties"] is False
    kinds = schema["properties"][field]
    assert all(kind["minItems"] == 1 for kind in kinds.get("anyOf", [kinds]))
    assert schema["properties"][field]["description"]


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("/encode", {"num_draws", "seed", "extra", "on_error", "unseen"}),
        ("/decode", {"draw", "seed"}),
        ("/sample", {"n", "seed", "temperature"}),
        ("/elbo", {"num_draws", "seed", "score", "refine", "explain", "fdr", "observe", "extra", "on_error", "unseen"}),
    ],
)
def test_parameters_are_described(page: dict[str, Any], family: str, names: set[str]) -> None:
    parameters = page["paths"][family][COMPUTING[family]]["parameters"]
    headers = set() if family == "/sample" else {"Content-Encoding"}
    everywhere = {"timeout", "fields"}
    assert {parameter["name"] for parameter in parameters if parameter["in"] == "query"} == names | everywhere
    assert {parameter["name"] for parameter in parameters if parameter["in"] == "header"} == headers
    for parameter in parameters:
        assert not parameter.get("required")
        assert parameter.get("description") or parameter["schema"].get("description"), parameter["name"]


def test_the_script_is_documented(digits: httpx.Client, page: dict[str, Any]) -> None:
    """Every status, media type and header that a short session meets is on the page."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 8, 8), np.uint8))
    latent_size = digits.get("/model").json()["manifest"]["latent_size"]
    bodies = {
        "/encode": [json.dumps({"instances": np.zeros((1, 8, 8)).tolist()}), buffer.getvalue(), b"{", b"{}"],
        "/elbo": [json.dumps({"instances": np.zeros((1, 8, 8)).tolist()}), buffer.getvalue(), b"{", b"{}"],
        "/decode": [json.dumps({"latents": [[0.0] * latent_size]}), b"[]"],
        "/sample": [b""],
    }
    seen: set[tuple[str, int, str]] = set()
    targets = {
        "": [""],
        PREFIXES[1]: ["/models/faces"],
        PREFIXES[2]: ["/models/digits/versions/1", "/models/digits/versions/7"],
    }
    choices = itertools.product(
        [(prefix, target) for prefix, found in targets.items() for target in found],
        [(family, content) for family, contents in bodies.items() for content in contents],
        [{}, {"seed": 3}, {"num_draws": 10**6}, {"n": 10**6}, {"seed": -1}],
        [JSON, NPY, PNG, "text/html"],
    )
    for (prefix, target), (family, content), query, accept in choices:
        headers = {"Accept": accept, "Content-Type": NPY if content == buffer.getvalue() else JSON}
        method = COMPUTING[family]
        answer = digits.request(method, target + family, params=query, content=content, headers=headers)
        described = page["paths"][prefix + family][method]["responses"][str(answer.status_code)]
        media_type = answer.headers["Content-Type"]
        assert media_type in described["content"], (prefix + family, answer.status_code)
        own = set(answer.headers) - {"date", "server", "content-length", "content-type"}
        assert own == {header.lower() for header in described["headers"]} - {NO_DISCOVERY.lower()}
        seen.add((family, answer.status_code, media_type))
    for family in bodies:
        met = {(status, media_type) for which, status, media_type in seen if which == family}
        assert met >= {(200, JSON), (200, NPY), (404, PROBLEM_MEDIA_TYPE), (406, PROBLEM_MEDIA_TYPE)}
        names = {parameter["name"] for parameter in page["paths"][family][COMPUTING[family]]["parameters"]}
        assert {status for status, _ in met} >= {422} | ({413} if names & {"num_draws", "n"} else set())
    assert {("/sample", 200, PNG), ("/decode", 200, PNG), ("/elbo", 400, PROBLEM_MEDIA_TYPE)} <= seen


@pytest.mark.parametrize("path", ["/model", "/models", "/health/live", "/health/ready"])
def test_plain_answers_are_documented(digits: httpx.Client, page: dict[str, Any], path: str) -> None:
    answer = digits.get(path)
    described = page["paths"][path]["get"]["responses"]["200"]
    assert set(described["content"]) == {answer.headers["Content-Type"]} == {JSON}
    schema = resolve(page, described["content"][JSON]["schema"]["$ref"])
    assert set(answer.json()) == set(schema["properties"])
    assert "503" in page["paths"]["/health/ready"]["get"]["responses"]
    assert "404" in page["paths"]["/model"]["get"]["responses"]


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text"])
def test_metrics_are_documented(digits: httpx.Client, page: dict[str, Any], accept: str) -> None:
    answer = digits.get("/metrics", headers={"Accept": accept})
    media_type = answer.headers["Content-Type"].partition(";")[0]
    assert media_type in page["paths"]["/metrics"]["get"]["responses"]["200"]["content"]


def test_the_fields_of_the_answers_are_the_schemas(digits: httpx.Client, page: dict[str, Any]) -> None:
    x = {"instances": np.zeros((2, 8, 8)).tolist()}
    answers = {
        "ElboAnswer": digits.post(
            "/elbo", json=x, params={"explain": True, "score": "regret", "fdr": 0.1, "on_error": "mark"}
        ),
        "EncodeAnswer": digits.post("/encode", json=x, params={"num_draws": 2, "on_error": "mark"}),
        "SampleAnswer": digits.get("/sample"),
    }
    of_tables = {"ElboAnswer": {"feature_surprise", "feature_expected"}}
    for name, answer in answers.items():
        own = set(page["components"]["schemas"][name]["properties"]) - of_tables.get(name, set())
        assert set(answer.json()) == own


def test_the_page_for_people_has_every_operation_and_loads_nothing(digits: httpx.Client, page: dict[str, Any]) -> None:
    answer = digits.get("/docs").raise_for_status()
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    for path, methods in page["paths"].items():
        assert all(f"<code>{method.upper()} {path}</code>" in answer.text for method in methods)
    assert "<dt><code>explain</code> boolean, default false</dt>" in answer.text
    assert "<dt><code>on_error</code> fail or mark, default fail</dt>" in answer.text
    assert set(re.findall(r' (?:src|href)="(.*?)"', answer.text)) == {"openapi.json"}
    assert "<script" not in answer.text


def test_the_pages_are_written_once() -> None:
    app = FastAPI(summary="Made here.", openapi_url=None)
    app.include_router(docs.make_router())
    app.add_api_route("/half", lambda number: number / 2, operation_id="half")

    async def ask_twice() -> list[bytes]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            answers = [await client.get(path) for path in ("/docs", "/openapi.json")]
            app.title, app.openapi_schema = "Another", None
            answers += [await client.get(path) for path in ("/docs", "/openapi.json")]
        return [answer.raise_for_status().content for answer in answers]

    first, second, *again = asyncio.run(ask_twice())
    assert again == [first, second]

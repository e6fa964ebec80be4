"""Metrics agree with events, in one process and in several, to a real scraper too."""

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.bundle import Bundle
from service.inference import Report
from service.observability.metrics import INTERVAL, Telemetry, _Histogram
from service.scoring import Martingale
from tests.conftest import Serve, run_server, samples

OPENMETRICS = {"Accept": openmetrics.exposition.CONTENT_TYPE_LATEST}


def scrape(client: httpx.Client) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics").raise_for_status()
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return samples(answer.text)


def instances(bundle: Bundle, rows: int) -> dict[str, Any]:
    x = bundle.golden["elbo"]["x"]
    return {"instances": np.resize(x, (rows, *x.shape[1:])).tolist()}


def test_every_request_counts_once(serve: Serve, digits_bundle: Bundle) -> None:
    with serve("--device", "cpu", "--max-queue", "4096") as client:
        client.post("/elbo", json=instances(digits_bundle, 3)).raise_for_status()
        client.post("/elbo", json=instances(digits_bundle, 5)).raise_for_status()
        client.post("/models/digits/versions/1/elbo?num_draws=2", json=instances(digits_bundle, 1)).raise_for_status()
        assert client.post("/models/digits/encode", json={"instances": [7]}).status_code == 422
        assert client.get("/sample?n=0").status_code == 422
        assert client.post("/elbo?num_draws=4096", json=instances(digits_bundle, 3)).status_code == 413
        assert client.post("/v2/models/digits.encoder/versions/1/infer", json={}).status_code == 400
        assert client.get("/models/digits/model").status_code == 200
        assert client.get("/models/nobody/model").status_code == 404
        assert client.get("/no/such/page").status_code == 404
        assert client.request("BREW", "/v2").status_code in {400, 405}
        found = scrape(client)
    requests = {key[1:]: value for key, value in found.items() if key[0] == "lowerbound_http_requests_total"}
    # method, model, route, status
    expected = {
        ("POST", "digits", "/elbo", "200"): 2,
        ("POST", "digits", "/elbo", "413"): 1,
        ("POST", "digits", "/models/{name}/versions/{version}/elbo", "200"): 1,
        ("POST", "digits", "/models/{name}/encode", "422"): 1,
        ("GET", "digits", "/sample", "422"): 1,
        ("POST", "digits", "/v2/models/{name}/versions/{version}/infer", "400"): 1,
        ("GET", "digits", "/models/{name}/model", "200"): 1,
        ("GET", "", "/models/{name}/model", "404"): 1,
        ("GET", "", "", "404"): 1,
    }
    assert {key: requests.get(key) for key in expected} == expected
    for method, model, route in {key[:3] for key in expected}:
        timed = found["lowerbound_http_request_duration_seconds_count", method, model, route]
        assert timed == sum(value for key, value in requests.items() if key[:3] == (method, model, route))
        assert 0 < found["lowerbound_http_request_duration_seconds_sum", method, model, route] < 60 * timed
    assert found["lowerbound_rejected_total", "too_large"] == 1
    assert found["lowerbound_rejected_total", "invalid"] >= 3
    assert found["lowerbound_http_requests_in_flight",] == 1  # The scrape itself.

    for name in ("batch_rows", "compute_seconds", "queue_seconds"):
        assert found[f"lowerbound_{name}_count", "elbo", "digits", "1"] == 3
    assert found["lowerbound_batch_rows_sum", "elbo", "digits", "1"] == 9
    assert found["lowerbound_row_draws_total", "elbo", "digits", "1"] == 8 * 16 + 2
    assert found["lowerbound_engine_errors_total", "elbo", "digits", "1"] == 0
    assert not any(key[1:2] == ("encoder",) for key in found)


def test_scores_made_as_the_calibration_was_are_watched(serve: Serve, digits_bundle: Bundle) -> None:
    held_out = digits_bundle.calibration["negative_elbo"]
    with serve("--device", "cpu") as client:
        assert scrape(client)["lowerbound_drift_martingale", "digits", "1"] == 1
        answers = [client.post("/elbo", json=instances(digits_bundle, rows)).json() for rows in (1, 4, 40)]
        for query in ("num_draws=15", "seed=3", "score=regret", "score=typicality", "refine=1", "observe=false"):
            client.post(f"/elbo?{query}", json=instances(digits_bundle, 2)).raise_for_status()
        client.post(f"/elbo?num_draws=16&fdr=0.1&seed={digits_bundle.manifest.seed}", json=instances(digits_bundle, 3))
        client.post("/elbo?on_error=mark", json={"instances": ["none"]}).raise_for_status()
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8, 8], "data": [99] * 64}
        marking = {"inputs": [tensor], "parameters": {"on_error": "mark"}}
        client.post("/v2/models/digits/infer", json=marking).raise_for_status()
        found = scrape(client)
        metrics = {
            family.name: family for family in parse_openmetrics(client.get("/metrics", headers=OPENMETRICS).text)
        }
    answers.append({key: values[:3] for key, values in answers[1].items()})
    elbos, p_values, scores = (
        np.concatenate([answer[name] for answer in answers]) for name in ("elbo", "p_value", "score")
    )
    assert found["lowerbound_drift_rows_total", "digits", "1"] == len(scores) == 48
    for name, values in (("lowerbound_elbo_nats", elbos), ("lowerbound_p_value", p_values)):
        buckets = {s.labels["le"]: s.value for s in metrics[name].samples if s.name == f"{name}_bucket"}
        assert len(buckets) >= 10
        for bound, count in buckets.items():
            assert count == np.count_nonzero(values <= float(bound))
    martingale = Martingale(held_out)
    martingale.update(scores)
    assert found["lowerbound_drift_martingale", "digits", "1"] == pytest.approx(math.exp(martingale.log_capital))
    assert found["lowerbound_drift_martingale_max", "digits", "1"] == pytest.approx(math.exp(martingale.log_maximum))
    assert found["lowerbound_drift_alarm_threshold",] == 100


def test_drift_raises_an_alarm_once(tmp_path: Path, digits_bundle: Bundle) -> None:
    log = tmp_path / "log"
    negatives = {"instances": (16 - np.array(instances(digits_bundle, 500)["instances"])).tolist()}
    with run_server("--device", "cpu", log=log) as client:
        for _ in range(3):
            client.post("/elbo", json=negatives).raise_for_status()
            time.sleep(2 * INTERVAL)
        found = scrape(client)
    assert found["lowerbound_drift_martingale_max", "digits", "1"] > 100
    assert log.read_text().count("WARNING service: digits 1: rows are not as the held-out rows were") == 1


def test_the_models_the_runtime_and_the_process_are_named(serve: Serve, several_models: Path) -> None:
    with serve("--device", "cpu", "--models", str(several_models)) as client:
        families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
        digests = {
            (name, str(version)): client.get(f"/models/{name}/versions/{version}/model").json()["bundle"]
            for name, versions in client.get("/models").json()["models"].items()
            for version in versions
        }
    models = {(s.labels["model"], s.labels["version"]): s.labels for s in families["lowerbound_model_info"].samples}
    assert {key: labels["bundle"] for key, labels in models.items()} == digests
    assert len(digests) == 3
    assert {labels["device"] for labels in models.values()} == {"cpu"}
    (runtime,) = families["lowerbound_runtime_info"].samples
    assert runtime.labels.keys() == {"python", "onnxruntime"}
    (memory,) = families["process_resident_memory_bytes"].samples
    assert memory.value > 1e7
    assert families["process_cpu_seconds"].samples[0].value > 0


def test_many_values_count_as_one_by_one() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0.5, 1.0, 1.5, 2.0, 99.0], size=100)
    one_by_one, all_at_once = (_Histogram("h", "h", buckets=(0.5, 1, 2), registry=None) for _ in range(2))
    for value in values:
        one_by_one.observe(value)
    all_at_once.observe_all(values)
    all_at_once.observe_all([])

    def counted(histogram: _Histogram) -> dict[tuple[str, str], float]:
        (family,) = histogram.collect()
        return {(s.name, s.labels.get("le", "")): s.value for s in family.samples if s.name != "h_created"}

    assert counted(all_at_once) == pytest.approx(counted(one_by_one))


def test_events_count_by_themselves_and_soon() -> None:
    async def count() -> None:
        telemetry = Telemetry(1)
        labels = telemetry.labels("BREW", "/pot", "made up")
        assert labels == ("other", "/pot", "")
        telemetry.ended(labels, 418, telemetry.began())
        assert telemetry._requests.labels(*labels, 418)._value.get() == 0
        await asyncio.sleep(2 * INTERVAL)
        assert telemetry._requests.labels(*labels, 418)._value.get() == 1

    asyncio.run(count())


def test_rows_of_a_failed_call_count_once_they_are_computed(digits_bundle: Bundle) -> None:
    async def count() -> None:
        telemetry = Telemetry(1)
        watch = telemetry.watch(digits_bundle)
        watch.computed(Report("elbo", 0, 5, 3, [], 0.1, True))
        for rows in (2, 3):
            watch.computed(Report("elbo", 0, rows, 3, [], 0.1, False))
        watch.flush()
        labels = (*watch.labels, "elbo")
        assert telemetry.row_draws.labels(*labels)._value.get() == 15
        assert telemetry.errors.labels(*labels)._value.get() == 1

    asyncio.run(count())


def test_an_engine_that_was_replaced_counts_once(digits_bundle: Bundle) -> None:
    """However often the watchdog tells of it."""
    telemetry = Telemetry(1)
    watch = telemetry.watch(digits_bundle)
    told = [(False, 0), (True, 1), (True, 1), (False, 1), (True, 3)]
    counted = []
    for ready, replaced in told:
        watch.watched(ready, replaced)
        found = telemetry.totals()
        ready_now = found["lowerbound_engine_ready", *watch.labels] == 1
        counted.append((ready_now, found["lowerbound_engines_replaced_total", *watch.labels]))
    assert counted == told

"""The alert rules and the dashboard ask for metrics that there are, and the alerts go off when they should."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import service
from service.bundle import Bundle
from tests.conftest import Serve, wait_until

until = partial(wait_until, seconds=60, ignoring=httpx.HTTPError)


FOLDER = Path(service.__file__).parent / "deploy" / "monitoring"
ALERTS = FOLDER / "alerts.yaml"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
VARIABLES = {"$__rate_interval": "10s", "$instance": ".*", "$model": ".*", "$datasource": "any"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")


def queries() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [query.replace(name, value) for query in found]
    return found


SERIES: dict[str, dict[str, str]] = {
    "LowerboundDown": {'up{job="lowerbound", instance="a"}': "0x60"},
    "LowerboundNotReady": {
        'lowerbound_http_requests_total{instance="a", route="/health/ready", status="503"}': "0+1x60"
    },
    "LowerboundEngineErrors": {
        'lowerbound_engine_errors_total{instance="a", model="m", version="1", graph="elbo"}': "0x20 1x40"
    },
    "LowerboundEngineReplaced": {
        'lowerbound_engines_replaced_total{instance="a", model="m", version="1"}': "0x20 1x40",
        'lowerbound_engine_ready{instance="a", model="m", version="1"}': "1x20 0 1x39",
    },
    "LowerboundErrors": {
        'lowerbound_http_requests_total{instance="a", route="/elbo", status="200"}': "0+98x60",
        'lowerbound_http_requests_total{instance="a", route="/elbo", status="500"}': "0+2x60",
    },
    "LowerboundSlow": {
        'lowerbound_http_request_duration_seconds_bucket{instance="a", route="/elbo", le="1"}': "0+98x60",
        'lowerbound_http_request_duration_seconds_bucket{instance="a", route="/elbo", le="2.5"}': "0+100x60",
        'lowerbound_http_request_duration_seconds_bucket{instance="a", route="/elbo", le="+Inf"}': "0+100x60",
    },
    "LowerboundOverloaded": {
        'lowerbound_http_requests_total{instance="a", route="/elbo", status="429"}': "0+100x60",
        'lowerbound_rejected_total{instance="a", reason="overloaded"}': "0+100x60",
    },
    "LowerboundDrift": {
        'lowerbound_drift_martingale{instance="a", model="m", version="1"}': "1x10 120x10 3x40",
        'lowerbound_drift_martingale{instance="a", model="n", version="1"}': "99x60",
        'lowerbound_drift_martingale_max{instance="a", model="m", version="1"}': "1x10 120x50",
        'lowerbound_drift_martingale_max{instance="a", model="n", version="1"}': "99x60",
        'lowerbound_drift_alarm_threshold{instance="a"}': "100x60",
    },
}
"""For each alert what sets it off, a value each minute, and nothing that sets off another."""

NO_ENGINE = {
    'lowerbound_engine_ready{instance="a", model="m", version="1"}': "0x60",
    'lowerbound_engine_ready{instance="a", model="n", version="1"}': "1x60",
}
"""The cause of LowerboundNotReady if no client asks for the health."""

LABELS = {
    "LowerboundDown": {"job": "lowerbound"},
    "LowerboundEngineErrors": {"model": "m", "version": "1", "graph": "elbo"},
    "LowerboundEngineReplaced": {"model": "m", "version": "1"},
    "LowerboundSlow": {"route": "/elbo"},
    "LowerboundDrift": {"model": "m", "version": "1"},
}
"""What an alert says beside its severity and its instance."""


def test_what_is_asked_for_is_there(digits: httpx.Client) -> None:
    there = {"up"}  # Prometheus's own.
    for family in text_string_to_metric_families(digits.get("/metrics").text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        there |= {family.name + suffix for suffix in suffixes}
    there -= {"lowerbound_elbo_nats_count", "lowerbound_elbo_nats_sum"}
    variables = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:]]
    asked = [*queries(), *variables, *(rule["expr"] for rule in RULES)]
    names = {name for text in asked for name in re.findall(r"\b(?:lowerbound|process)_\w+(?=[{),\s]|$)", text)}
    assert len(names) >= 18
    assert names <= there


def test_every_alert_has_a_trial() -> None:
    assert [rule["alert"] for rule in RULES] == list(SERIES)


@needs_promtool
@pytest.mark.parametrize(("alert", "series"), [*SERIES.items(), ("LowerboundNotReady", NO_ENGINE)])
def test_an_alert_goes_off_alone(alert: str, series: dict[str, str], tmp_path: Path) -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == alert]
    labels = rule["labels"] | {"alertname": alert, "alertstate": "firing", "instance": "a"} | LABELS.get(alert, {})
    listed = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    trial = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": "23m", "exp_samples": [{"labels": f"ALERTS{{{listed}}}", "value": 1}]},
            {"expr": 'ALERTS{alertstate="firing"}', "eval_time": "0m", "exp_samples": []},
        ],
    }
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [trial]}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_no_fault(digits: httpx.Client) -> None:
    text = digits.get("/metrics").content
    subprocess.run(["promtool", "check", "metrics"], input=text, check=True, capture_output=True)
    subprocess.run(["promtool", "check", "rules", str(ALERTS)], check=True, capture_output=True)
    subprocess.run(["promtool", "check", "config", str(FOLDER / "prometheus.yml")], check=True, capture_output=True)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not taken & cells
        assert max(x for x, _ in cells) < 24
        taken |= cells


@contextmanager
def prometheus(target: httpx.URL, folder: Path) -> Iterator[Callable[[str], list[Any]]]:
    """Run a Prometheus that scrapes `target` every second, and give what asks it queries."""
    scrape = {"job_name": "lowerbound", "static_configs": [{"targets": [f"{target.host}:{target.port}"]}]}
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration = {"global": every, "rule_files": [str(ALERTS)], "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{1}".format(*probe.getsockname())
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command.append(f"--web.listen-address={address}")
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://{address}/api/v1", timeout=30) as client,
    ):

        def send_request(query: str) -> list[Any]:
            answer = client.get("/query", params={"query": query}).raise_for_status()
            return list(answer.json()["data"]["result"])

        try:
            yield send_request
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_prometheus_scrapes_it(tmp_path: Path, serve: Serve, digits_bundle: Bundle) -> None:
    x = digits_bundle.golden["elbo"]["x"]
    negatives = {"instances": (16 - np.resize(x, (500, *x.shape[1:]))).tolist()}
    with serve("--device", "cpu") as client, prometheus(client.base_url, tmp_path) as send_request:
        until(lambda: send_request('up{job="lowerbound"} == 1'))
        for _ in range(5):
            client.post("/elbo", json=negatives).raise_for_status()
            time.sleep(1)
        until(lambda: send_request('lowerbound_http_requests_total{route="/elbo", status="200"} == 5'))
        (rate,) = send_request('sum(increase(lowerbound_row_draws_total{graph="elbo"}[1m]))')
        assert float(rate["value"][1]) > 500 * 16
        until(lambda: send_request('ALERTS{alertname="LowerboundDrift", alertstate="firing", model="digits"}'))
        assert not send_request('ALERTS{alertname!="LowerboundDrift"}')
        for query in queries():
            if "rejected" not in query:  # Nothing was.
                assert send_request(query), query

"""The manifests for Kubernetes are what its schemas allow, agree with the code and with each other, and confine."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

import service
from service.settings import Settings

FOLDER = Path(service.__file__).parent / "deploy" / "kubernetes"
DOCUMENTS: dict[tuple[str, str], dict[str, Any]] = {
    (path.stem, document["kind"]): document
    for path in FOLDER.glob("*.yaml")
    for document in yaml.safe_load_all(path.read_text())
}
RAY = DOCUMENTS["ray", "RayService"]["spec"]
CLUSTER = RAY["rayClusterConfig"]
TEMPLATES: dict[str, dict[str, Any]] = {
    "cpu": DOCUMENTS["lowerbound", "Deployment"]["spec"]["template"],
    "gpu": DOCUMENTS["gpu", "Deployment"]["spec"]["template"],
    "ray head": CLUSTER["headGroupSpec"]["template"],
    "ray worker": CLUSTER["workerGroupSpecs"][0]["template"],
}
SERVING = ("cpu", "gpu")
DOCKERFILE = (Path(__file__).parents[3] / "Dockerfile").read_text()

OLDEST = "1.34"
"""The first Kubernetes in which a `preStop` that sleeps is stable."""


def container(name: str) -> dict[str, Any]:
    (only,) = TEMPLATES[name]["spec"]["containers"]
    return dict(only)


def environment(name: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(name).get("env", [])}


def settings(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
    return Settings()


@pytest.mark.parametrize("version", [OLDEST, "1.37"])
@pytest.mark.parametrize("key", [key for key in DOCUMENTS if key[1] != "RayService"], ids="/".join)
def test_the_schemas_of_kubernetes_allow_it(key: tuple[str, str], version: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[key], version, strict=True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_schemas_of_kubernetes_allow_the_pods(name: str) -> None:
    pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": TEMPLATES[name]}
    kubernetes_validate.validate(pods, OLDEST, strict=True)


def test_the_schemas_refuse() -> None:
    wrong = json.loads(json.dumps(DOCUMENTS["lowerbound", "Deployment"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_the_ray_service_has_what_kuberay_knows() -> None:
    """By KubeRay's `ray.io/v1`, whose own schema is not at hand; of the fields used here nothing else is allowed."""
    assert DOCUMENTS["ray", "RayService"]["apiVersion"] == "ray.io/v1"
    assert RAY.keys() == {"serveConfigV2", "rayClusterConfig"}
    assert CLUSTER.keys() == {"enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
    assert CLUSTER["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for group in CLUSTER["workerGroupSpecs"]:
        assert group.keys() == {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["maxReplicas"]
    for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_ray_serves_what_its_own_file_serves() -> None:
    config = yaml.safe_load(RAY["serveConfigV2"])
    (application,) = config["applications"]
    assert Settings.model_fields.keys() >= application["args"].keys()
    Settings(**application["args"])
    file = FOLDER.parent / "serve.yaml"
    if file.exists():
        other = yaml.safe_load(file.read_text())
        assert config["http_options"] == other["http_options"]
        theirs = other["applications"][0]
        (ours_deployed,), (theirs_deployed,) = application["deployments"], theirs["deployments"]
        assert {**application, "args": 0, "deployments": 0} == {**theirs, "args": 0, "deployments": 0}
        assert {**ours_deployed, "ray_actor_options": 0} == {**theirs_deployed, "ray_actor_options": 0}
    (deployed,) = application["deployments"]
    assert TEMPLATES["ray worker"]["spec"]["terminationGracePeriodSeconds"] > deployed["graceful_shutdown_timeout_s"]
    largest = int(container("ray worker")["resources"]["limits"]["cpu"])
    assert deployed["ray_actor_options"]["num_cpus"] <= largest


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_pod_is_confined(name: str) -> None:
    pod, confined = TEMPLATES[name]["spec"], container(name)["securityContext"]
    (user,) = set(re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE))
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == int(user)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert confined == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] == (name == "ray head")
    limits, requests = (container(name)["resources"][kind] for kind in ("limits", "requests"))
    assert limits["cpu"] == requests["cpu"]
    assert "memory" in limits
    writable = {mount["name"] for mount in container(name)["volumeMounts"] if not mount.get("readOnly")}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == {mount["name"] for mount in container(name)["volumeMounts"]}
    assert all("sizeLimit" in volumes[volume]["emptyDir"] for volume in writable)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_service_s_own_variables_are_not_taken_for_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes tells every pod of the services around it by variables: here LOWERBOUND_PORT, a URL."""
    assert TEMPLATES[name]["spec"]["enableServiceLinks"] is False
    links = DOCUMENTS["lowerbound", "Service"]["metadata"]["name"].upper().replace("-", "_")
    monkeypatch.setenv(f"{links}_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("name", SERVING)
def test_the_settings_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(name, monkeypatch)
    assert {f"LOWERBOUND_{field.upper()}" for field in given.model_fields_set} == environment(name).keys()
    mounts = {mount["mountPath"]: mount for mount in container(name)["volumeMounts"]}
    assert str(given.model_cache) in mounts
    assert given.api_keys_file is not None
    assert mounts[str(given.api_keys_file.parent)]["readOnly"]
    assert container(name)["image"] == f"lowerbound:{name}"
    assert re.search(rf"^FROM \S+ AS {name}$", DOCKERFILE, re.MULTILINE)
    if name == "gpu":
        gpus = container(name)["resources"]["limits"]["nvidia.com/gpu"]
        assert given.engine_threads >= 2 * gpus


@pytest.mark.parametrize("name", SERVING)
def test_there_is_time_to_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    given = settings(name, monkeypatch)
    assert TEMPLATES[name]["spec"]["terminationGracePeriodSeconds"] > waits + given.graceful_shutdown_timeout
    assert container(name)["readinessProbe"]["timeoutSeconds"] > given.engine_timeout


@pytest.mark.parametrize("name", SERVING)
def test_the_probes_ask_what_there_is(name: str, digits: httpx.Client) -> None:
    (port,) = container(name)["ports"]
    (exposed,) = set(re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE))
    assert port["containerPort"] == int(exposed)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container(name)[probe]["httpGet"]
        assert asked["port"] == port["name"]
        assert digits.get(asked["path"]).is_success
    assert "ready" in container(name)["readinessProbe"]["httpGet"]["path"]


@pytest.mark.parametrize("file", ["lowerbound", "gpu"])
def test_all_of_a_file_is_of_one_deployment(file: str) -> None:
    deployment = DOCUMENTS[file, "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert DOCUMENTS[file, "Service"]["spec"]["selector"] == labels
    assert DOCUMENTS[file, "PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert all(document["metadata"]["labels"] == labels for (stem, _), document in DOCUMENTS.items() if stem == file)
    (port,) = DOCUMENTS[file, "Service"]["spec"]["ports"]
    assert port["targetPort"] in {named["name"] for named in container(labels["app.kubernetes.io/component"])["ports"]}


# The metric that says how many replicas there should be

AUTOSCALER = DOCUMENTS["lowerbound", "HorizontalPodAutoscaler"]["spec"]
(RULE,) = yaml.safe_load(DOCUMENTS["prometheus-adapter", "ConfigMap"]["data"]["config.yaml"])["rules"]


def test_the_autoscaler_is_of_the_deployment_and_asks_for_what_the_adapter_gives(digits: httpx.Client) -> None:
    deployment = DOCUMENTS["lowerbound", "Deployment"]
    target = {key: deployment[key] for key in ("apiVersion", "kind")} | {"name": deployment["metadata"]["name"]}
    assert AUTOSCALER["scaleTargetRef"] == target
    assert "replicas" not in deployment["spec"]  # It would be set back at every `kubectl apply`.
    (metric,) = AUTOSCALER["metrics"]
    assert metric["pods"]["metric"]["name"] == RULE["name"]["as"]
    series, labels = re.fullmatch(r"(\w+)\{(.*)\}", RULE["seriesQuery"]).groups()  # type: ignore[union-attr]
    assert re.findall(r"(\w+)!=", labels) == list(RULE["resources"]["overrides"])
    digits.get("/sample").raise_for_status()
    there = {
        sample.name
        for family in text_string_to_metric_families(digits.get("/metrics").text)
        for sample in family.samples
    }
    assert series in there


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_the_query_is_how_many_requests_wait(tmp_path: Path) -> None:
    """One of two graphs has 120 seconds of waiting in each minute, the other 60: three requests wait all the time."""
    query = RULE["metricsQuery"]
    series = RULE["seriesQuery"].partition("{")[0]
    filled = {"<<.GroupBy>>": "pod", "<<.Series>>": series, "<<.LabelMatchers>>": 'namespace="n",pod=~"a|b"'}
    for place, value in filled.items():
        assert place in query
        query = query.replace(place, value)
    trial = {
        "interval": "15s",
        "input_series": [
            {"series": f'{series}{{namespace="n",pod="a",graph="elbo"}}', "values": "0+30x40"},
            {"series": f'{series}{{namespace="n",pod="a",graph="encoder"}}', "values": "0+15x40"},
            {"series": f'{series}{{namespace="n",pod="b",graph="elbo"}}', "values": "0+0x40"},
            {"series": f'{series}{{namespace="m",pod="a",graph="elbo"}}', "values": "0+90x40"},
        ],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "5m",
                "exp_samples": [{"labels": '{pod="a"}', "value": 3}, {"labels": '{pod="b"}', "value": 0}],
            }
        ],
    }
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [trial]}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

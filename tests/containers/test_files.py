"""What can be known of the containers without an engine: their files agree with each other, the code and the locks.

`make test` has `Dockerfile` and `docker-compose.yml` linted; `make containers` tries the real thing.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service import __version__
from service.api.auth import read_keys
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
STAGES: dict[str, str] = dict(
    re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
)
PARENTS = {name: parent for parent, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
HEALTHCHECK = json.loads(re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])


def stage(name: str) -> str:
    """The text of a stage, after the stages that it is made from."""
    return (stage(PARENTS[name]) if PARENTS[name] in STAGES else "") + STAGES[name]


def environment(name: str) -> dict[str, str]:
    lines = re.findall(r"^ENV (.*)$", stage(name), re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def test_the_images_are_those_of_the_compose_file() -> None:
    assert {name: service["build"]["target"] for name, service in OURS.items()} == {
        "serve": "cpu",
        "gpu": "gpu",
        "train": "train",
    }
    assert {service["build"]["target"] for service in OURS.values()} <= STAGES.keys()
    assert list(STAGES)[-1] == "cpu"  # What `docker build .` makes.


@pytest.mark.parametrize("target", ["cpu", "gpu", "train"])
def test_an_image_starts_its_program_itself(target: str) -> None:
    """Without a shell between, SIGTERM reaches it."""
    program = {"train": "training"}.get(target, "service")
    assert re.findall(r"^ENTRYPOINT (.*)$", stage(target), re.MULTILINE) == [f'["python", "-m", "{program}"]']
    assert re.findall(r"^USER (.*)$", stage(target), re.MULTILINE) == ["10001:10001"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_images_settings_are_settings(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(target).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert {name for name in environment(target) if name.startswith("LOWERBOUND_")} == {
        f"LOWERBOUND_{name.upper()}" for name in settings.model_fields_set
    }
    assert settings.host == "0.0.0.0"
    assert re.findall(r"^EXPOSE (.*)$", stage(target), re.MULTILINE) == [str(settings.port)]
    assert settings.models == Path("/models")
    assert re.search(r"^COPY --chown=10001:10001 service/models /models$", stage(target), re.MULTILINE)


@pytest.mark.parametrize("name", ["serve", "gpu"])
def test_the_services_settings_are_settings(name: str) -> None:
    for variable in SERVICES[name]["environment"]:
        assert variable.removeprefix("LOWERBOUND_").lower() in Settings.model_fields
    assert SERVICES[name]["ports"][0].endswith(f":{environment('cpu')['LOWERBOUND_PORT']}")
    assert SERVICES[name]["volumes"] == [f"models:{environment('cpu')['LOWERBOUND_MODELS']}:ro"]
    assert (
        int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        > Settings.model_fields["graceful_shutdown_timeout"].default
    )


def test_a_variable_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compose file leaves the keys' file so, unless there are keys."""
    monkeypatch.setenv("LOWERBOUND_API_KEYS_FILE", "")
    assert Settings().api_keys_file is None
    assert not read_keys(Settings().api_keys_file)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"]
    assert service["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_prometheus_looks_where_the_services_are() -> None:
    (job,) = yaml.safe_load((ROOT / "service" / "deploy" / "monitoring" / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    assert job["static_configs"] == [{"targets": [f"serve:{environment('cpu')['LOWERBOUND_PORT']}"]}]
    assert job["dns_sd_configs"] == [
        {"names": ["gpu"], "type": "A", "port": int(environment("gpu")["LOWERBOUND_PORT"])}
    ]
    mounted = [volume.split(":")[0] for name in ("prometheus", "grafana") for volume in SERVICES[name]["volumes"]]
    for source in mounted:
        assert source in COMPOSE["volumes"] or (ROOT / source).is_file()


def test_the_labels_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', STAGES["base"]))
    assert labels["version"] == __version__
    assert labels["licenses"] == project["license"]


def test_what_is_copied_reaches_the_engine() -> None:
    let_in = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith("--")
    ]
    for source in copied:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) or source.startswith(f"{pattern}/") for pattern in let_in)


def probe(port: int) -> int:
    """The status of the image's own question about its health."""
    command = [sys.executable, *HEALTHCHECK[1:]]
    settings = os.environ | {"LOWERBOUND_PORT": str(port)}
    return subprocess.run(command, env=settings, stderr=subprocess.DEVNULL, check=False).returncode


def test_the_healthcheck_tells(digits: httpx.Client) -> None:
    assert digits.base_url.port
    assert probe(digits.base_url.port) == 0
    assert probe(1) != 0


def test_without_a_gpu_the_lock_has_the_plain_engine_alone() -> None:
    """What the Dockerfile makes of the lock."""
    (command,) = re.findall(r"^RUN (sed .*) > cpu\.lock$", DOCKERFILE, re.MULTILINE)
    lock = (ROOT / ".ci" / "serve.lock").read_text()
    made = subprocess.run(["bash", "-c", command], cwd=ROOT / ".ci", capture_output=True, check=True, text=True).stdout
    changed = [(old, new) for old, new in zip(lock.splitlines(), made.splitlines(), strict=True) if old != new]
    versions = dict(re.findall(r"^(onnxruntime(?:-gpu)?)==(\S+)", lock, re.MULTILINE))
    assert [new for _, new in changed] == [
        f"onnxruntime=={versions['onnxruntime']} \\",
        f"onnxruntime-gpu=={versions['onnxruntime-gpu']} ; python_version < '3' \\",
    ]

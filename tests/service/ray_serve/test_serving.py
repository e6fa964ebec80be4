"""The application on Ray Serve: what it answers, and what happens to it, as its clients see that."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml

from service.bundle import Bundle, write_bundle
from tests.conftest import wait_until
from tests.service.load import ONE, RIGHT, Load
from tests.service.ray_serve.machines import FOLDER, Machines, machines

pytestmark = pytest.mark.slow

APPLICATION = "lowerbound"

PAUSE = 0.5
"""Seconds between two questions to Ray, whose answers cost it as much as the work that is waited for."""

Deploy = Callable[..., None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with machines(2) as found:
        yield found


@pytest.fixture(scope="module")
def deploy(cluster: Machines, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Deploys the config file of the project, on nodes as small as these, with other `args` and fields.

    Without an `autoscaling_config` there are so many replicas. Waits until Ray Serve says what is wanted.
    """

    def apply(args: dict[str, Any], replicas: int = 2, wanted: str = "'status': 'RUNNING'", **fields: Any) -> None:
        config = yaml.safe_load((FOLDER / "serve.yaml").read_text())
        config["http_options"] = {"host": "127.0.0.1", "port": httpx.URL(cluster.url).port}
        (application,) = config["applications"]
        (deployment,) = application["deployments"]
        application["args"] |= args
        deployment["ray_actor_options"]["num_cpus"] = 0.4  # Two on a node.
        if "autoscaling_config" in fields:
            deployment["autoscaling_config"] |= fields.pop("autoscaling_config")
        else:
            del deployment["autoscaling_config"]
            deployment["num_replicas"] = replicas
        path = tmp_path_factory.mktemp("config") / "serve.yaml"
        path.write_text(
            yaml.safe_dump(config | {"applications": [application | {"deployments": [deployment | fields]}]})
        )
        cluster.deploy(path)
        wait_until(lambda: wanted in str(cluster.about(APPLICATION)), 120, pause=PAUSE)

    return apply


def score(url: str) -> httpx.Response:
    return httpx.post(f"{url}/elbo", json={"instances": [ONE]}, timeout=60).raise_for_status()


def test_another_version_takes_over_under_load(
    cluster: Machines, deploy: Deploy, tmp_path: Path, digits_bundle: Bundle
) -> None:
    for version in (1, 2):
        manifest = digits_bundle.manifest.model_copy(update={"version": version})
        write_bundle(tmp_path / str(version), manifest, digits_bundle.files)
    deploy({"models": str(tmp_path / "1")})
    answer = score(cluster.url)
    assert answer.headers["Lowerbound-Version"] == "1"
    with Load(cluster.url, answer.content) as load:
        wait_until(lambda: load.seen[RIGHT] > 20, 30)
        deploy({"models": str(tmp_path / "2")})
        updated = load.seen[RIGHT]
        wait_until(lambda: load.seen[RIGHT] > updated + 20, 30)
    assert {score(cluster.url).headers["Lowerbound-Version"] for _ in range(10)} == {"2"}
    assert_right(load)


def test_what_cannot_be_served_leaves_what_is(cluster: Machines, deploy: Deploy, tmp_path: Path) -> None:
    deploy({})
    good = score(cluster.url).content
    with Load(cluster.url, good) as load:
        deploy({"models": str(tmp_path / "absent")}, wanted="no bundle <name>/<version>/manifest.json in it")
        assert score(cluster.url).content == good
    assert_right(load)


def test_settings_of_no_effect_are_refused(cluster: Machines, deploy: Deploy) -> None:
    deploy({"port": 8000}, replicas=1, wanted="port: of no effect on Ray Serve")
    assert cluster.about(APPLICATION)["status"] == "DEPLOY_FAILED"


def test_keys_are_asked_for(cluster: Machines, deploy: Deploy, tmp_path: Path) -> None:
    key = "k" * 32
    (tmp_path / "keys").write_text(key)
    deploy({"api_keys_file": str(tmp_path / "keys")})
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        assert client.get("/model").status_code == 401
        assert client.get("/health/ready").status_code == 200
        assert client.get("/model", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_ray_has_the_metrics_of_all_replicas(cluster: Machines, deploy: Deploy) -> None:
    def counted() -> dict[str, float]:
        """Rows × draws by replica, from the metrics of the nodes, which tell of ended replicas for a while."""
        found: dict[str, float] = {}
        for node in ray.nodes():
            if node["Alive"]:
                text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=30).text
                for line in text.splitlines():
                    if line.startswith("ray_lowerbound_row_draws_total{") and 'graph="elbo"' in line:
                        replica = line.partition('replica="')[2].partition('"')[0]
                        found[replica] = float(line.rpartition(" ")[2])
        return found

    ended = counted()
    deploy({}, replicas=4)
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        for _ in range(40):
            client.post("/elbo", json={"instances": [ONE] * 2}, params={"num_draws": 3}).raise_for_status()
    expected = 40 * 2 * 3
    wait_until(lambda: sum(n for name, n in counted().items() if name not in ended) == expected, 60, pause=PAUSE)


def test_rows_that_wait_make_more_replicas(cluster: Machines, deploy: Deploy) -> None:
    scaling = {
        "min_replicas": 1,
        "initial_replicas": 1,
        "max_replicas": 3,
        "look_back_period_s": 11,
        "upscale_delay_s": 0,
        "policy": {
            "policy_function": "service.ray_serve.autoscaling:RowDraws",
            "policy_kwargs": {"per_replica": 20_000},
        },
    }
    deploy({}, autoscaling_config=scaling)
    wait_until(lambda: len(cluster.replicas(APPLICATION)) == 1, 60, pause=PAUSE)
    one = httpx.post(f"{cluster.url}/elbo", json={"instances": [ONE] * 500}, params={"num_draws": 64}, timeout=60)
    with Load(cluster.url, one.content, rows=500, draws=64) as load:
        wait_until(lambda: len(cluster.replicas(APPLICATION)) > 1, 240, pause=PAUSE)
    assert_right(load)


def test_a_killed_replica_is_made_up_for(cluster: Machines, deploy: Deploy) -> None:
    deploy({}, replicas=3)
    good = score(cluster.url).content
    with Load(cluster.url, good) as load:
        for _ in range(2):
            wanted = load.seen[RIGHT] + 50
            wait_until(lambda wanted=wanted: load.seen[RIGHT] > wanted, 30)  # type: ignore[misc]
            lost = cluster.replicas(APPLICATION)[0]["pid"]
            os.kill(lost, signal.SIGKILL)
            wait_until(lambda lost=lost: is_whole_without(cluster, lost), 90, pause=PAUSE)  # type: ignore[misc]
    assert_right(load, lost=2)


def assert_right(load: Load, lost: int = 0) -> None:
    """Every answer was right, and no more requests were asked once more than replicas or nodes were lost.

    Clients keep their connections, and HAProxy closes one rather than answer that its second request failed.
    """
    assert set(load.seen) == {RIGHT}, load.seen
    assert load.again <= lost, load.again


def is_whole_without(cluster: Machines, lost: int) -> bool:
    pids = {replica["pid"] for replica in cluster.replicas(APPLICATION)}
    return len(pids) == 3 and lost not in pids


def test_a_lost_node_is_made_up_for(cluster: Machines, deploy: Deploy) -> None:
    deploy({}, replicas=4)
    lost = cluster.add()
    deploy({}, replicas=6)
    assert sum(replica["node_id"] == lost.node_id for replica in cluster.replicas(APPLICATION)) == 2
    good = score(cluster.url).content
    with Load(cluster.url, good) as load:
        wait_until(lambda: load.seen[RIGHT] > 50, 30)
        cluster.kill(lost)
        killed = load.seen[RIGHT]
        wait_until(lambda: load.seen[RIGHT] > killed + 100, 60)
        cluster.add()
        wait_until(lambda: len(cluster.replicas(APPLICATION)) == 6, 120, pause=PAUSE)
    assert_right(load, lost=1)


def test_readiness_tells_when_nothing_serves(cluster: Machines, deploy: Deploy) -> None:
    deploy({})

    def is_ready() -> bool:
        try:
            return httpx.get(f"{cluster.url}/health/ready", timeout=30).is_success
        except httpx.TransportError:
            return False

    assert is_ready()
    for node in list(cluster.nodes):
        cluster.kill(node)
    wait_until(lambda: not is_ready(), 60)
    cluster.add()
    wait_until(is_ready, 120)
    score(cluster.url)

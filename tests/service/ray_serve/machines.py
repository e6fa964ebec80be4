"""Several machines on this one: a Ray cluster of small nodes, on which applications are deployed and nodes are lost."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ray
from pydantic_settings import CliApp
from ray import serve
from ray.cluster_utils import Cluster

import service
from service.ray_serve.deployment import DEPLOYMENT
from service.settings import Settings

FOLDER = Path(service.__file__).parent / "deploy"
ROOT = FOLDER.parents[1]

OBJECT_STORE = 80 * 2**20
"""Bytes of each node, about the least that Ray allows."""

HASTE = {
    # Seconds that a replica is still reachable once it is to go, for load balancers on other machines to hear of it.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    # Times that a replica which does not start is tried, by replicas wanted.
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
}


class Machines:
    """A cluster whose head has no replicas, but the one address that clients ask.

    Args:
        cluster: Ray's own.
        port: Of that address.
    """

    def __init__(self, cluster: Cluster, port: int) -> None:
        self.address = cluster.address
        self.url = f"http://127.0.0.1:{port}"
        self.nodes: list[Any] = []
        self._cluster = cluster
        self._deployed = 0

    def add(self) -> Any:
        """Another node, of one core."""
        with environment():
            self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE))
        return self.nodes[-1]

    def kill(self, node: Any) -> None:
        """End all of a node's processes at once, as the loss of the machine would."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def deploy(self, config: Path) -> None:
        """Deploy a Serve config file, as people do."""
        program = Path(sys.executable).parent / "serve"
        command = [program, "deploy", "--address", self._dashboard, config]
        with environment():
            done = subprocess.run(command, capture_output=True, check=False, text=True)
        assert done.returncode == 0, done.stderr

    def about(self, application: str) -> dict[str, Any]:
        """What Ray Serve's own API says of an application; `status` is RUNNING where all of it is as configured."""
        answer = httpx.get(f"{self._dashboard}/api/serve/applications/", timeout=30).raise_for_status()
        found: dict[str, Any] = answer.json()["applications"].get(application, {"status": "ABSENT", "deployments": {}})
        return found

    def replicas(self, application: str) -> list[dict[str, Any]]:
        """Those that serve; each has a `pid` and a `node_id`."""
        return [
            replica
            for deployment in self.about(application)["deployments"].values()
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        ]

    @property
    def deployed(self) -> str:
        """The application that was deployed last."""
        return f"application-{self._deployed}"

    @property
    def _dashboard(self) -> str:
        return f"http://{self._cluster.webui_url}"

    @contextmanager
    def serve(
        self, *arguments: str, replicas: int = 2, cpus: float = 0.1, prefix: str | None = None
    ) -> Iterator[httpx.Client]:
        """A client of an application of its own, given the flags of `lowerbound serve`, under a path of its own."""
        self._deployed += 1
        name = self.deployed
        prefix = f"/{name}" if prefix is None else prefix
        given = CliApp.run(Settings, cli_args=list(arguments)).model_dump(exclude_unset=True)
        deployment = DEPLOYMENT.options(num_replicas=replicas, ray_actor_options={"num_cpus": cpus})
        serve.run(deployment.bind(given), name=name, route_prefix=prefix)
        try:
            with httpx.Client(
                base_url=self.url + prefix, headers={"Content-Type": "application/json"}, timeout=60
            ) as client:
                yield client
        finally:
            serve.delete(name)


@contextmanager
def environment() -> Iterator[None]:
    """The variables that docs/deploy/ray.md sets before `ray start`; the node's processes inherit them."""
    before = dict(os.environ)
    words = shlex.split((FOLDER / "ray.env").read_text(), comments=True)
    os.environ.update(dict(word.split("=", 1) for word in words) | HASTE | {"PYTHONPATH": str(ROOT)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def machines(nodes: int) -> Iterator[Machines]:
    """A cluster of so many nodes beside its head, and Ray Serve on it."""
    head = {
        "num_cpus": 0,
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": True,
        "dashboard_port": free_port(),
    }
    with environment():
        cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        found = Machines(cluster, free_port())
        for _ in range(nodes):
            found.add()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": httpx.URL(found.url).port})
        yield found
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

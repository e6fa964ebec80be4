"""Build the images, bring up what docker-compose.yml has, and hold it to what it promises: `make containers`.

Needs a Docker engine with its compose plugin, and Python without packages. It works in a compose project of its own,
on ports of its own, and takes that away again. Each line is something that was found true, and when; the first that is
not ends the check with status 1.
"""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PORT, GPU_PORT, PROMETHEUS_PORT = 18010, 18011, 18012
PROJECT = "lowerbound-check"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LOWERBOUND_")} | {
    "COMPOSE_PROJECT_NAME": PROJECT,
    "PORT": str(PORT),
    "GPU_PORT": str(GPU_PORT),
    "PROMETHEUS_PORT": str(PROMETHEUS_PORT),
}
COMPOSE = ("docker", "compose", "--profile", "*")
UP = (*COMPOSE, "up", "--detach", "--no-build", "--wait", "--wait-timeout", "120")

TOOLS = ("cc", "gcc", "g++", "clang", "ld", "as", "make")
CONTENTS = f"""
import importlib.metadata, json, shutil
packages = {{d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}}
print(json.dumps([packages, [tool for tool in {TOOLS} if shutil.which(tool)]]))
"""
"""What tells from inside an image which packages and which compilers it has."""

PAUSE = 0.1
"""Seconds between two requests."""

CHECKERBOARD = [[16 * ((row + column) % 2) for column in range(8)] for row in range(8)]
STARTED = time.monotonic()


def found(claim: str, *, true: object = True) -> None:
    """Print a claim that is true, or give up."""
    if not true:
        sys.exit(f"NOT TRUE: {claim}")
    print(f"{time.monotonic() - STARTED:7.1f} s  {claim}", flush=True)


def run(*command: str, **settings: str) -> str:
    """Run a command and return its output; if it fails, print its errors and end."""
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | settings, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def inspect(thing: str) -> dict[str, Any]:
    return dict(json.loads(run("docker", "inspect", thing))[0])


def send_request(path: str, body: object = None, key: str = "") -> tuple[int, Any]:
    """The status and the JSON that the service answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def locked(*names: str) -> dict[str, str]:
    text = "".join((ROOT / ".ci" / name).read_text() for name in names)
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def build(name: str, service: dict[str, Any], *locks: str) -> None:
    """The image of a service, and what is in it."""
    image = service["image"]
    arguments = [f"--build-arg={argument}" for argument in service["build"].get("args", ())]
    run("docker", "build", *arguments, "--target", service["build"]["target"], "--tag", image, ".")
    built = inspect(image)
    of = built["Config"]
    found(f"{image} builds: {built['Size'] / 1e6:,.0f} MB, {len(built['RootFS']['Layers'])} layers")
    labels = {label.rpartition(".")[2]: text for label, text in of["Labels"].items()}
    found(f"it is labelled {labels}", true={"title", "version", "licenses", "description"} <= labels.keys())
    found(f"it runs as {of['User']}", true=of["User"] == "10001:10001")
    inside = ("--rm", "--network=none", "--entrypoint=python", image, "-c", CONTENTS)
    packages, tools = json.loads(run("docker", "run", *inside))
    pins = locked(*locks)
    others = packages.keys() - pins.keys()
    as_locked = all(packages[package] == pins[package] for package in packages.keys() - others)
    found(f"it has {len(packages)} packages; as locked are all but {sorted(others)}", true=as_locked)
    found("it has no compiler", true=not tools)
    if name == "train":
        found(f"it has torch {packages['torch']}")
    else:
        found("it has no torch, nor anything else that is not locked", true=not others)
        found("it says how healthy it is", true=of["Healthcheck"]["Test"][0] == "CMD")
    runtimes = [package for package in packages if package.startswith("onnxruntime")]
    found(f"it has {runtimes}", true=runtimes == ["onnxruntime-gpu" if name == "gpu" else "onnxruntime"])


def come_up() -> str:
    """The service, healthy; returns its container."""
    began = time.monotonic()
    run(*UP, "serve")
    found(f"serve is healthy {time.monotonic() - began:.1f} s after `docker compose up`")
    return run(*COMPOSE, "ps", "--quiet", "serve")


def answer() -> None:
    """The four endpoints."""
    status, sample = send_request("/sample?n=4&seed=7")
    found("/sample answers", true=status == 200 and len(sample["instances"]) == 4)
    digits = [[[min(max(round(p), 0), 16) for p in row] for row in digit] for digit in sample["instances"]]
    status, posterior = send_request("/encode", {"instances": digits})
    found("/encode answers", true=status == 200 and len(posterior["mean"]) == 4)
    status, decoded = send_request("/decode", {"latents": posterior["mean"]})
    found("/decode answers", true=status == 200 and len(decoded["instances"]) == 4)
    status, scores = send_request("/elbo", {"instances": [*digits, CHECKERBOARD]})
    *usual, strange = scores["p_value"]
    found(f"/elbo answers: a checkerboard's p-value is {strange:.4f}", true=status == 200 and strange < min(usual))
    _, model = send_request("/model")
    found(f"the device is {model['device']}", true=model["device"] == "cpu")


def be_confined(container: str) -> None:
    """What the process in it may do."""
    text = run("docker", "exec", container, "cat", "/proc/1/status")
    status = dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))
    users = {*status["Uid"].split()}
    found(f"its process is {status['Name']} of user {', '.join(users)}", true=users == {"10001"})
    found("it has no capabilities", true=not any(int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")))
    found("it gets no new privileges", true=status["NoNewPrivs"] == "1")
    for user, file in (("0", "/x"), ("0", "/app/x"), ("10001", "/models/x")):
        done = subprocess.run(
            ["docker", "exec", "--user", user, container, "touch", file], capture_output=True, text=True, check=False
        )
        found(f"user {user} cannot write {file}", true="Read-only file system" in done.stderr)
    run("docker", "exec", container, "touch", "/tmp/x")
    found("it can write /tmp")
    host = inspect(container)["HostConfig"]
    memory, processes = host["Memory"], host["PidsLimit"]
    found(f"it has at most {memory / 2**30:.0f} GiB and {processes} threads", true=memory > 0 and processes > 0)
    (binding,) = host["PortBindings"]["8000/tcp"]
    found(f"its port is open on {binding['HostIp']}", true=binding["HostIp"] == "127.0.0.1")


def version() -> int:
    """The version that the bare paths have."""
    return int(send_request("/model")[1]["manifest"]["version"])


def take_up_what_is_trained(container: str) -> None:
    """Train a version beside the service, which serves it without a restart."""
    started = inspect(container)["State"]["StartedAt"]
    found("version 1 is served", true=version() == 1)
    statuses, patience = [], 30.0
    with tempfile.TemporaryFile("w+") as log:
        command = [*COMPOSE, "run", "--rm", "--no-TTY", "train", "digits", "--fit.epochs", "3"]
        with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log) as training:
            while version() == 1 and patience > 0:
                statuses.append(send_request("/elbo", {"instances": [CHECKERBOARD]})[0])
                time.sleep(PAUSE)
                if training.poll() is not None:
                    patience -= PAUSE
            served = time.time()
        log.seek(0)
        if training.returncode:
            sys.exit(log.read())
    found("`docker compose run --rm train digits` trains")
    found("version 2 is served", true=version() == 2)
    written = float(run("docker", "exec", container, "stat", "--format=%.Z", "/models/digits/2"))
    found(f"that was so {served - written:.1f} s after it had been written")
    found(f"{len(statuses)} requests meanwhile are all answered", true={*statuses} == {200})
    found(
        "/elbo answers from it",
        true=send_request("/models/digits/versions/2/elbo", {"instances": [CHECKERBOARD]})[0] == 200,
    )
    state = inspect(container)
    found("without a restart", true=state["State"]["StartedAt"] == started and state["RestartCount"] == 0)


def keep_out(folder: Path) -> None:
    """A client without a key is refused."""
    key = "0123456789abcdef"
    file = folder / "keys.txt"
    file.write_text(key)
    folder.chmod(0o755)
    run(*UP, "serve", LOWERBOUND_API_KEYS_FILE=str(file))
    found("serve is healthy with API keys")
    found("a request without a key is refused", true=send_request("/model")[0] == 401)
    found("one with a key is answered", true=send_request("/model", key=key)[0] == 200)
    container = run(*COMPOSE, "ps", "--quiet", "serve")
    found("the key is not in the container's description", true=key not in json.dumps(inspect(container)))


def be_watched() -> None:
    """Prometheus, which finds the service and its alerts."""
    run(*COMPOSE, "up", "--detach", "--no-build", "prometheus")
    query = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1"

    def asked(path: str) -> dict[str, Any]:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{query}/{path}", timeout=5) as answer:
            return dict(json.load(answer)["data"])
        return {}

    up: list[Any] = []
    groups: list[Any] = []
    rules: list[Any] = []
    for _ in range(60):
        up = asked("query?query=up").get("result", [])
        groups = asked("rules").get("groups", [])
        rules = [rule for group in groups for rule in group["rules"]]
        evaluated = bool(rules) and all(rule["health"] == "ok" for rule in rules)  # Unknown before the first time.
        if evaluated and any(series["value"][1] == "1" for series in up):
            break
        time.sleep(1)
    targets = [(series["metric"]["instance"], series["value"][1]) for series in up]
    found("Prometheus finds serve:8000, and has its metrics", true=targets == [("serve:8000", "1")])
    found(f"Prometheus has {len(rules)} alert rules, and evaluates them", true=evaluated and len(groups) == 1)


def need_a_gpu() -> None:
    """The GPU's service, which must not come up on CPUs instead."""
    command = (*UP, "gpu")
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if "nvidia" in run("docker", "info", "--format", "{{json .Runtimes}}"):
        found(f"gpu is healthy {done.stderr}", true=not done.returncode)
    else:
        refusal = 'could not select device driver "nvidia"'
        found(f"gpu does not come up without a driver: {refusal}", true=done.returncode and refusal in done.stderr)


def drain(container: str) -> None:
    """Stop the service while it is being asked."""
    body = json.dumps({"instances": [CHECKERBOARD]}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    connection.putrequest("POST", "/elbo")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:10])
    time.sleep(0.5)
    began = time.monotonic()
    with subprocess.Popen([*COMPOSE, "stop", "serve"], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL):
        time.sleep(2)
        found("told to stop, serve runs while a request is under way", true=inspect(container)["State"]["Running"])
        connection.send(body[10:])
        status = connection.getresponse().status
        found(f"that request is answered: {status}", true=status == 200)
    seconds, status = time.monotonic() - began, inspect(container)["State"]["ExitCode"]
    found(f"it stopped {seconds:.1f} s after SIGTERM, with status {status}", true=status == 0)


def main() -> None:
    services = json.loads(run(*COMPOSE, "config", "--format", "json"))["services"]
    try:
        build("serve", services["serve"], "serve.lock", "remote.lock")
        build("gpu", services["gpu"], "serve.lock", "remote.lock", "cuda.lock")
        build("train", services["train"], "serve.lock", "remote.lock", "train.lock")
        container = come_up()
        answer()
        be_confined(container)
        take_up_what_is_trained(container)
        be_watched()
        need_a_gpu()
        drain(container)
        with tempfile.TemporaryDirectory() as folder:
            keep_out(Path(folder))
    finally:
        run(*COMPOSE, "down", "--volumes", "--timeout", "5")
    found("all of it")


if __name__ == "__main__":
    main()

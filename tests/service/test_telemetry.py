"""ONNX Runtime sends no reports: it looks up no name, and keeps nothing to send later."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCH = """
import fcntl, socket, struct, subprocess, sys, time

folder, seconds, *command = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # The loopback interface goes up.
with open(f"{folder}/resolv.conf", "w") as file:
    file.write("nameserver 127.0.0.1\\n")
subprocess.run(["mount", "--bind", f"{folder}/resolv.conf", "/etc/resolv.conf"], check=True)
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
child, due = subprocess.Popen(command), time.monotonic() + float(seconds)
while (left := due - time.monotonic()) > 0:
    names.settimeout(left)
    try:
        print(names.recv(512)[12:])
    except TimeoutError:
        break
child.kill()
"""
"""Run a command for a while in a network of its own, and print the names that are looked up."""

REPORTING = """
import sys, time, onnxruntime
onnxruntime.InferenceSession(sys.argv[1])
time.sleep(60)
"""
"""What ONNX Runtime does by itself: proof that the watch would see it."""


def watch(folder: Path, *command: str) -> "subprocess.Popen[str]":
    folder.mkdir()
    # Little of this environment: ONNX Runtime keeps silent where a variable such as `CI` names a build service.
    return subprocess.Popen(
        ["unshare", "-rnm", sys.executable, "-c", WATCH, str(folder), "25", sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder)},
    )


@pytest.mark.slow
def test_the_runtime_does_not_report(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rnm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network of its own can be had")
    model = Path(__file__).parents[2] / "service/models/digits/1/prior.onnx"
    reporting = watch(tmp_path / "by itself", "-c", REPORTING, str(model))
    serving = watch(tmp_path / "served", "-m", "service", "--port", "8000")
    by_itself, served = reporting.communicate()[0], serving.communicate()[0]
    assert "microsoft" in by_itself
    assert (tmp_path / "by itself" / ".ses").exists()
    assert served == ""
    assert [path.name for path in (tmp_path / "served").iterdir()] == ["resolv.conf"]

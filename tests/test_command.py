"""The command `lowerbound`, as it is installed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service import __version__
from service.cli import COMMANDS, Command, main
from service.storage import DEFAULT_REPOSITORY
from tests.conftest import wait_until

ROOT = Path(__file__).parents[1]
COMMAND = str(Path(sys.executable).with_name("lowerbound"))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def lowerbound(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120)


def test_the_version_and_the_commands_are_printed() -> None:
    assert lowerbound("--version").stdout == f"lowerbound {__version__}\n"
    page = lowerbound("--help").stdout
    for name, command in COMMANDS.items():
        assert name in page
        assert command.summary in page


@pytest.mark.parametrize(("arguments", "said"), [([], "usage: "), (["reign"], "error: no command 'reign'\n")])
def test_an_unknown_command_is_refused_with_the_known_ones(arguments: list[str], said: str) -> None:
    done = lowerbound(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert "commands:\n  serve " in done.stderr


def interrupt(arguments: list[str]) -> None:
    raise ImportError("initialization failed") from KeyboardInterrupt()


def test_an_interrupted_import_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "interrupt", Command(f"{__name__}:interrupt", ""))
    assert main(["interrupt"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing is written\n"


def test_no_name_in_an_error_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "no\x1b[2J", "no\x1b[2J.csv", "scores.csv"]) == 1
    assert main(["\x1b[2J"]) == 2
    shown = capsys.readouterr().err
    assert "error: no\\x1b[2J" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_its_usage_purpose_and_examples(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        sys.exit(main([name, "--help"]))
    assert not end.value.code
    shown = capsys.readouterr().out
    usage, _, purpose, *_ = shown.splitlines()
    assert usage.startswith(f"usage: lowerbound {name} ")
    assert purpose.endswith(".")
    assert f"\n  lowerbound {name}" in shown
    assert "None" not in shown


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_a_reader_of_the_output_may_end_early(arguments: list[str], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as output:  # noqa: PTH123 - a pipe
        environment = ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered}
        command = [COMMAND, *arguments]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=environment, check=False, timeout=120)
    assert done.stderr == b""


@pytest.mark.parametrize("closed", ["", "<&- >&-"])
def test_it_serves_until_it_is_told_to_stop(closed: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", COMMAND, "serve", "--port", "0"]
        process = subprocess.Popen(command, stderr=output, env=ENVIRONMENT)
    try:
        wait_until(lambda: "running on" in log.read_text(), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


def test_closed_streams_are_no_fault_and_no_file_takes_their_place(tmp_path: Path) -> None:
    def run(closed: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", COMMAND, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120)

    assert run(">&-", "--version").stderr == ""
    digits = [str(DEFAULT_REPOSITORY / "digits" / "1"), tmp_path / "x.npy"]
    np.save(digits[1], np.zeros((3, 8, 8), np.uint8))
    for name, closed in (("open", ""), ("closed", "<&- >&- 2>&-")):
        assert run(closed, "score", *digits, tmp_path / f"{name}.csv").returncode == 0
    assert (tmp_path / "closed.csv").read_bytes() == (tmp_path / "open.csv").read_bytes()


def test_variables_of_other_programs_are_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "KEY", "key.pem")
    assert lowerbound("sign", "bundle").stderr == "error: key: Field required\n"
    monkeypatch.setitem(ENVIRONMENT, "LOWERBOUND_PORT", "-1")
    assert lowerbound("serve").stderr.startswith("error: port: ")


def test_a_wrong_option_is_named() -> None:
    done = lowerbound("score", DEFAULT_REPOSITORY / "digits" / "1", "rows.npy", "out", "--num-draws", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: num_draws: ")

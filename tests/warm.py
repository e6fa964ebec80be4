"""Programs of the service, run in processes that are forked from one that has imported its packages.

Importing takes a server three seconds of a processor, and the tests start some hundreds. From there on a forked process
does what `python -m` does: it has its own arguments, environment, output and exit status.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

AT_START = {"LD_PRELOAD", "PYTHONPATH"}
"""Variables that act when Python starts: programs that have them get a fresh process."""

PACKAGES = ("service.commands.serve", "service.bulk.score", "service.observability.tracing", "scipy.stats.qmc", "s3fs")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, *PACKAGES])


class Program:
    """A program under way, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: Path, errors: Path) -> None:
        arguments = (list(command), dict(environment), str(output), str(errors))
        self._process = _context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


Process = Program | subprocess.Popen[bytes]


def start(program: Sequence[str], output: Path, errors: Path | None = None, **settings: str) -> Process:
    """Run `python -m` with a module and its arguments, and with variables beside those of the tests.

    Args:
        program: The module, and its arguments.
        output: The file for standard output.
        errors: The file for standard error; None: the same one.
        settings: Variables. Those of the service come from here alone.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOWERBOUND_")} | settings
    errors = errors or output
    for path in {output, errors}:
        path.write_bytes(b"")
    # Lines that are counted are counted from the start.
    if AT_START & settings.keys() or any(key.startswith("COVERAGE_") for key in environment):
        with output.open("ab") as out, errors.open("ab") as err:
            return subprocess.Popen([sys.executable, "-m", *program], stdout=out, stderr=err, env=environment)
    return Program(program, environment, output, errors)


def run(program: Sequence[str], timeout: float = 60, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the same to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = start(program, output, errors, **settings)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(list(program), status, output.read_text(), errors.read_text())


def _run(command: list[str], environment: dict[str, str], output: str, errors: str) -> None:
    gc.freeze()  # Else a server would collect the garbage of what was imported, in pages that it then has to copy.
    multiprocessing.current_process().daemon = False  # It may start others.
    # A shell starts background jobs deaf to Ctrl-C, and children inherit it; a person's terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.argv = command
    if not hasattr(sys.modules.get(command[0]), "__path__"):
        sys.modules.pop(command[0], None)  # A module that is no package runs once more, as the main one.
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)

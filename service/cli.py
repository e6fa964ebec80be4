"""The command `lowerbound`: finds a subcommand, runs it, and turns its errors into one line and an exit status.

A subcommand's module is imported when it is called, so that serving needs no PyTorch.
"""

import atexit
import gc
import inspect
import os
import re
import select
import sys
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from service import __version__
from service.errors import LowerboundError, printable

S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        function: `module:function` that takes the arguments.
        summary: One line of help.
        extra: The optional dependencies that it needs, if any.
    """

    function: str
    summary: str
    extra: str = ""


COMMANDS = {
    "serve": Command("service.commands.serve:main", "answer over HTTP from a folder of bundles"),
    "train": Command("training.commands:train", "train on a table or on pictures, and write a bundle", "train"),
    "evaluate": Command("training.evaluate:main", "measure a bundle on rows that it was not trained on", "train"),
    "score": Command("service.bulk.score:main", "score files of any size, without a server"),
    "threshold": Command("service.commands.threshold:main", "find the threshold that labelled rows ask for"),
    "compare": Command("service.commands.compare:main", "two models side by side on the same rows"),
    "recalibrate": Command("service.commands.recalibrate:main", "compare with confirmed rows too, without training"),
    "promote": Command("service.commands.promote:main", "make an earlier version of a model the latest"),
    "sign": Command("service.commands.sign:main", "sign a bundle, for services that require a signature"),
    "export": Command("training.commands:export", "write the bundle of a run that was not finished", "train"),
}

HELP = """usage: lowerbound COMMAND [options]

Train variational autoencoders, and serve their evidence lower bound.

commands:
{commands}

`lowerbound COMMAND --help` lists the options of a command. `lowerbound --version` prints the version."""


class CommandLine(BaseSettings):
    """Base of options that arguments give, and variables only if these have a prefix: DATA must not choose the data."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings) if cls.model_config.get("env_prefix") else (init_settings,)


class CommandOptions(CommandLine):
    """Base of a subcommand's options: one field, one flag."""

    model_config = SettingsConfigDict(frozen=True, cli_kebab_case=True, cli_hide_none_type=True, cli_avoid_json=True)


class HelpPage(RawDescriptionHelpFormatter):
    """Help with a usage of one line, and without defaults that say nothing."""

    def add_usage(self, usage: str | None, actions: Iterable[Action], groups: Any, prefix: str | None = None) -> None:
        names = [str(action.metavar or action.dest) for action in actions if not action.option_strings]
        super().add_usage(usage or " ".join(["%(prog)s", *names, "[options]"]), actions, groups, prefix)

    def add_text(self, text: str | None) -> None:
        super().add_text(text and inspect.cleandoc(text))

    def _get_help_string(self, action: Action) -> str | None:
        """The help, without a default that it names itself or that says nothing."""
        text = action.help or ""
        shown = r"default.*" if "Default: " in text else r"default factory: .*|default: (None|null|\{\}|\(\))"
        return re.sub(rf" \(({shown})\)$", "", text)


def parse(schema: type[S], arguments: list[str], **values: Any) -> S:
    """The options that the arguments give; `values` are defaults of this call.

    Raises:
        ValidationError: They do not make a `schema`.
    """
    source = CliSettingsSource[Any](schema, formatter_class=HelpPage)
    return CliApp.run(schema, cli_args=arguments, cli_settings_source=source, **values)


def problems(error: ValidationError) -> str:
    """The errors of values, in one line that names their fields."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status: 1 for an error, 2 for an unknown command, 130 after Ctrl-C."""
    _open_standard_streams()
    try:
        try:
            return _find_and_run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again as it exits.
        return 1


def _open_standard_streams() -> None:
    """Lead the standard streams that the caller has closed nowhere.

    The next files or sockets would take their numbers. What libraries tell of errors would then be written into scores,
    and the event loop of the service would abort at its end.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # The lowest free number is this one.
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - open to the end


def _find_and_run(arguments: list[str] | None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command := COMMANDS.get(name):
        atexit.register(gc.freeze)  # The last collection would walk all of PyTorch for two seconds.
        return _run(name, command, rest)
    if name in {"-h", "--help", "--version"}:
        print(f"lowerbound {__version__}" if name == "--version" else _help())
        return 0
    _tell(f"error: no command {name!r}\n\n{_help()}" if name else _help())
    return 2


def _run(name: str, command: Command, arguments: list[str]) -> int:
    try:
        module, function = command.function.split(":")
        getattr(import_module(module), function)(arguments)
    except ModuleNotFoundError as error:
        if not command.extra:
            raise
        _tell(f"error: {name} needs the module {error.name!r}: pip install 'lowerbound[{command.extra}]'")
    except ValidationError as error:
        _tell(f"error: {problems(error)}")
    except (LowerboundError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            raise
        _tell("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))
    except (KeyboardInterrupt, ImportError) as error:
        # Libraries in C++ put an error of their own around a Ctrl-C that comes while they are loaded.
        cause = error.__cause__ if isinstance(error, ImportError) else error
        if not isinstance(cause, KeyboardInterrupt):
            raise
        _tell(f"interrupted; {cause}" if cause.args else "interrupted; nothing is written")
        return 130
    else:
        return 0
    return 1


def _output_is_closed() -> bool:
    """Whether the reader of the output has ended, as `head` does."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # Errors are always told.
    return bool(poll.poll(0))


def _help() -> str:
    width = max(map(len, COMMANDS))
    return HELP.format(commands="\n".join(f"  {name:{width}}  {c.summary}" for name, c in COMMANDS.items()))


def _tell(text: str) -> None:
    """Write to standard error; of several training processes only the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

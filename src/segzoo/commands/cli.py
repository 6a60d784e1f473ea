"""The program ``segzoo``: one subcommand per module of `segzoo.commands`.

Such a module has a one-line docstring (its help line), ``add_arguments(parser)`` and ``run(args) -> int`` (the exit
status). It is imported only when its command is given; for the program's help, the help line is read from its source.
"""

import argparse
import ast
import difflib
import gc
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from segzoo.errors import SegZooError, cause_of
from segzoo.progress import say
from segzoo.shortages import shortage_of
from segzoo.text import message_text, terminal_text

COMMANDS = ("benchmark", "convert", "data", "demo", "evaluate", "export", "info", "list", "predict", "recipe", "train")
"""The subcommands, in the order of the help. A new one is a new module in `segzoo.commands` and its name here."""

WITHOUT_MODELS = ("data", "list")
"""Those that start without torch; where they need models all the same, they import what registers these."""

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments after the program's name; None takes them from the command line.

    Returns:
        The exit status: that of the subcommand, 0 for success; 1 after an error of the user or of a file, or where memory,
        processes or open files run out, which is one line on stderr; 130 after Ctrl-C; 141 if the reader of the output has closed it. Wrong usage ends with status
        2, through argparse's ``SystemExit``. Any other error is a fault in segzoo and keeps its traceback;
        ``--traceback`` and ``SEGZOO_DEBUG=1`` keep every traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # A class name or file name that the terminal's encoding lacks must not end a command.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
    with_traceback = "--traceback" in arguments or os.environ.get("SEGZOO_DEBUG", "0") not in ("", "0")
    try:
        with _clean_warnings(), _quick_start(enabled=argv is None) as started:
            status = _run(arguments, started)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python flushes standard output once more at exit; that goes to the null device.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        if with_traceback:
            raise
        say("segzoo: interrupted", stream=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        line = shortage_of(error) or (cause_of(error) if isinstance(error, (SegZooError, OSError)) else None)
        if with_traceback or line is None:
            raise
        say(f"segzoo: error: {line}", stream=sys.stderr)
        return EXIT_ERROR


def _run(arguments: list[str], started: Callable[[], None]) -> int:
    # No option of the program itself takes a value: the first word without a dash is the subcommand.
    position = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    parser = _ProgramParser()
    parser.parse_args(arguments[:position])
    if position == len(arguments):
        parser.print_help()
        return 0
    name = arguments[position]
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(COMMANDS)}"
        parser.error(f"no subcommand {name!r}: {hint}")
    command = importlib.import_module(f"segzoo.commands.{name}")
    command_parser = _Parser(prog=f"segzoo {name}", description=command.__doc__)
    command.add_arguments(command_parser)
    _add_traceback(command_parser)
    args = command_parser.parse_args(arguments[position + 1 :])
    if getattr(args, "output", None) == "":  # a path of no name is the current folder
        command_parser.error("argument --output: the name is empty")
    if name not in WITHOUT_MODELS:
        importlib.import_module("segzoo.registration")  # makes segzoo's models known to the Auto classes
    started()
    return command.run(args) or 0


@contextmanager
def _quick_start(*, enabled: bool) -> Iterator[Callable[[], None]]:
    """A context that imports without the garbage collector, until the function that it gives is called.

    Imports make a million objects that stay, and the collector looks through all of them again and again: a quarter of
    a command's start. Afterwards it does not look at them any more. Only for a process that is the program: what a caller
    has made is not ours to keep.
    """
    if not enabled or not gc.isenabled():
        yield lambda: None
        return

    def started() -> None:
        gc.freeze()
        gc.enable()

    gc.disable()
    try:
        yield started
    finally:
        gc.enable()


@contextmanager
def _clean_warnings() -> Iterator[None]:
    """A context in which warnings, which name files and classes, are printed as other texts are."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda *args, **kwargs: terminal_text(before(*args, **kwargs))
    try:
        yield
    finally:
        warnings.formatwarning = before


class _Parser(argparse.ArgumentParser):
    """A parser whose errors quote the command line as other errors quote names."""

    def error(self, message: str) -> NoReturn:
        super().error(message_text(message))


class _ProgramParser(_Parser):
    """Options of the program itself; its help lists the subcommands."""

    def __init__(self) -> None:
        super().__init__(
            prog="segzoo",
            usage="segzoo [-h] [--version] [--traceback] COMMAND ...",
            description="Semantic-segmentation models as Hugging Face models.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--version", action="version", version=_versions())
        _add_traceback(self)

    def format_help(self) -> str:
        width = max(map(len, COMMANDS)) + 2
        lines = [f"  {name:{width}}{help_line(name)}" for name in COMMANDS]
        self.epilog = "\n".join(["commands:", *lines, "", "segzoo COMMAND --help tells more about each."])
        return super().format_help()


def _add_traceback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")


def help_line(command: str) -> str:
    """The first line of the docstring of a subcommand's module, without importing the module."""
    specification = importlib.util.find_spec(f"segzoo.commands.{command}")
    source = specification.loader.get_source(specification.name)
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def _versions() -> str:
    installed = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    return (
        f"segzoo {importlib.metadata.version('segzoo')} ({', '.join(installed)}, Python {platform.python_version()})"
    )

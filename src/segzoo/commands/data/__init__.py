"""Check a data set for what breaks a training, show its pictures, make masks of outlines."""

# Each action is a module of this package, with a one-line docstring (its help line), EPILOG, add_arguments(parser) and
# run(args) -> int (the exit status).

import argparse
import importlib

from segzoo.commands.cli import help_line

ACTIONS = ("check", "show", "masks", "prepare")
"""In the order of the help. A new one is a new module in this package and its name here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name in ACTIONS:
        module = importlib.import_module(f"{__name__}.{name}")
        text = help_line(f"data.{name}").removesuffix(".")
        action = actions.add_parser(
            name,
            help=text[0].lower() + text[1:],
            description=f"{text}.",
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(action)
        action.add_argument("--traceback", action="store_true", help="show where in the code an error arose")


def run(args: argparse.Namespace) -> int:
    """Run the action; returns its exit status."""
    return importlib.import_module(f"{__name__}.{args.action}").run(args)

"""Flags made from the fields of `segzoo.options.Options`, and a parser that explains what it does not know."""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

from segzoo.options import Flag, Kind, Options, kinds_of, truth


def add_flags(group: Any, cls: type[Options], names: Sequence[str] | None = None) -> None:
    """A flag for every field of a group of options; one that is not given leaves nothing in the namespace.

    The namespace has the values as text: the class converts and checks them. Names may have dashes for underscores.

    Args:
        group: a parser, or a group of its arguments.
        cls: the options.
        names: fields to make flags of; None: all.
    """
    kinds = kinds_of(cls)
    for entry in dataclasses.fields(cls):
        flag: Flag | None = entry.metadata["flag"]
        if flag is None or (names is not None and entry.name not in names):
            continue
        limits, help = entry.metadata["limits"], entry.metadata["help"]
        if limits.choices is not None:
            help += f" ({', '.join(limits.choices)})"
        settings = {"help": help.replace("%", "%%"), "default": argparse.SUPPRESS, "dest": entry.name}
        settings |= _words(kinds[entry.name], flag)
        add_flag(group.add_argument, (entry.name, *flag.aliases), **settings)


def add_flag(add: Callable[..., argparse.Action], names: Sequence[str], **settings: Any) -> None:
    """``--name`` for each of some names with underscores, which may be written with dashes too."""
    spellings = [f"--{name}" for name in names]
    dashed = [f"--{name.replace('_', '-')}" for name in names if "_" in name]
    action = add(*spellings, *dashed, **settings)
    action.option_strings = [name for name in action.option_strings if "-" not in name[2:]]  # that help shows


def _words(kind: Kind, flag: Flag) -> dict[str, Any]:
    """How many words follow a flag, and what they are called in its help."""
    if kind.element is bool:
        return {"action": Switch}
    if kind.element is dict:
        return {"metavar": "JSON"}
    words = {"metavar": {int: "INT", float: "FLOAT", str: "TEXT"}[kind.element]}
    if kind.many:
        return words | {"nargs": "+"}
    return words if flag.const is None else words | {"nargs": "?", "const": flag.const}


class Switch(argparse.Action):
    """A switch as the argparse and the Trainer scripts spell them: ``--x``, ``--x True``, ``--no_x``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        self.negations = {f"--no{dash}{name[2:]}" for name in option_strings for dash in "_-"}
        names = [*option_strings, *sorted(self.negations)]
        super().__init__(names, dest, nargs="?", metavar="BOOL", type=_truth, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set the value that a spelling of the switch stands for."""
        value = True if values is None else values
        setattr(namespace, self.dest, value != (option_string in self.negations))

    def format_usage(self) -> str:
        """``--x | --no_x``"""
        return " | ".join(self.option_strings)


def _truth(text: str) -> bool:
    try:
        return truth(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def explain_unknown_flags(parser: argparse.ArgumentParser) -> None:
    """Let a parser name the flag that a typo is nearest to, and guess nothing from the beginning of a name."""
    plain_error = parser.error

    def error(message: str) -> None:
        _, unknown, words = message.partition("unrecognized arguments: ")
        plain_error(_explanation(parser, words.split()) if unknown else message)

    parser.error = error
    parser.allow_abbrev = False


def _explanation(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
    if flag is None:
        return f"what is {unknown[0]!r}? Values follow a flag, such as --output_dir {unknown[0]}"
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    near = difflib.get_close_matches(f"--{flag.lstrip('-').replace('-', '_')}", known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists them all"
    return f"there is no flag {flag}; {hint}"

"""Command-line flags made from the fields of `segzoo.options.Options`, and a parser that explains unknown flags."""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

from segzoo.options import Flag, Kind, Options, kinds_of, truth


def add_flags(group: Any, cls: type[Options], names: Sequence[str] | None = None) -> None:
    """Add a flag for every field of a group of options; a flag that is not given leaves nothing in the namespace.

    The namespace holds the values as text: ``cls`` converts and checks them. Names may be written with dashes.

    Args:
        group: a parser, or one of its argument groups.
        cls: the options.
        names: the fields to add flags for; None: all.
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
    """Add one flag with these names; each may also be written with dashes, which its help does not show."""
    spellings = [f"--{name}" for name in names]
    dashed = [f"--{name.replace('_', '-')}" for name in names if "_" in name]
    action = add(*spellings, *dashed, **settings)
    action.option_strings = [
        name for name in action.option_strings if "-" not in name[2:]
    ]  # the names that help shows


def _words(kind: Kind, flag: Flag) -> dict[str, Any]:
    """Keyword arguments of ``add_argument``: how many words follow a flag, and what they are called in its help."""
    if kind.element is bool:
        return {"action": Switch}
    if kind.element is dict:
        return {"metavar": "JSON"}
    words = {"metavar": {int: "INT", float: "FLOAT", str: "TEXT"}[kind.element]}
    if kind.many:
        return words | {"nargs": "+"}
    return words if flag.const is None else words | {"nargs": "?", "const": flag.const}


class Switch(argparse.Action):
    """A switch in the spellings of argparse and transformers: ``--x``, ``--x True``, ``--no_x``, ``--no-x``."""

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
        """Store the value of the switch: ``--no_x`` is False, ``--no_x False`` is True."""
        value = True if values is None else values
        setattr(namespace, self.dest, value != (option_string in self.negations))

    def format_usage(self) -> str:
        """All spellings, for usage texts: ``--x | --no_x``."""
        return " | ".join(self.option_strings)


def _truth(text: str) -> bool:
    try:
        return truth(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def explain_unknown_flags(parser: argparse.ArgumentParser) -> None:
    """Let a parser suggest flags similar to an unknown one, and accept no abbreviations."""
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

"""How the training script's command line is read: switches, flags made from dataclass fields, and the nearest name of a typo."""

import argparse
import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def truth(text: str) -> bool:
    """``true``/``yes``/``on``/``1`` or their opposites, as `transformers.HfArgumentParser` has them."""
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


class Switch(argparse.Action):
    """A switch as the argparse and the Trainer scripts spell them: ``--x``, ``--x True``, ``--no_x``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        names = [*option_strings, *(f"--no_{name.removeprefix('--')}" for name in option_strings)]
        super().__init__(names, dest, nargs="?", metavar="BOOL", type=truth, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        value = True if values is None else values
        setattr(namespace, self.dest, value != option_string.startswith("--no_"))

    def format_usage(self) -> str:
        """``--x | --no_x``"""
        return " | ".join(self.option_strings)


class FlagParser(argparse.ArgumentParser):
    """Takes dashes for underscores in names, does not guess from prefixes, and names the flag that a typo is nearest to."""

    def __init__(self, description: str | None = None):
        super().__init__(
            usage="%(prog)s --output_dir DIR [--flag VALUE ...]; --help explains all flags",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args=None, namespace=None):
        """As usual; an unknown flag ends with status 2 and a message that names the nearest one."""
        import sys

        words = [_underscored(word) for word in (sys.argv[1:] if args is None else args)]
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            flag = next((word for word in unknown if word.startswith("-")), None)
            if flag is None:
                self.error(f"what is {unknown[0]!r}? Values follow a flag, such as --output_dir {unknown[0]}")
            self.error(f"there is no flag {flag.split('=')[0]}{self._hint(flag.split('=')[0])}")
        return parsed

    def _hint(self, flag: str) -> str:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        near = difflib.get_close_matches(flag, known, n=3, cutoff=0.6)
        if near:
            return f"; did you mean {' or '.join(near)}?"
        return "; --help lists them all"


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word


def add_dataclass_flags(add: Callable[..., Any], cls: type, names: Sequence[str] | None = None) -> None:
    """A flag for every field of a dataclass; a flag that is not given leaves nothing in the namespace.

    Args:
        add: ``add_argument`` of a parser or group.
        cls: its fields are bool, int, float, str, tuples of them, or anything else as JSON; ``metadata["help"]`` explains a
            field, ``metadata["choices"]`` limits it.
        names: fields to make flags of; None: all.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if names is not None and field.name not in names:
            continue
        options = {
            "help": field.metadata.get("help", "").replace("%", "%%"),
            "default": argparse.SUPPRESS,
            "dest": field.name,
        }
        kind = _without_none(hints[field.name])
        if kind is bool:
            add(f"--{field.name}", action=Switch, **options)
            continue
        if typing.get_origin(kind) is tuple and typing.get_args(kind)[0] in (int, float, str):
            inner = typing.get_args(kind)[0]
            add(f"--{field.name}", nargs="+", type=_or_none(inner), metavar=inner.__name__.upper(), **options)
        elif kind in (int, float, str):
            choices = field.metadata.get("choices")
            if choices is not None:
                options["help"] += f" ({', '.join(map(str, choices))})"
            add(f"--{field.name}", type=_or_none(kind), metavar=kind.__name__.upper(), **options)
        else:
            add(f"--{field.name}", type=_json, metavar="JSON", **options)


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        left = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(left) == 1:
            return _without_none(left[0])
        tuples = [part for part in left if typing.get_origin(part) is tuple]
        return tuples[0] if tuples else left[0]
    return hint


def _or_none(kind: type) -> Callable[[str], Any]:
    """``none`` takes away what a recipe sets."""

    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse puts it into its message
    return read


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from None

"""Values of recipes: what kind each field has, conversion from files and command lines, ranges, and the nearest name of a typo."""

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, field
from typing import Any

from segzoo.errors import SegZooError


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] | None = None,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    lengths: tuple[int, ...] | None = None,
) -> Any:
    """A dataclass field with its explanation and range in ``metadata``.

    Args:
        default: of the field.
        help: one line about it.
        choices: the strings that it may be.
        above, at_least, at_most, below: bounds of the number, or of each number.
        lengths: how many values a tuple may have; where 1 and 2 are not both among them, one number stands for two equal ones.
    """
    bounds = {"above": above, "at_least": at_least, "at_most": at_most, "below": below}
    return field(
        default=default,
        metadata={
            "help": help,
            "choices": None if choices is None else tuple(choices),
            "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
            "lengths": lengths,
        },
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing where no known name is near."""
    plain = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(str(name).lower(), plain, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(plain[entry]) for entry in near)}?" if near else ""


def convert(entry: Field, hint: Any, value: Any) -> Any:
    """The value of a field in the field's own type.

    Numbers may be written as text, as YAML reads ``6e-5``; lists become tuples; ``None`` and ``"none"`` stand for no value.

    Args:
        entry: the field, made by ``option``.
        hint: its type.
        value: from code, JSON, YAML or a command line.

    Raises:
        SegZooError: another type, a number out of range, a string that is no choice, too many or too few values.
    """
    if isinstance(value, list | tuple) and len(value) == 1 and _is_none(value[0]):
        value = None
    kind = _without_none(hint)
    if _is_none(value) and kind is not hint:
        return None
    if _is_none(value) and typing.get_origin(kind) is tuple:
        return ()
    if typing.get_origin(kind) is not tuple:
        return _scalar(entry, kind, value)
    element = typing.get_args(kind)[0]
    lengths = entry.metadata["lengths"]
    if not isinstance(value, list | tuple):
        value = [value]
    if lengths == (2,) and len(value) == 1:
        value = [*value, *value]
    if lengths is not None and len(value) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise SegZooError(f"recipe: {entry.name} has {len(value)} values; it takes {wanted}")
    return tuple(_scalar(entry, element, part) for part in value)


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.lower() == "none")


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _scalar(entry: Field, kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise _error(entry, value, "a mapping such as {type: cross_entropy, weight: 1.0}")
        return dict(value)
    if kind is bool:
        if not isinstance(value, bool):
            raise _error(entry, value, "true or false")
        return value
    if kind is str:
        choices = entry.metadata["choices"]
        if not isinstance(value, str):
            raise _error(entry, value, "text")
        if choices is not None and value not in choices:
            raise SegZooError(
                f"recipe: {entry.name} is {value!r}; it is one of {', '.join(choices)}{nearest(value, choices)}"
            )
        return value
    number = _number(entry, kind, value)
    _check_bounds(entry, number)
    return number


def _number(entry: Field, kind: type, value: Any) -> int | float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _error(entry, value, _wanted(kind)) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _error(entry, value, _wanted(kind))
    if kind is int:
        if value != int(value):
            raise _error(entry, value, _wanted(kind))
        return int(value)
    return float(value)


def _check_bounds(entry: Field, number: float) -> None:
    bounds = entry.metadata["bounds"]
    fits = (
        number > bounds.get("above", -math.inf)
        and number >= bounds.get("at_least", -math.inf)
        and number <= bounds.get("at_most", math.inf)
        and number < bounds.get("below", math.inf)
    )
    if not fits:
        words = " and ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in bounds.items())
        raise SegZooError(f"recipe: {entry.name} is {number:g}; it must be {words}")


def _wanted(hint: Any) -> str:
    kind = _without_none(hint)
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a mapping")


def _error(entry: Field, value: Any, wanted: str) -> SegZooError:
    return SegZooError(f"recipe: {entry.name} is {value!r:.60}; it must be {wanted}")

"""Options as typed dataclass fields, which state type, default, help and range once.

The values may come from code, JSON, YAML or a command line: numbers and switches may be text, lists become tuples, and
``none`` stands for no value. A value that does not fit raises a `SegZooError` that names the option, the value and
what it must be.
"""

import dataclasses
import difflib
import json
import math
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field
from functools import cache
from typing import Any, ClassVar, NoReturn, TypeVar

from segzoo.errors import SegZooError

MAX_FACTOR = 1e9
"""The largest factor or number of steps: far from where numbers overflow."""

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Flag:
    """How an option is spelled on command lines, besides ``--name``.

    Args:
        aliases: other names.
        const: the value of the flag if none follows it; None: a value must follow.
    """

    aliases: tuple[str, ...] = ()
    const: Any = None


_ITS_NAME = Flag()


@dataclass(frozen=True)
class Limits:
    """The values that an option accepts.

    Args:
        choices: the only strings allowed; None: any string.
        words: strings allowed in place of a number.
        bounds: bounds of the number, or of each number of a tuple; the keys are "above", "at_least", "at_most" and
            "below".
        lengths: numbers of values that a tuple may have; None: any. If 2 is the only one, a single value is doubled.
    """

    choices: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()
    bounds: Mapping[str, float] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] | None = None,
    words: Iterable[str] = (),
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    lengths: tuple[int, ...] | None = None,
    flag: Flag | None = _ITS_NAME,
) -> Any:
    """A field of an `Options` class.

    Args:
        default: the field's default.
        help: one line for ``--help``.
        choices, words, lengths: see `Limits`.
        above, at_least, at_most, below: the ``bounds`` of `Limits`.
        flag: spelling on command lines; None: the option has no flag.
    """
    bounds = {"above": above, "at_least": at_least, "at_most": at_most, "below": below}
    limits = Limits(
        choices=None if choices is None else tuple(choices),
        words=tuple(words),
        bounds={name: bound for name, bound in bounds.items() if bound is not None},
        lengths=lengths,
    )
    return field(default=default, metadata={"help": help, "limits": limits, "flag": flag})


Part = TypeVar("Part", bound="Options")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options; a class that derives from several groups has the options of all of them.

    Every field is made with `option`. Creating an object converts the values to the fields' types and checks them.

    Raises:
        SegZooError: a value of the wrong type or range, or values that do not fit each other.
    """

    prefix: ClassVar[str] = ""
    """Text before an option's name in messages, such as ``"--"``."""

    def __post_init__(self) -> None:
        kinds = kinds_of(type(self))
        for entry in dataclasses.fields(self):
            value = _read(f"{self.prefix}{entry.name}", entry, kinds[entry.name], getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
        self.check()

    def check(self) -> None:
        """Raise a `SegZooError` if values do not fit each other; subclasses extend it and call ``super().check()``."""

    def refuse(self, problem: str) -> NoReturn:
        """Raise a `SegZooError` with the prefix and ``problem``, which begins with the name of the option."""
        raise SegZooError(f"{self.prefix}{problem}")

    def part(self, group: type[Part]) -> Part:
        """The options of one of the groups that this class derives from, as an object of their own."""
        return group(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(group)})

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; tuples become lists, as in JSON."""
        return {entry.name: plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}


@dataclass(frozen=True)
class Kind:
    """The type of an option.

    Args:
        element: bool, int, float, str or dict: the type of the value, or of each value of a tuple.
        many: whether the option is a tuple.
        optional: whether it may be None.
    """

    element: type
    many: bool
    optional: bool


@cache
def kinds_of(cls: type[Options]) -> dict[str, Kind]:
    """The kind of each field of an `Options` class."""
    hints = typing.get_type_hints(cls)
    return {entry.name: _kind(hints[entry.name]) for entry in dataclasses.fields(cls)}


def _kind(hint: Any) -> Kind:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    first = next(part for part in parts if part is not type(None))
    many = typing.get_origin(first) is tuple
    element = typing.get_args(first)[0] if many else first
    if isinstance(element, types.UnionType):  # a number, or a word in its place
        element = typing.get_args(element)[0]
    return Kind(typing.get_origin(element) or element, many, type(None) in parts)


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the similar known names, or an empty string if there are none."""
    by_lower = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(by_lower[entry]) for entry in near)}?" if near else ""


def plain(value: Any) -> Any:
    """A value ready for JSON: tuples become lists, mappings become dicts, at any depth."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value


def truth(text: str) -> bool:
    """Read ``true``, ``yes``, ``on``, ``1`` or their opposites, in upper or lower case.

    Raises:
        ValueError: the text is any other word.
    """
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise ValueError(f"{text!r} is neither true nor false")


def _read(name: str, entry: Field, kind: Kind, value: Any) -> Any:
    limits: Limits = entry.metadata["limits"]
    if isinstance(value, list | tuple) and len(value) == 1 and _is_none(value[0]):
        value = None
    if _is_none(value) and kind.optional:
        return None
    if _is_none(value) and kind.many:
        return ()
    flag = entry.metadata["flag"]
    if flag is not None and flag.const is not None and value is flag.const:
        return value
    if not kind.many:
        return _scalar(name, limits, kind.element, value)
    if kind.element is dict and isinstance(value, str):
        value = _json(name, value)
    if not isinstance(value, list | tuple):
        value = [value]
    if limits.lengths == (2,) and len(value) == 1:
        value = [*value, *value]
    if limits.lengths is not None and len(value) not in limits.lengths:
        wanted = " or ".join(map(str, limits.lengths))
        raise SegZooError(f"{name} has {len(value)} values; it takes {wanted}")
    return tuple(_scalar(name, limits, kind.element, part) for part in value)


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.lower() == "none")


def _scalar(name: str, limits: Limits, element: type, value: Any) -> Any:
    if element is dict:
        if not isinstance(value, Mapping):
            raise _error(name, value, "a mapping such as {type: cross_entropy, weight: 1.0}")
        return dict(value)
    if element is bool:
        try:
            value = truth(value) if isinstance(value, str) else value
        except ValueError:
            raise _error(name, value, "true or false") from None
        if not isinstance(value, bool):
            raise _error(name, value, "true or false")
        return value
    if element is str:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(value, str):
            raise _error(name, value, "text")
        if limits.choices is not None and value not in limits.choices:
            choices = ", ".join(limits.choices)
            raise SegZooError(f"{name} is {value!r}; it is one of {choices}{nearest(value, limits.choices)}")
        return value
    if isinstance(value, str) and value in limits.words:
        return value
    number = _number(name, limits, element, value)
    _check_bounds(name, limits.bounds, number)
    return number


def _number(name: str, limits: Limits, element: type, value: Any) -> int | float:
    wanted = "a whole number" if element is int else "a number"
    if limits.words:
        steps = " of steps" if element is int else ""
        wanted = f"a number{steps} or {' or '.join(map(repr, limits.words))}"
    number = value
    if isinstance(value, str):
        try:
            number = int(value) if element is int and value.lstrip("+-").isdecimal() else float(value)
        except ValueError:
            raise _error(name, value, wanted) from None
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= sys.float_info.max:
        raise _error(name, value, wanted)
    if element is int and number != int(number):
        raise _error(name, value, wanted)
    return element(number)


def _check_bounds(name: str, bounds: Mapping[str, float], number: float) -> None:
    fits = (
        number > bounds.get("above", -math.inf)
        and number >= bounds.get("at_least", -math.inf)
        and number <= bounds.get("at_most", math.inf)
        and number < bounds.get("below", math.inf)
    )
    if fits:
        return
    words = "be " + " and ".join(f"{kind.replace('_', ' ')} {bound:.10g}" for kind, bound in bounds.items())
    if bounds.keys() == {"above", "below"}:
        words = f"lie between {bounds['above']:.10g} and {bounds['below']:.10g}"
    shown = str(number) if isinstance(number, int) else f"{number:.10g}"
    raise SegZooError(f"{name} is {shown:.60}; it must {words}")


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SegZooError(f"{name} is {text!r:.60}; it must be JSON ({error})") from None


def _error(name: str, value: Any, wanted: str) -> SegZooError:
    return SegZooError(f"{name} is {value!r:.60}; it must be {wanted}")

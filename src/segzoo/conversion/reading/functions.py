"""The operators, functions and methods that a config's text may use: pure ones of literals, bounded before they run.

Each function here raises what Python raises for wrong values, and TooMuch where the result or the work would be too
large. Whatever is not in the tables of this module is never called.
"""

import ast
import operator
import re
import string
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sequence, ValuesView
from typing import Any

from segzoo.conversion.reading.limits import MAX_INTEGER_BITS, MAX_VALUES, Budget, TooMuch
from segzoo.conversion.reading.unreadable import is_unreadable

MAX_TEXT = 10_000  # characters of a text that is formatted or searched, and of what it is padded to
_CONTAINERS = (str, bytes, list, tuple, set, dict)

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_CONVERSIONS: dict[int, Callable[[Any], str]] = {ord("s"): str, ord("r"): repr, ord("a"): ascii}

_OF_VALUES: dict[str, Callable[..., Any]] = {f.__name__: f for f in (abs, bool, float, int, len, round, str)}
_OF_ITEMS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (all, any, enumerate, list, max, min, reversed, set, sorted, sum, tuple, zip)
}
FUNCTIONS = {*_OF_VALUES, *_OF_ITEMS, "range"}

_METHODS: dict[type, set[str]] = {
    str: {name for name in vars(str) if name.islower() and not name.startswith("_")}
    - {"encode", "expandtabs", "format_map", "maketrans", "translate"},
    dict: {"clear", "copy", "get", "items", "keys", "pop", "setdefault", "update", "values"},
    list: {"append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"},
    tuple: {"count", "index"},
    set: {"add", "copy", "discard", "update"},
}
READ_ONLY = {"copy", "count", "get", "index", "items", "keys", "values"}


class BaseDict(dict[Any, Any]):
    """A dict of a base file as a config sees it. As in mmengine, ``update`` merges dicts key by key."""

    def copy(self) -> "BaseDict":
        return BaseDict(self)

    def update(self, *others: Any, **more: Any) -> None:
        for key, value in dict(*others, **more).items():
            below = self.get(key)
            if is_unreadable(value) or not isinstance(value, dict):
                self[key] = value
            elif is_unreadable(below):
                continue
            elif isinstance(below, dict):
                below.update(value)
            else:
                self[key] = value


def items_of(value: Any, budget: Budget) -> list[Any]:
    """The items that a loop over ``value`` visits, charged before they are made."""
    if not isinstance(value, _CONTAINERS):
        raise TypeError(f"a {type(value).__name__} has no items")
    budget.charge(len(value))
    return list(value)


def set_of(items: list[Any], budget: Budget) -> set[Any]:
    """The set of ``items``, charged before it is made."""
    budget.charge_keys(items)
    return set(items)


def dict_of(pairs: list[Any], budget: Budget) -> dict[Any, Any]:
    """The dict of ``pairs``, charged before it is made."""
    budget.charge_keys(pair[0] for pair in pairs)
    return dict(pairs)


# Functions and methods


def call_function(name: str, arguments: list[Any], keywords: dict[str, Any], budget: Budget) -> Any:
    """The result of one of `FUNCTIONS`; what Python gives as an iterator is a list."""
    if name == "range":
        return _numbers(range(*_integers(arguments), **keywords), budget)
    if name in _OF_VALUES:
        if name == "round" and any(
            isinstance(digits, int) and abs(digits) > 400 for digits in _after(arguments, keywords)
        ):
            raise TooMuch("'round' to more digits than any number has")
        if name == "str":
            budget.charge_text(sum(text_length(value, budget) for value in arguments))
        return _OF_VALUES[name](*arguments, **keywords)
    arguments = [items_of(value, budget) if isinstance(value, _CONTAINERS) else value for value in arguments]
    if name == "set" and arguments:
        return set_of(arguments[0], budget)
    if name == "sum" and not all(
        isinstance(item, int | float) for item in [*(arguments[0] if arguments else ()), *_after(arguments, keywords)]
    ):
        raise TypeError("'sum' of anything but numbers is not read")
    result = _OF_ITEMS[name](*arguments, **keywords)
    return list(result) if isinstance(result, enumerate | reversed | zip) else result


def _after(arguments: list[Any], keywords: dict[str, Any]) -> list[Any]:
    """All arguments but the first."""
    return [*arguments[1:], *keywords.values()]


def _integers(arguments: list[Any]) -> list[int]:
    if not all(type(argument) is int for argument in arguments):
        raise TypeError("'range' takes whole numbers")
    return arguments


def _numbers(numbers: range, budget: Budget) -> list[int]:
    budget.charge(1 + abs(numbers.stop - numbers.start) // abs(numbers.step))
    return list(numbers)


def has_method(value: Any, name: str) -> bool:
    """Whether `call_method` knows the method."""
    return any(isinstance(value, kind) and name in names for kind, names in _METHODS.items())


def call_method(value: Any, name: str, arguments: list[Any], keywords: dict[str, Any], budget: Budget) -> Any:
    """The result of a method of a text, dict, list, tuple or set; lists, dicts and sets may be changed by it."""
    if isinstance(value, str):
        if name == "format":
            return _Formatter(budget).vformat(_short(value), arguments, keywords)
        return _call_text_method(_short(value), name, arguments, keywords, budget)
    if name in ("extend", "update") and arguments and not isinstance(arguments[0], dict):
        arguments = [items_of(arguments[0], budget), *arguments[1:]]
    result = getattr(value, name)(*arguments, **keywords)
    budget.charge_deep(value)
    return list(result) if isinstance(result, KeysView | ValuesView | ItemsView) else result


def _short(value: Any) -> Any:
    """``value``; raises TooMuch for a longer text, or a larger width, than any config needs."""
    if len(value) > MAX_TEXT if isinstance(value, str) else isinstance(value, int) and abs(value) > MAX_TEXT:
        raise TooMuch(f"a text, or a width, of more than {MAX_TEXT} characters is not searched, joined or formatted")
    return value


def _call_text_method(text: str, name: str, arguments: list[Any], keywords: dict[str, Any], budget: Budget) -> Any:
    for value in [*arguments, *keywords.values()]:
        _short(value)
    if name == "join" and len(arguments) == 1:
        arguments = [items_of(arguments[0], budget)]
        budget.charge_text(sum(len(part) + len(text) for part in arguments[0]))
    if name == "replace" and len(arguments) > 1:
        budget.charge_text(len(text) + text.count(arguments[0]) * len(arguments[1]))
    return getattr(text, name)(*arguments, **keywords)


# Texts


class _Formatter(string.Formatter):
    """``str.format`` without ``{a.b}`` and ``{a[b]}``, and within the budget."""

    def __init__(self, budget: Budget):
        self.budget = budget

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not re.fullmatch(r"\w*", field_name):
            raise ValueError(f"'{{{field_name[:80]}}}' in a format is not read")
        return super().get_field(field_name, args, kwargs)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        return convert(value, ord(conversion or "\0"), self.budget)

    def format_field(self, value: Any, format_spec: str) -> str:
        return formatted(value, format_spec, self.budget)


def text_length(value: Any, budget: Budget) -> int:
    """At most how many characters ``str(value)`` and ``repr(value)`` have."""
    if isinstance(value, str | bytes):
        return 10 * len(value)
    return MAX_INTEGER_BITS // 2 * budget.cost(value)


def convert(value: Any, conversion: int, budget: Budget) -> Any:
    """``value`` after the conversion of a format: the code of ``s``, ``r`` or ``a``; any other is none."""
    if conversion not in _CONVERSIONS:
        return value
    budget.charge_text(text_length(value, budget))
    return _CONVERSIONS[conversion](value)


def formatted(value: Any, specification: str, budget: Budget) -> str:
    """``format(value, specification)``."""
    _short(sum(int(digits) for digits in re.findall(r"[0-9]+", _short(specification))))
    budget.charge_text(text_length(value, budget))
    return format(value, specification)


def _check_percent(text: str, values: Any, budget: Budget) -> None:
    """Charges what ``text % values`` costs at most, before it is made."""
    values = values.values() if isinstance(values, dict) else values if isinstance(values, tuple) else [values]
    widths = [int(digits) for digits in re.findall(r"[%#\-+ .)*]([0-9]+)", _short(text))]
    if "*" in text:
        widths += [abs(value) for value in values if isinstance(value, int)]
    _short(sum(widths))
    budget.charge_text(text.count("%") * max((text_length(value, budget) for value in values), default=0))


# Operators


def operate(op: ast.operator, left: Any, right: Any, budget: Budget, in_place: bool = False) -> Any:
    """``left op right``; ``+=`` and ``|=`` change a list and a dict in place."""
    function = _BINARY.get(type(op))
    if function is None:
        raise TypeError(f"the operator {type(op).__name__} is not read")
    if isinstance(op, ast.Mult):
        for sequence, times in ((left, right), (right, left)):
            many = isinstance(sequence, str | bytes | list | tuple) and isinstance(times, int) and times > 1
            if many and budget.cost(sequence) * times > budget.left:
                raise TooMuch(f"the product makes more than {MAX_VALUES} values")
    elif isinstance(op, ast.Pow | ast.LShift) and isinstance(left, int) and isinstance(right, int) and right > 0:
        bits = left.bit_length() * right if isinstance(op, ast.Pow) else left.bit_length() + right
        if bits > MAX_INTEGER_BITS and not (isinstance(op, ast.Pow) and left in (-1, 0, 1)):
            raise TooMuch(f"the number would have more than {MAX_INTEGER_BITS} bits")
    elif isinstance(op, ast.Mod) and isinstance(left, str | bytes):
        _check_percent(left.decode("latin-1") if isinstance(left, bytes) else left, right, budget)
    elif isinstance(op, ast.Add) and in_place and isinstance(left, list):
        left.extend(items_of(right, budget))
        return left
    elif isinstance(op, ast.BitOr) and isinstance(left, dict):
        if in_place:
            left.update(right)
            return left
        if isinstance(left, BaseDict) or isinstance(right, BaseDict):
            raise TypeError("'|' of the dicts of a base file is not read")
    return function(left, right)

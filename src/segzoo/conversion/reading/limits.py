"""What bounds the reading of a config, so that a hostile text ends in an error and not in a full memory.

A config has a budget of values; numbers, strings and nesting have limits.
"""

import ast
import re
import warnings
from typing import Any

from segzoo.conversion.errors import ConfigReadError

MAX_TEXT_LENGTH = 1_000_000
MAX_VALUES = 2_000_000
MAX_NESTING = 100
MAX_INTEGER_BITS = 1024
CHARACTERS_PER_VALUE = 32
MAX_PADDING = 10_000_000


class Budget:
    """How many more values one config, its base files included, may make."""

    def __init__(self, values: int = MAX_VALUES):
        self.left = values

    def charge(self, values: int) -> None:
        """Takes ``values`` from the budget; raises OverflowError when it is spent."""
        self.left -= values
        if self.left < 0:
            raise OverflowError(f"the config makes more than {MAX_VALUES} values")

    def charge_deep(self, value: Any, depth: int = 0) -> None:
        """Takes as much as ``value`` would cost when it is written out; raises OverflowError when it is too much."""
        if depth > MAX_NESTING:
            raise OverflowError(f"the values are nested more than {MAX_NESTING} levels deep, or contain themselves")
        if isinstance(value, str | bytes):
            self.charge(1 + len(value) // CHARACTERS_PER_VALUE)
            return
        self.charge(1)
        if isinstance(value, dict):
            for key, item in value.items():
                self.charge_deep(key, depth + 1)
                self.charge_deep(item, depth + 1)
        elif isinstance(value, list | tuple | set):
            for item in value:
                self.charge_deep(item, depth + 1)


def parse(text: str, filename: str) -> ast.Module:
    """The syntax tree of ``text``.

    Raises:
        ConfigReadError: the text is too long, is not Python, or is nested too deeply.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise ConfigReadError(
            filename, None, f"the text has {len(text)} characters; configs have at most {MAX_TEXT_LENGTH}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stray '\d' in a path is no concern of the reader's
            return ast.parse(text.removeprefix("\ufeff"))
    except SyntaxError as error:
        line = error.lineno
        source = (error.text or "").strip()
        if "{{$" in source.replace(" ", ""):
            raise ConfigReadError(
                filename, line, "environment variables are not read", "write the value in their place"
            ) from None
        raise ConfigReadError(
            filename, line, f"this is not Python ({error.msg}): {source[:80]!r}", "give the config as Python text"
        ) from None
    except (RecursionError, MemoryError):
        raise ConfigReadError(filename, None, "the text is nested too deeply to be a config") from None
    except ValueError as error:
        raise ConfigReadError(filename, None, f"this is not Python ({error})") from None


def flat(arguments: list[Any]) -> list[Any]:
    """The numbers that ``sum(*arguments)`` adds."""
    first = arguments[0] if arguments else None
    return [*(first if isinstance(first, list | tuple | set) else [first]), *arguments[1:]]


def padding(text: str | bytes, values: Any) -> int:
    """At most how many characters ``text % values`` pads with: the sum of all numbers that could be widths."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    widths = [int(digits) for digits in re.findall(r"[0-9]+", text[: 100 * MAX_NESTING])]
    if "*" in text:
        widths += [abs(value) for value in flat([values]) if isinstance(value, int)]
    return sum(widths) if len(text) <= 100 * MAX_NESTING else MAX_PADDING + 1

"""What bounds the reading of a config, so that a hostile text ends in an error and not in a full memory.

A config has a budget of values, which every step takes from; numbers, strings and nesting have limits.
"""

import ast
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

from segzoo.conversion.errors import ConfigLimitError, ConfigReadError
from segzoo.conversion.reading.unreadable import is_unreadable

MAX_TEXT_LENGTH = 1_000_000
MAX_VALUES = 2_000_000
MAX_NESTING = 100
MAX_INTEGER_BITS = 1024
CHARACTERS_PER_VALUE = 32


class TooMuch(Exception):
    """A step that would take more work or memory than any config needs; the message says which."""


class Budget:
    """How many more values one config, its base files included, may make."""

    def __init__(self, values: int = MAX_VALUES):
        self.left = values

    def charge(self, values: int) -> None:
        """Takes ``values`` from the budget; raises TooMuch when it is spent."""
        self.left -= values
        if self.left < 0:
            raise TooMuch(f"the config makes more than {MAX_VALUES} values")

    def charge_text(self, characters: int) -> None:
        """Takes what a text of so many characters costs; raises TooMuch when it is too much."""
        self.charge(1 + characters // CHARACTERS_PER_VALUE)

    def charge_keys(self, keys: Iterable[Any]) -> None:
        """Takes what it costs to put ``keys`` into a set or dict, where those with one hash are compared in pairs.

        Raises:
            TooMuch: it is too much.
            TypeError: a key has no hash.
        """
        alike = Counter(map(hash, keys)).values()
        self.charge(sum(count * count for count in alike) // CHARACTERS_PER_VALUE)

    def charge_deep(self, value: Any, depth: int = 0) -> None:
        """Takes as much as ``value`` would cost when it is written out; raises TooMuch when it is too much."""
        if depth > MAX_NESTING:
            raise TooMuch(f"the values are nested more than {MAX_NESTING} levels deep, or contain themselves")
        if is_unreadable(value):
            self.charge(1)
        elif isinstance(value, str | bytes):
            self.charge_text(len(value))
        elif isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise TooMuch(f"the number has more than {MAX_INTEGER_BITS} bits")
        else:
            self.charge(1)
            if isinstance(value, dict | set) and len(value) > 64:
                self.charge_keys(value)
            if isinstance(value, dict):
                for key, item in value.items():
                    self.charge_deep(key, depth + 1)
                    self.charge_deep(item, depth + 1)
            elif isinstance(value, list | tuple | set):
                for item in value:
                    self.charge_deep(item, depth + 1)

    def cost(self, value: Any) -> int:
        """What `charge_deep` takes for ``value``; nothing is taken. Raises TooMuch when it is more than is left."""
        trial = Budget(self.left)
        trial.charge_deep(value)
        return self.left - trial.left


def parse(text: str, filename: str) -> ast.Module:
    """The syntax tree of ``text``.

    Raises:
        ConfigReadError: the text is too long, is not Python, or is nested too deeply.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise ConfigLimitError(
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
            # The text is not quoted: a config may name any file as its base, and who reads the message may not read that.
            filename,
            line,
            f"this is not Python ({error.msg})",
            "give the config as Python text",
        ) from None
    except (RecursionError, MemoryError):
        raise ConfigLimitError(filename, None, "the text is nested too deeply to be a config") from None
    except ValueError as error:
        raise ConfigReadError(filename, None, f"this is not Python ({error})") from None

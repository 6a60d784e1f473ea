"""What a config says about a training: fields of a recipe, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from segzoo.conversion.options import Options
from segzoo.conversion.reading.unreadable import is_unreadable
from segzoo.errors import SegZooError, one_line


@dataclass
class Findings:
    """What has been found so far; each part of a config adds to it.

    Args:
        fields: fields of a `Recipe` by name.
        places: where in the config each of them comes from.
        left_out: (place, why) of what a recipe does not say, in the order of the config.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def take(self, place: str, **fields: Any) -> None:
        """Set fields of the recipe that come from a place in the config."""
        self.fields |= fields
        self.places |= dict.fromkeys(fields, place)

    def leave(self, place: str, why: str) -> None:
        """Say why something is not in the recipe."""
        self.left_out.append((place, why))

    def leave_rest(self, options: Options) -> None:
        """Say that the options which nobody has taken are not in the recipe."""
        if rest := options.rest():
            self.leave(options.where, f"a recipe has no such options: {rest}")

    @contextmanager
    def reading(self, place: str) -> Iterator[None]:
        """A context whose errors are reasons to leave the place out."""
        try:
            yield
        except (SegZooError, TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            self.leave(place, f"cannot be taken ({one_line(error):.300})")


def part_of(config: Mapping[str, Any], *keys: str) -> Mapping[str, Any] | None:
    """The dict at a place of a config; None where there is none.

    Raises:
        ConfigReadError: it is there and cannot be read.
    """
    value: Any = config
    for key in keys:
        if is_unreadable(value):
            value.get("")  # raises
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value if isinstance(value, Mapping) else None


def swapped(size: Any) -> tuple[int, int]:
    """(height, width) of a (width, height) or one number."""
    if isinstance(size, (list, tuple)):
        return int(size[1]), int(size[0])
    return int(size), int(size)

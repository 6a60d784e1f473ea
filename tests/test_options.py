"""Options read alike from code, JSON, YAML and command lines, with errors that name the option."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from segzoo.errors import SegZooError
from segzoo.options import Flag, Options, kinds_of, option


@dataclass(frozen=True, kw_only=True)
class Size(Options):
    size: tuple[int, ...] | None = option((4, 4), "height and width", at_least=1, lengths=(2,))
    ratio: float = option(0.5, "a share", above=0, below=1)

    def check(self) -> None:
        super().check()
        if self.size == (1, 1):
            self.refuse("size is that of a pixel")


@dataclass(frozen=True, kw_only=True)
class Everything(Size):
    prefix = "--"

    number: int = option(3, "a count")
    every: int | str | None = option(None, "steps", words=("epoch",), at_least=0)
    names: tuple[str, ...] = option(("a",), "some", choices=("a", "ab", "c"))
    folder: str | None = option(None, "where to")
    switch: bool | None = option(None, "on or off")
    rules: tuple[dict[str, Any], ...] = option((), "rules")
    token: str | bool | None = option(None, "access", flag=Flag(const=True))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("size", 8, (8, 8)),
        ("size", "8", (8, 8)),
        ("size", ["8", "9"], (8, 9)),
        ("size", [8.0, 9], (8, 9)),
        ("size", "None", None),
        ("size", ["none"], None),
        ("ratio", "1e-1", 0.1),
        ("number", "-7", -7),
        ("number", str(2**60 + 1), 2**60 + 1),  # no float in between
        ("every", "epoch", "epoch"),
        ("every", "20", 20),
        ("every", None, None),
        ("names", "none", ()),
        ("names", ["c", "ab"], ("c", "ab")),
        ("folder", Path("a/b"), "a/b"),
        ("switch", "Yes", True),
        ("switch", "off", False),
        ("switch", False, False),
        ("rules", '[{"match": "x"}]', ({"match": "x"},)),
        ("rules", {"match": "x"}, ({"match": "x"},)),
        ("token", True, True),
        ("token", "abc", "abc"),
    ],
)
def test_values(name, value, expected):
    found = getattr(Everything(**{name: value}), name)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", [1, 2, 3], "--size has 3 values; it takes 2"),
        ("size", 0, "--size is 0; it must be at least 1"),
        ("size", 1, "--size is that of a pixel"),
        ("ratio", 1, "--ratio is 1; it must lie between 0 and 1"),
        ("ratio", "half", "--ratio is 'half'; it must be a number"),
        ("number", "1.5", "--number is '1.5'; it must be a whole number"),
        ("number", 10**400, "--number is 1000"),
        ("number", True, "--number is True; it must be a whole number"),
        ("number", None, "--number is None; it must be a whole number"),
        ("every", "often", "--every is 'often'; it must be a number of steps or 'epoch'"),
        ("names", ["b"], "--names is 'b'; it is one of a, ab, c; did you mean 'ab'"),
        ("folder", 3, "--folder is 3; it must be text"),
        ("switch", "maybe", "--switch is 'maybe'; it must be true or false"),
        ("switch", 1, "--switch is 1; it must be true or false"),
        ("rules", "[", "--rules is '['; it must be JSON"),
        ("rules", ["x"], "--rules is 'x'; it must be a mapping"),
        ("token", False, "--token is False; it must be text"),
    ],
)
def test_values_that_cannot_be(name, value, message):
    with pytest.raises(SegZooError) as caught:
        Everything(**{name: value})
    assert str(caught.value).startswith(message)


def test_a_class_of_several_groups_gives_each_of_them():
    everything = Everything(size=8, number=4)
    assert everything.part(Size) == Size(size=(8, 8))
    assert everything.to_dict()["size"] == [8, 8]
    assert replace(everything, ratio="0.25").ratio == 0.25
    assert {entry.name for entry in fields(Size)} < kinds_of(Everything).keys()
    with pytest.raises(SegZooError, match="^size is 0"):  # no prefix of its own
        Size(size=0)

"""Writes ``src/segzoo/training/keywords.py``: the options of `segzoo.train` for type checkers and editors.

python docs/train_keywords.py
"""

import dataclasses
from pathlib import Path

from segzoo.options import Kind, Limits, kinds_of
from segzoo.training import Recipe, RunOptions
from segzoo.training.arguments import option_names
from segzoo.training.trainer_names import WITHOUT_EFFECT, TrainerNames

MODULE = Path(__file__).parents[1] / "src" / "segzoo" / "training" / "keywords.py"
HEAD = '''"""The options of `segzoo.train` and their types, for type checkers and editors; written by docs/train_keywords.py."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Text = str | os.PathLike[str]
Number = int | float


class TrainKeywords(TypedDict, total=False):
    """Every option of ``segzoo train`` but the recipe's name; ``segzoo train --help`` explains them."""

'''


def annotation(kind: Kind, limits: Limits) -> str:
    """The type of what a caller may give for an option."""
    if limits.choices is not None:
        one = f"Literal[{', '.join(map(repr, limits.choices))}]"
    else:
        one = {bool: "bool", int: "int", float: "Number", str: "Text", dict: "Mapping[str, Any]"}[kind.element]
    if limits.words:
        one += f" | Literal[{', '.join(map(repr, limits.words))}]"
    if kind.many:
        one = f"{one} | Sequence[{one}]"
    return f"{one} | None" if kind.optional else one


def lines() -> list[str]:
    """The entry of each option and of each of its other names, in the order of the help."""
    types = dict.fromkeys(WITHOUT_EFFECT, "Any")
    for cls in (TrainerNames, RunOptions, Recipe):
        kinds = kinds_of(cls)
        types |= {e.name: annotation(kinds[e.name], e.metadata["limits"]) for e in dataclasses.fields(cls)}
    names = {name: known for name, known in option_names().items() if name != "recipe"}
    return [f"    {name}: {types[known]}\n" for name, known in sorted(names.items())]


def text() -> str:
    """The module."""
    return HEAD + "".join(lines()).replace("'", '"')


if __name__ == "__main__":
    MODULE.write_text(text(), encoding="utf-8")

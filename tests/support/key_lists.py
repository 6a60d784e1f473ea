"""The names, shapes and dtypes of the tensors in released checkpoints.

``tests/records/key_lists*.json.xz`` hold their state dicts as lists of lines, each ``"key 64x3x7x7 float32"`` (a scalar
has an empty shape) in the original's order, by the SHA-256 of the lines joined with newlines, and the hash of each row
of the zoo. The two files of MIT's models are one list, with the prefixes ``encoder.`` and ``decoder.``; those of
DINOv2's are one without prefixes.

Of the models of one kind in different sizes, one list is stored; ``like`` names it for the others, of which the hash
alone is known (`in_order_of`).
"""

import hashlib
import json
import lzma
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path


@cache
def _read() -> dict:
    found: dict = {"rows": {}, "lists": {}, "like": {}}
    for file in sorted((Path(__file__).parents[1] / "records").glob("key_lists*.json.xz")):
        for kind, entries in json.loads(lzma.decompress(file.read_bytes())).items():
            found[kind] |= entries
    return found


def hashes() -> dict[str, str]:
    """The hash of each row's list, by the row's name."""
    return _read()["rows"]


def key_list(name: str) -> list[str] | None:
    """The lines of a row; None where only their hash is known."""
    return _read()["lists"].get(hashes()[name])


def list_like(name: str) -> list[str]:
    """The lines of the row that is of the same kind as a row without lines of its own."""
    return key_list(_read()["like"][name])


def digest(lines: Sequence[str]) -> str:
    """The hash of a list."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def in_order_of(template: Sequence[str], lines: Iterable[str], left_out: Iterable[str]) -> list[str]:
    """The list of a model: its own lines in the order of another size's, and what it leaves out, as the other has it.

    Args:
        template: the lines of the other size.
        lines: the model's own lines, of all tensors that it takes.
        left_out: those lines of ``template`` that the conversion leaves out.
    """
    names = [line.partition(" ")[0] for line in template]
    ranks: dict[tuple[str, ...], int] = {}  # the place of each name among its siblings, over all numbered modules
    for line in template:
        parts = _parts(line)
        for end in range(1, len(parts) + 1):
            ranks.setdefault(tuple(map(_pattern, parts[:end])), len(ranks))
    own = {line.partition(" ")[0]: line for line in lines}
    sizes: dict[str, str] = {}  # the sides of the template's tensors -> those of the model's
    for line in template:
        key, shape, _ = line.split(" ")
        if key in own:
            sizes |= dict(zip(shape.split("x"), own[key].split(" ")[1].split("x"), strict=True))
    groups: dict[str, list[str]] = {}
    for key in own:
        parent = key.rpartition(".")[0]
        for part in _ancestors(parent):
            groups.setdefault(_pattern(part), []).append(part)
    for line in left_out:
        key, shape, dtype = line.split(" ")
        parts = key.split(".")
        end = next(i for i in range(len(parts) - 1, -1, -1) if _pattern(".".join(parts[:i])) in groups)
        parent, name = ".".join(parts[:end]), ".".join(parts[end:])
        for place in dict.fromkeys(groups.get(_pattern(parent), [])):
            new = f"{place}.{name}" if place else name
            if name == "relative_position_index":
                table = own[f"{place}.relative_position_bias_table"].split(" ")[1].split("x")[0]
                side = str(((math.isqrt(int(table)) + 1) // 2) ** 2)
                own[new] = f"{new} {side}x{side} {dtype}"
            else:
                own[new] = f"{new} {'x'.join(sizes.get(side, side) for side in shape.split('x'))} {dtype}"

    if own.keys() == set(names):
        return [own[name] for name in names]

    def place(line: str) -> list[tuple[int, int]]:
        parts = _parts(line)
        return [
            (ranks.get(tuple(map(_pattern, parts[:end])), -1), int(parts[end - 1]) if parts[end - 1].isdigit() else 0)
            for end in range(1, len(parts) + 1)
        ]

    return sorted(own.values(), key=place)


def _parts(line: str) -> list[str]:
    return line.partition(" ")[0].split(".")


def _pattern(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", name)


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return ["", *(".".join(parts[:end]) for end in range(1, len(parts) + 1))]

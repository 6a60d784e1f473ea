"""Files that say which colour stands for which class: JSON, CSV, or the text files of CVAT and CamVid."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzoo.errors import SegZooError

_HEX = re.compile(r"#?([0-9a-fA-F]{6})")
_FORMS = '{"road": [128, 64, 128]} in JSON, lines name,r,g,b in CSV, or lines name:r,g,b or r g b name in TXT'


@dataclass(frozen=True)
class Palette:
    """The colours of classes. Several colours may stand for one class.

    Attributes:
        names: class names, in the order of their ids.
        colors: class id by colour (red, green, blue), each 0..255.
    """

    names: tuple[str, ...]
    colors: dict[tuple[int, int, int], int]


def read_palette(file: str | os.PathLike) -> Palette:
    """Read a palette; a class has the id of the place where its name first stands.

    Args:
        file: JSON (an object of names and colours, or a list of objects with "name" and "color"), CSV (name, r, g, b,
            with a header or without), or TXT (CVAT's labelmap.txt, CamVid's label_colors.txt). Colours in JSON are
            three numbers or "#804080".

    Raises:
        SegZooError: the file is missing, is no such file, holds no colour, or gives one colour to two classes.
    """
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SegZooError(f"--palette {path}: cannot be read ({error}); name a file of text") from None
    return parse_palette(text, str(path))


def parse_palette(text: str, name: str) -> Palette:
    """Read a palette from a text; arguments and errors as in `read_palette`.

    Args:
        text: content of the file.
        name: name of the file, whose extension tells the form.
    """
    path, extension = name, os.path.splitext(name)[1].lower()
    try:
        if extension == ".json":
            pairs = list(_json_pairs(json.loads(text)))
        elif extension == ".csv":
            pairs = list(_csv_pairs(text))
        else:
            pairs = list(_text_pairs(text))
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise SegZooError(f"--palette {path}: is no palette ({error}); give {_FORMS}") from None
    if not pairs:
        raise SegZooError(f"--palette {path}: holds no colour; give {_FORMS}")
    names: dict[str, int] = {}
    colors: dict[tuple[int, int, int], int] = {}
    for label, color in pairs:
        index = names.setdefault(label, len(names))
        if colors.setdefault(color, index) != index:
            other = list(names)[colors[color]]
            raise SegZooError(
                f"--palette {path}: {other!r} and {label!r} have the same colour {color}; give each its own"
            )
    return Palette(tuple(names), colors)


def _json_pairs(content: Any) -> Iterable[tuple[str, tuple[int, int, int]]]:
    if isinstance(content, dict) and isinstance(content.get("classes"), list):
        content = content["classes"]
    if isinstance(content, dict):
        for name, colors in content.items():
            several = isinstance(colors, list) and colors and not isinstance(colors[0], int)
            for color in colors if several else [colors]:
                yield name, _color(color)
        return
    for entry in content:
        name = entry["name"] if "name" in entry else entry["title"]
        yield str(name), _color(entry["color"] if "color" in entry else [entry[key] for key in "rgb"])


def _csv_pairs(text: str) -> Iterable[tuple[str, tuple[int, int, int]]]:
    lines = [line for line in text.splitlines() if line.strip()]
    dialect = csv.Sniffer().sniff(lines[0], delimiters=",;\t") if lines else csv.excel
    for number, row in enumerate(csv.reader(lines, dialect)):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if number == 0 and not any(cell.isdecimal() for cell in cells):
            continue
        yield cells[0], _color(cells[1:4])


def _text_pairs(text: str) -> Iterable[tuple[str, tuple[int, int, int]]]:
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if ":" in line:  # CVAT: label:r,g,b:parts:actions
            name, _, rest = line.partition(":")
            yield name.strip(), _color(rest.partition(":")[0].split(","))
            continue
        words = line.replace(",", " ").split()
        numbers_first = all(word.isdecimal() for word in words[:3])
        name = " ".join(words[3:] if numbers_first else words[:-3])
        if not name:
            raise ValueError(f"{line!r} has no name")
        yield name, _color(words[:3] if numbers_first else words[-3:])


def _color(value: Any) -> tuple[int, int, int]:
    if isinstance(value, str):
        match = _HEX.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is no colour such as #804080")
        red, green, blue = bytes.fromhex(match[1])
        return red, green, blue
    if len(value) != 3 or not all(0 <= int(part) <= 255 for part in value):
        raise ValueError(f"{value} is no colour of three numbers from 0 to 255")
    red, green, blue = map(int, value)
    return red, green, blue

"""Every released checkpoint that converts has exactly the tensors that the conversion expects.

``records/key_lists.json.xz`` holds the state dicts of the released models as lists of lines, each
``"key 64x3x7x7 float32"`` in the original's order, by the SHA-256 of the lines joined with newlines, and the hash of
each row of the zoo.
"""

import hashlib
import json
import lzma
from collections import defaultdict
from pathlib import Path

from segzoo import zoo
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import refusal, translate_config
from segzoo.conversion.weights import find_native, original_state_dict

CONVERTED = {"mmsegmentation": (268, 115), "InternImage": (5, 5), "ViT-Adapter": (9, 8), "CSAIL": (5, 5)}
"""Rows that convert and have a list here, and how many lists that are; a new component raises the numbers."""


def read():
    held = json.loads(lzma.decompress(Path(__file__).with_name("records").joinpath("key_lists.json.xz").read_bytes()))
    return held["rows"], held["lists"]


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def as_line(key, tensor):
    return f"{key} {'x'.join(map(str, tensor.shape))} {str(tensor.dtype).removeprefix('torch.')}"


def lines_that_convert(translation, lines):
    """(those of the lines that the conversion takes or leaves out on purpose, the keys that it misses).

    The lines are written anew from the model's own tensors, in the order of ``lines``, which loading does not need.
    """
    state = build_without_weights(translation.config).state_dict()
    expected = original_state_dict(state, translation.components)
    written = []
    for line in lines:
        key = line.partition(" ")[0]
        rule, native = find_native(key, translation.components)
        if rule is not None and native is None:
            written.append(line)
        elif native in state and key in expected:
            written.append(as_line(key, expected.pop(key)))
    return written, sorted(expected)


def test_the_keys_of_every_row_that_converts():
    rows, lists = read()
    names_by_list = defaultdict(list)
    for name, row in zoo.rows().items():
        if refusal(zoo.original_config(name)) is None:
            assert name in rows or row.system != "mmsegmentation"
            names_by_list[rows.get(name)].append(name)
    names_by_list.pop(None)

    found, wrong = dict.fromkeys(CONVERTED, (0, 0)), {}
    for sha256, names in names_by_list.items():
        system = zoo.rows()[names[0]].system
        found[system] = found[system][0] + len(names), found[system][1] + 1
        written, missing = lines_that_convert(translate_config(zoo.original_config(names[0])), lists[sha256])
        if missing or digest(written) != sha256:
            wrong[names[0]] = missing[:3] + sorted(set(written) ^ set(lists[sha256]))[:6]
    assert not wrong
    assert found == CONVERTED

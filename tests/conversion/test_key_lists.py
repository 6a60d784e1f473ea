"""Every released checkpoint that converts has exactly the tensors that the conversion expects."""

from collections import defaultdict

import torch
from support.key_lists import digest, hashes, key_list

from segzoo import zoo
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import refusal, translate_config
from segzoo.conversion.weights import find_native, original_state_dict

CONVERTED = {
    "mmsegmentation": (561, 252),
    "InternImage": (5, 5),
    "ViT-Adapter": (9, 8),
    "CSAIL": (5, 5),
    "InternViT-6B": (8, 2),
}
"""Rows that convert and whose lists are known, and how many lists these are; a new component raises the numbers."""


def as_line(key, tensor, *, half=False):
    dtype = "bfloat16" if half and tensor.dtype == torch.float32 else str(tensor.dtype).removeprefix("torch.")
    return f"{key} {'x'.join(map(str, tensor.shape))} {dtype}"


def lines_that_convert(translation, lines):
    """(those of the lines that the conversion takes or leaves out on purpose, the keys that it misses).

    The lines are written anew from the model's own tensors, in the order of ``lines``, which loading does not need;
    those of files in bfloat16 are, where the original runs in it.
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
            written.append(as_line(key, expected.pop(key), half=line.endswith(" bfloat16")))
    return written, sorted(expected)


def test_the_keys_of_every_row_that_converts():
    names_by_hash = defaultdict(list)
    for name, row in zoo.rows().items():
        if refusal(zoo.original_config(name) or {}) is None:
            assert name in hashes() or row.system != "mmsegmentation"
            names_by_hash[hashes().get(name)].append(name)
    names_by_hash.pop(None)

    found, wrong = dict.fromkeys(CONVERTED, (0, 0)), {}
    for sha256, names in names_by_hash.items():
        system = zoo.rows()[names[0]].system
        found[system] = found[system][0] + len(names), found[system][1] + 1
        lines = key_list(names[0])
        written, missing = lines_that_convert(translate_config(zoo.original_config(names[0])), lines)
        if missing or digest(written) != sha256:
            wrong[names[0]] = missing[:3] + sorted(set(written) ^ set(lines))[:6]
    assert not wrong
    assert found == CONVERTED

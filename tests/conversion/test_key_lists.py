"""Every released checkpoint that converts has exactly the tensors that the conversion expects."""

from collections import defaultdict

import pytest
import torch
import transformers
from support.key_lists import digest, hashes, in_order_of, key_list, list_like
from support.zoo_translations import translations

from segzoo import zoo
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.weights import find_native, original_state_dict

CONVERTED = {
    "mmsegmentation": (597, 279),
    "InternImage": (5, 5),
    "ViT-Adapter": (9, 8),
    "InternViT-6B": (8, 2),
    "CSAIL": (5, 5),
    "mmsegmentation-1.x": (31, 30),
    "SegFormer": (5, 5),
    "SegNeXt": (2, 2),
    "Swin": (2, 2),
    "ConvNeXt": (2, 2),
    "PoolFormer": (2, 2),
    "PVT": (2, 2),
    "VAN": (2, 2),
    "DINOv2": (3, 3),
    "DAFormer": (1, 1),
}
"""Rows that convert and whose lists are known, and how many lists these are; a new component raises the numbers."""


def as_line(key, tensor, *, half=False):
    dtype = "bfloat16" if half and tensor.dtype == torch.float32 else str(tensor.dtype).removeprefix("torch.")
    return f"{key} {'x'.join(map(str, tensor.shape))} {dtype}"


def converted_key(key, system):
    """The key under which the conversion reads the key of a file: files in two parts are joined, outer models left."""
    if system == "DINOv2" and not key.startswith("decode_head."):
        return f"backbone.{key}"
    return key.removeprefix("model.") if system == "DAFormer" else key


def file_key(key, system):
    """The key of a file that the conversion reads under ``key``."""
    if system == "DINOv2":
        return key.removeprefix("backbone.")
    return f"model.{key}" if system == "DAFormer" else key


def lines_that_convert(translation, lines, system=""):
    """(those of the lines that the conversion takes, those that it leaves out on purpose, the lines that it misses).

    The lines are written anew from the model's own tensors, in the order of ``lines``, which loading does not need;
    those of files in bfloat16 are, where the original runs in it.
    """
    state = build_without_weights(translation.config).state_dict()
    expected = original_state_dict(state, translation.components)
    taken, left_out = {}, []
    for line in lines:
        key = line.partition(" ")[0]
        rule, native = find_native(converted_key(key, system), translation.components)
        if rule is not None and native is None:
            left_out.append(line)
        elif native in state and converted_key(key, system) in expected:
            tensor = expected.pop(converted_key(key, system))
            taken[line] = as_line(key, tensor, half=line.endswith(" bfloat16"))
    missed = [as_line(file_key(key, system), tensor) for key, tensor in expected.items()]
    return taken, left_out, missed


def difference(name):
    """What distinguishes a row's list from that of the conversion; empty if they are equal."""
    system, translation = zoo.rows()[name].system, translations()[name]
    lines = key_list(name)
    taken, left_out, missed = lines_that_convert(translation, lines or list_like(name), system)
    if lines is None:  # of another size: keys that only the other has do not count
        written = in_order_of(list_like(name), [*taken.values(), *missed], left_out)
        return [] if digest(written) == hashes()[name] else [len(written), *written[:1]]
    written = [taken.get(line, line) for line in lines if line in taken or line in left_out]
    if not missed and digest(written) == hashes()[name]:
        return []
    return missed[:3] + sorted(set(written) ^ set(lines))[:6]


@pytest.fixture
def shared_backbones(monkeypatch):
    """Models whose backbones have equal configs have one backbone, of which only names and shapes are read."""
    built = {}
    from_config = transformers.AutoBackbone.from_config

    def shared(config):
        text = config.to_json_string(use_diff=False)
        if text not in built:
            built[text] = from_config(config)
        return built[text]

    monkeypatch.setattr(transformers.AutoBackbone, "from_config", shared)


def test_the_keys_of_every_row_that_converts(shared_backbones):
    names_by_list = defaultdict(list)
    for name in translations():
        row = zoo.rows()[name]
        assert name in hashes() or row.system != "mmsegmentation"
        if name in hashes():
            names_by_list[row.system, hashes()[name]].append(name)

    found, wrong = dict.fromkeys(CONVERTED, (0, 0)), {}
    for (system, _), names in names_by_list.items():
        found[system] = found[system][0] + len(names), found[system][1] + 1
        if problem := difference(names[0]):
            wrong[names[0]] = problem
    assert not wrong
    assert found == CONVERTED

"""Configs as the original code prints them into its checkpoints, one for each system.

``printed/<config>_mmcv.txt`` is what ``Config.pretty_text`` of mmcv 1.7.2 with yapf 0.32 gave for a small config after the
pattern of a released one, with the entries that ``tools/train.py`` adds; ``printed/<config>_mmengine.txt`` is what
``Config.dump`` of mmengine 0.10.7 wrote, ``lazy`` for a config whose types are imported classes.
"""

from pathlib import Path

import pytest
import torch
from conversion import tiny

from segzoo.conversion import convert_checkpoint
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.reading.configs import read_config_file, read_config_text
from segzoo.conversion.translate import translate_config

PRINTED = Path(__file__).with_name("printed")
CONVERTED = {
    "internvit_6b_mmcv": ["InternViT6B", "FCNHead"],
    "internimage_mmcv": ["InternImage", "UPerHead", "FCNHead"],
    "vit_adapter_mmcv": ["ViTAdapter", "UPerHead", "FCNHead"],
    "mmsegmentation_mmcv": ["ResNetV1c", "UPerHead", "FCNHead"],
    "mmsegmentation_mmengine": ["ResNetV1c", "FCNHead"],
    "lazy_mmengine": ["ResNetV1c", "UPerHead", "FCNHead"],
    "daformer_mmcv": ["mit_b5", "DAFormerHead"],
}


def text_of(name):
    return (PRINTED / f"{name}.txt").read_text()


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, range) else value


def test_every_text_is_tested():
    assert {path.stem for path in PRINTED.iterdir()} == CONVERTED.keys()


@pytest.mark.filterwarnings("ignore:.*invalid escape sequence")  # mmcv prints Windows paths as they are
@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("form", ["as printed", "Windows line ends", "byte order mark"])
def test_it_is_read_as_python_would(name, form, tmp_path):
    text, expected = text_of(name), {}
    exec(text, {"inf": float("inf")}, expected)
    changed = {"Windows line ends": text.replace("\n", "\r\n"), "byte order mark": "\ufeff" + text}.get(form, text)
    assert read_config_text(changed) == plain(expected)
    (tmp_path / "config.py").write_bytes(changed.encode())
    assert read_config_file(tmp_path / "config.py") == plain(expected)


@pytest.mark.parametrize("name", CONVERTED)
def test_it_converts(name):
    found = translate_config(read_config_text(text_of(name)))
    assert [component.original_type for component in found.components] == CONVERTED[name]
    build_without_weights(found.config)
    assert found.processor["do_normalize"] and found.processor["channel_order"] == "rgb"


def test_details():
    lazy = translate_config(read_config_text(text_of("lazy_mmengine")))
    assert [head.norm for head in lazy.config.decode_head_configs + lazy.config.auxiliary_head_configs] == [
        "group_norm",
        "batch_norm",
    ]
    assert lazy.classes.dataset.name == "cityscapes"
    own = translate_config(read_config_text(text_of("mmsegmentation_mmengine")))
    assert own.classes.names == ["background", "don't know"] and own.config.window_stride == [42, 42]
    assert translate_config(read_config_text(text_of("vit_adapter_mmcv"))).processor["do_reduce_labels"]


@pytest.mark.parametrize("name", ["mmsegmentation_mmcv", "lazy_mmengine"])
def test_a_checkpoint_that_carries_it(name, tmp_path):
    text = text_of(name)
    state = tiny.state_dict(read_config_text(text))
    meta = {"config": text} if name.endswith("mmcv") else {"cfg": text, "mmengine_version": "0.10.7"}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "a.pth")
    report = convert_checkpoint(tmp_path / "a.pth", output=tmp_path / "out").report
    assert report.config_source == "the checkpoint" and len(report.keys.renamed) == len(state)

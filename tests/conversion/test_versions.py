"""What versions of mmsegmentation 0.x do differently: as the checkpoint's version says, and noted."""

import pytest
from conversion import tiny

from segzoo import zoo
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.translate import translate_config

SEPARABLE = tiny.MODEL["decode_head"] | {"type": "DepthwiseSeparableFCNHead", "num_convs": 1}
DEPTHWISE = "activation after the depthwise convolutions"


@pytest.mark.parametrize(
    ("version", "options", "activation", "noted"),
    [
        ("0.14.1+abc1234", {}, "relu", "and so is this model"),
        ("0.15.0", {}, None, ""),
        (None, {}, None, "is not known"),
        (3, {}, None, "is not known"),
        (None, {"dw_act_cfg": "default"}, "relu", ""),
        ("0.14.1", {"dw_act_cfg": None}, None, ""),
    ],
)
def test_activation_of_separable_convolutions(version, options, activation, noted):
    translation = translate_config(tiny.config(model__decode_head=SEPARABLE | options), version=version)
    assert translation.config.decode_head_configs[0].depthwise_activation == activation
    found = [note for note in translation.notes if DEPTHWISE in note]
    assert len(found) == bool(noted) and all(noted in note for note in found)


def test_a_config_of_1x_is_of_no_version_of_0x():
    notes = translate_config(tiny.config(model__decode_head=SEPARABLE, default_scope="mmseg")).notes
    assert not any(DEPTHWISE in note for note in notes)


def test_a_fast_scnn_asks_for_no_version():
    """The weights of an older one have other shapes, so that a file that fits is of later code, whatever it says."""
    config = zoo.original_config("fast_scnn_lr0.12_8x4_160k_cityscapes")
    plain, dated = translate_config(config), translate_config(config, version="0.14.1+abc1234")
    assert plain.notes == dated.notes == [] and plain.config.to_dict() == dated.config.to_dict()
    assert plain.config.decode_head_configs[0].depthwise_activation is None


def test_windows_larger_than_the_picture():
    windows = {"mode": "slide", "crop_size": (48, 64), "stride": (32, 40)}
    for version, noted in (("0.5.1", True), ("0.6.0", False), (None, False)):
        notes = translate_config(tiny.config(model__test_cfg=windows), version=version).notes
        assert any("before 0.6" in note for note in notes) is noted


def test_the_version_is_that_of_the_checkpoint(tmp_path):
    values = tiny.config(model__decode_head=SEPARABLE)
    path = tiny.save(tmp_path / "a.pth", values, mmseg_version="0.11.0+0fe3c6e")
    done = convert_checkpoint(path, output=tmp_path / "out")
    assert any("and so is this model" in note for note in done.report.notes)

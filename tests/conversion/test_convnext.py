"""ConvNeXt in its authors' spelling and in mmcls's and mmpretrain's: one model, options that tell them apart, and eps."""

import pytest
import torch
from conversion import tiny

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict

CHANNELS, DEPTHS = [8, 12, 16, 24], [1, 1, 2, 1]
MMCLS = {
    "type": "mmcls.ConvNeXt",
    "arch": {"depths": DEPTHS, "channels": CHANNELS},
    "out_indices": [0, 1, 2, 3],
    "drop_path_rate": 0.4,
    "layer_scale_init_value": 1.0,
    "gap_before_final_norm": False,
}
AUTHORS = {
    "type": "ConvNeXt",
    "in_chans": 3,
    "depths": DEPTHS,
    "dims": CHANNELS,
    "drop_path_rate": 0.4,
    "layer_scale_init_value": 1.0,
    "out_indices": [0, 1, 2, 3],
}
NAMES = {"depthwise_conv": "dwconv", "pointwise_conv": "pwconv"}


def config(backbone):
    return tiny.config(model__backbone=backbone, model__decode_head__in_channels=CHANNELS[3])


def native(backbone, state):
    """The weights under our names; under the original's again they are as they were."""
    translation = translate_config(config(backbone))
    with torch.device("meta"):
        expected = SegZooForSemanticSegmentation(translation.config).state_dict()
    found, match = match_weights(state, translation.components, expected)
    match.raise_for_problems("x")
    back = original_state_dict(found, translation.components)
    assert back.keys() == state.keys() - set(match.left_out)
    assert all(torch.equal(back[key], state[key]) for key in back)
    return found, match.left_out


def test_the_spellings_are_one_model():
    state = tiny.state_dict(config(MMCLS))
    assert "backbone.stages.2.1.pointwise_conv2.bias" in state and "backbone.norm3.weight" in state
    authors = {}
    for name, value in state.items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        authors[name] = value
    as_kernels = {
        name: value[:, :, None, None] if name.endswith(("pointwise_conv1.weight", "pointwise_conv2.weight")) else value
        for name, value in state.items()
    }
    first, _ = native(MMCLS, state)
    for backbone, weights in ((AUTHORS, authors), (MMCLS | {"linear_pw_conv": False}, as_kernels)):
        other, left_out = native(backbone, weights)
        assert not left_out and other.keys() == first.keys()
        assert all(torch.equal(value, other[key]) for key, value in first.items())
    # The authors' class has the norms of all maps, whichever it returns.
    fewer, left_out = native(AUTHORS | {"out_indices": [3, 1]}, authors)
    assert sorted(left_out) == [f"backbone.norm{i}.{part}" for i in (0, 2) for part in ("bias", "weight")]
    assert first.keys() - fewer.keys() == {
        f"backbone.norms.stage{i}.{part}" for i in (1, 3) for part in ("bias", "weight")
    }


def translated(original, **options):
    rule = find_rule("backbone", original | options, "here")
    return rule.convert(original | options, Context("here"))[0]


def test_the_norms_between_stages():
    of = {
        kind: translated(MMCLS, type=kind).downsample_norm_eps
        for kind in ("mmcls.ConvNeXt", "mmpretrain.ConvNeXt", "mmpretrain.models.ConvNeXt", "ConvNeXt")
    }
    assert list(of.values()) == [1e-5, 1e-6, 1e-6, 1e-5]
    assert translated(AUTHORS).downsample_norm_eps == translated(AUTHORS).norm_eps == 1e-6
    own = {"norm_cfg": {"type": "LN2d", "eps": 1e-3}}
    assert translated(MMCLS, **own).downsample_norm_eps == 1e-5
    both = translated(MMCLS, type="mmpretrain.ConvNeXt", **own)
    assert both.downsample_norm_eps == both.norm_eps == 1e-3
    original = config(MMCLS | {"type": "ConvNeXt"}) | {"default_scope": "mmseg"}
    assert translate_config(original).config.backbone_config.downsample_norm_eps == 1e-6


def test_options():
    assert translated(MMCLS, arch="base").channels == [128, 256, 512, 1024]
    assert translated({"type": "ConvNeXt", "gap_before_final_norm": False}).out_features == ["stage4"]
    assert translated(MMCLS, out_indices=-2).out_features == ["stage3"]
    assert translated(MMCLS, layer_scale_init_value=0.0).layer_scale is None
    assert translated(MMCLS, use_grn=True).response_norm and not translated(MMCLS).response_norm
    assert translated(AUTHORS, layer_scale_init_value=0.5).layer_scale == 0.5
    assert translated({"type": "ConvNeXt"}).to_dict() == translated({"type": "ConvNeXt", "in_chans": 3}).to_dict()


@pytest.mark.parametrize(
    ("original", "options", "words"),
    [
        (MMCLS, {"gap_before_final_norm": True}, "gap_before_final_norm=True, the default, gives vectors"),
        (MMCLS, {"arch": "giant"}, "arch='giant' is unknown .atto, "),
        (MMCLS, {"arch": {"depths": DEPTHS, "channels": CHANNELS, "ratio": 4}}, "arch: unknown option ratio=4"),
        (MMCLS, {"norm_cfg": {"type": "BN"}}, "'BN' is not supported here .only LN2d"),
        (MMCLS, {"act_cfg": {"type": "ReLU"}}, "activation"),
        (MMCLS, {"dims": CHANNELS}, "unknown option"),
        (AUTHORS, {"head_init_scale": 1.0}, "unknown option head_init_scale=1.0"),
        (AUTHORS, {"depths": [1, 1]}, "need one entry for each"),
    ],
)
def test_what_would_change_the_numbers_is_refused(original, options, words):
    with (
        pytest.raises(ConversionError, match=words) if "each" not in words else pytest.raises(ValueError, match=words)
    ):
        translated(original, **options)

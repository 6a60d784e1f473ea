"""Options with which an original has other tensors, or other names of them, than with its usual ones."""

import pytest
from conversion import tiny

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_translated
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import find_native, match_weights

ALL_MAPS = {"out_indices": (0, 1, 2, 3)}
TWINS = {
    "embed_dims": (8, 16), "num_heads": (1, 2), "patch_sizes": (4, 2), "strides": (4, 2), "mlp_ratios": (2, 2),
    "depths": (2, 1), "sr_ratios": (2, 1), "out_indices": (0, 1),
}  # fmt: skip
MIT = {"embed_dims": 8, "num_stages": 2, "num_layers": (1, 1), "num_heads": (1, 2), "patch_sizes": (7, 3)}
MIT |= {"strides": (4, 2), "sr_ratios": (2, 1), "out_indices": (0, 1)}
SWIN = {"embed_dims": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 3, "strides": (4, 2)}
VIT = {"img_size": 32, "embed_dims": 16, "num_layers": 2, "num_heads": 2}


def backbone(kind, channels=None, **options):
    """A config with this backbone, whose head reads the last map."""
    head = tiny.MODEL["decode_head"] | {"in_channels": channels or 16, "in_index": -1}
    return tiny.config(model__backbone={"type": kind, **options}, model__decode_head=head)


def names_of(values):
    """The names of the original's tensors; those of the model are found under them again."""
    translation, state = translate_config(values), tiny.state_dict(values)
    expected = build_translated(translation).state_dict()
    native, match = match_weights(state, translation.components, expected)
    match.raise_for_problems("tiny")
    assert native.keys() == expected.keys()
    return set(state)


# Options that leave tensors out


@pytest.mark.parametrize("bias", [None, False, True])
@pytest.mark.parametrize(
    ("values", "attention", "default"),
    [
        (("PCPVT", TWINS), "backbone.layers.0.0.attn.attn", False),
        (("SVT", TWINS | {"windiow_sizes": (3, 3)}), "backbone.layers.0.1.attn.attn", False),
        (("MixVisionTransformer", MIT), "backbone.layers.0.1.0.attn.attn", True),
    ],
    ids=["PCPVT", "SVT", "MiT"],
)
def test_pytorchs_attention_has_all_biases_or_none(values, attention, default, bias):
    kind, options = values
    names = names_of(backbone(kind, **options, **({} if bias is None else {"qkv_bias": bias})))
    wanted = default if bias is None else bias
    for name in ("in_proj_bias", "out_proj.bias"):
        assert (f"{attention}.{name}" in names) is wanted
    assert f"{attention}.out_proj.weight" in names
    if kind == "SVT":  # attention within windows is the original's own
        assert "backbone.layers.0.0.attn.proj.bias" in names
        assert ("backbone.layers.0.0.attn.qkv.bias" in names) is wanted


@pytest.mark.parametrize("normed", [True, False])
def test_mmsegs_swin_without_norms_of_patches_has_none_of_merged_ones(normed):
    names = names_of(backbone("SwinTransformer", **SWIN, out_indices=(0, 1), patch_norm=normed))
    for name in ("patch_embed.norm.weight", "stages.0.downsample.norm.weight"):
        assert (f"backbone.{name}" in names) is normed
    assert "backbone.stages.0.downsample.reduction.weight" in names


def test_the_authors_swin_without_norms_of_patches_has_those_of_merged_ones():
    options = {"embed_dim": 8, **{k: v for k, v in SWIN.items() if k not in ("embed_dims", "strides")}}
    names = names_of(backbone("SwinTransformer", **options, out_indices=(0, 1), patch_norm=False))
    assert "backbone.layers.0.downsample.norm.weight" in names and "backbone.patch_embed.norm.weight" not in names


@pytest.mark.parametrize(("kind", "why"), [("EncHead", "codes have a batch norm"), ("LRASPPHead", "have no bias")])
@pytest.mark.parametrize("options", [{}, {"norm_cfg": None}])
def test_heads_that_are_others_without_norms(kind, why, options):
    own = {"type": kind, "in_channels": [16, 32, 64], "in_index": [1, 2, 3], "num_classes": 4, "channels": 8}
    with pytest.raises(ConversionError, match=f"model.decode_head: norm_cfg=None, the default, .*{why}"):
        translate_config(tiny.config(model__decode_head=own | options))
    assert names_of(tiny.config(model__decode_head=own | {"norm_cfg": tiny.NORM}))


@pytest.mark.parametrize(
    ("options", "name"),
    [({}, "ln_pre"), ({"type": "mmpretrain.VisionTransformer", "out_type": "featmap"}, "pre_norm")],
)
def test_the_norm_before_the_blocks(options, name):
    kind = options.get("type", "VisionTransformer")
    own = VIT
    if kind != "VisionTransformer":
        own = {"img_size": 32, "arch": {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 32}}
    rest = {key: value for key, value in options.items() if key != "type"}
    names = names_of(backbone(kind, **own, **rest, pre_norm=True))
    assert {f"backbone.{name}.weight", f"backbone.{name}.bias"} <= names


# Classes of other packages with the same names


def stem_and_shortcuts(names):
    """The names in the stem, and the numbers of what lies in the first block's shortcut, for each stage that has one."""
    stem = {name.removeprefix("backbone.") for name in names if name.startswith(("backbone.stem", "backbone.conv1"))}
    numbers = {}
    for name in names:
        _, stage, block, *rest = name.split(".")
        if rest[:1] == ["downsample"]:
            numbers.setdefault(int(stage.removeprefix("layer")), set()).add(int(rest[1]))
            assert block == "0"
    return stem, numbers


@pytest.mark.parametrize(
    ("kind", "options", "first", "wanted"),
    [
        ("mmseg.ResNetV1d", {}, "stem.0.weight", {2: {1, 2}, 3: {1, 2}, 4: {1, 2}}),
        ("mmdet.ResNetV1d", {}, "stem.0.weight", {2: {1, 2}, 3: {1, 2}, 4: {1, 2}}),
        ("mmpretrain.ResNetV1d", {}, "stem.0.conv.weight", {2: {1, 2}, 3: {1, 2}, 4: {1, 2}}),
        ("mmcls.ResNetV1c", {}, "stem.0.conv.weight", {2: {0, 1}, 3: {0, 1}, 4: {0, 1}}),
        ("mmpretrain.ResNet", {"avg_down": True}, "conv1.weight", {2: {1, 2}, 3: {1, 2}, 4: {1, 2}}),
        ("mmpretrain.ResNet", {"deep_stem": True}, "stem.0.conv.weight", {2: {0, 1}, 3: {0, 1}, 4: {0, 1}}),
        (
            "mmpretrain.ResNetV1d",
            {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
            "stem.0.conv.weight",
            {2: {1, 2}, 3: {0, 1}, 4: {0, 1}},
        ),
    ],
)
def test_resnets_of_other_packages(kind, options, first, wanted):
    options = {"depth": 18, "base_channels": 8, "stem_channels": 8, **ALL_MAPS, **options}
    stem, shortcuts = stem_and_shortcuts({n for n in names_of(backbone(kind, 64, **options)) if "backbone" in n})
    assert first in stem
    assert shortcuts == wanted


@pytest.mark.parametrize("kind", ["mmpretrain.ResNeXt", "mmpretrain.ResNeSt"])
def test_a_first_stage_without_stride_pools_no_shortcut_in_mmpretrain(kind):
    names = names_of(backbone(kind, 256, depth=50, avg_down=True, base_channels=8, stem_channels=8))
    _, shortcuts = stem_and_shortcuts({n for n in names if "backbone" in n})
    assert shortcuts[1] == {0, 1} and shortcuts[2] == {1, 2}


@pytest.mark.parametrize(
    ("written", "groups", "width", "maps"),
    [
        ({"type": "ResNeXt"}, 1, 64, 4),
        ({"type": "mmdet.ResNeXt", "groups": 32, "base_width": 8}, 32, 8, 4),
        ({"type": "mmpretrain.ResNeXt"}, 32, 4, 1),
        ({"type": "ResNeXt", "_scope_": "mmcls", "groups": 16, "width_per_group": 8}, 16, 8, 1),
        ({"type": "mmpretrain.ResNeSt", "groups": 2, "width_per_group": 32}, 2, 32, 1),
        ({"type": "mmpretrain.ResNeSt"}, 1, 64, 1),
        ({"type": "mmpretrain.ResNet"}, 1, 64, 1),
        ({"type": "mmdet.ResNet"}, 1, 64, 4),
    ],
)
def test_defaults_of_other_packages(written, groups, width, maps):
    config = translate_config(tiny.config(model__backbone={"depth": 50, **written})).config.backbone_config
    assert (config.groups, config.base_width) == (groups, width)
    assert config.out_features == ["stage1", "stage2", "stage3", "stage4"][-maps:]


@pytest.mark.parametrize(
    ("kind", "expanding", "left_out"),
    [
        ("MobileNetV2", "conv.0.conv", False),
        ("mmpretrain.MobileNetV2", "conv.0.conv", True),
        ("mmdet.MobileNetV2", "expand_conv.conv", True),
    ],
)
def test_mobilenetv2_of_other_packages(kind, expanding, left_out):
    values = backbone(kind, 320, out_indices=(1, 2, 4, 6))
    assert f"backbone.layer2.0.{expanding}.weight" in names_of(values)
    rule, native = find_native("backbone.conv2.conv.weight", translate_config(values).components)
    assert native is None and (rule is not None) is left_out


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"type": "mmpretrain.HRNet"}, "enlarges maps .* nearest neighbours"),
        ({"type": "mmdet.HRNet"}, "enlarges maps .* nearest neighbours"),
        ({"type": "HRNet", "_scope_": "mmcls"}, "enlarges maps .* nearest neighbours"),
        ({"type": "mmpretrain.MobileNetV3"}, "mmpretrain's class of this name has no dilations"),
        ({"type": "mmpretrain.MobileNetV2"}, r"out_indices=\(7,\) is not supported \(only numbers below 7\)"),
        ({"type": "mmdet.MobileNetV2"}, r"out_indices=\(1, 2, 4, 7\) is not supported"),
        ({"type": "mmpretrain.SwinTransformer"}, "shrinks windows to small maps"),
        ({"type": "mmpretrain.PCPVT", "arch": "small"}, "takes its sizes by arch"),
        ({"type": "mmcls.SVT", "arch": "small"}, "takes its sizes by arch"),
        ({"type": "VAN", "_scope_": "mmpretrain"}, "takes its sizes by arch"),
    ],
)
def test_namesakes_that_are_refused(written, words):
    with pytest.raises(ConversionError, match=f"model.backbone: .*{words}"):
        translate_config(tiny.config(model__backbone=written))


def test_swin_of_mmdetection_is_mmsegs():
    assert names_of(backbone("mmdet.SwinTransformer", **SWIN, out_indices=(0, 1))) == names_of(
        backbone("SwinTransformer", **SWIN, out_indices=(0, 1))
    )

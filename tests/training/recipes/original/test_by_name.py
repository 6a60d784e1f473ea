"""Groups of parameters as options of a recipe."""

import pytest

from segzoo.training.recipes.original.by_name import NamedParameter, factors_of, options_of


def parameter(native, original, *kinds, dimensions=4):
    return NamedParameter(native, original, dimensions, "norms" in kinds, False, frozenset(kinds))


PARAMETERS = [
    parameter("backbone.stages.0.blocks.0.conv.weight", "backbone.layers.0.0.conv.weight"),
    parameter(
        "backbone.stages.0.blocks.0.norm.weight", "backbone.layers.0.0.norm.weight", "norms", "vectors", dimensions=1
    ),
    parameter("backbone.stages.0.norm.weight", "backbone.layers.0.2.weight", "norms", "vectors", dimensions=1),
    parameter("backbone.stages.1.norm.weight", "backbone.layers.1.2.weight", "norms", "vectors", dimensions=1),
    parameter("decode_heads.0.query_features.weight", "decode_head.query_feat.weight", dimensions=2),
    parameter("decode_heads.0.norm.weight", "decode_head.norm.weight", "norms", "vectors", dimensions=1),
    parameter("decode_heads.0.classifier.weight", "decode_head.conv_seg.weight"),
    parameter("decode_heads.0.classifier.bias", "decode_head.conv_seg.bias", "biases", "vectors", dimensions=1),
]


@pytest.mark.parametrize(
    ("settings", "no_decay", "head", "rules"),
    [
        ({}, [], 1.0, []),
        ({"norm_decay_mult": 0.0}, ["norms"], 1.0, []),
        ({"norm_decay_mult": 0.0, "bias_decay_mult": 0.0}, ["vectors"], 1.0, []),
        # Of the keys in a name the longest decides: norms of the backbone decay, and those of the head do not.
        (
            {
                "custom_keys": {
                    "norm": {"decay_mult": 0.0},
                    "query_feat": {"decay_mult": 0.0},
                    "backbone": {"lr_mult": 0.1},
                }
            },
            ["norms"],
            1.0,
            [
                {"match": r"^decode_heads\.\d+\.query_features\.", "decay_multiplier": 0.0},
                {"match": r"^backbone\.", "lr_multiplier": 0.1},
            ],
        ),
        # The norms behind stages are called otherwise there, and decay.
        (
            {"custom_keys": {"norm": {"decay_mult": 0.0}, "head": {"lr_mult": 10.0}}},
            [],
            10.0,
            [{"match": r"^backbone\.stages\.\d+\.blocks\.\d+\.norm\.", "decay_multiplier": 0.0}],
        ),
    ],
)
def test_custom_keys(settings, no_decay, head, rules):
    found = options_of({p: factors_of(p, settings, None) for p in PARAMETERS})
    if settings.get("custom_keys", {}).get("head"):  # two names of equal length: the first in the alphabet
        assert factors_of(PARAMETERS[5], settings, None) == (10.0, 1.0)
    assert found == {"no_decay": no_decay, "head_lr_multiplier": head, "parameter_rules": rules}


def test_layer_decay_leaves_vectors_without_decay():
    found = options_of({p: factors_of(p, {}, "LayerDecayOptimizerConstructor") for p in PARAMETERS})
    assert found == {"no_decay": ["vectors"], "head_lr_multiplier": 1.0, "parameter_rules": []}


@pytest.mark.parametrize(
    ("original", "dimensions", "in_norm", "in_depthwise", "settings", "mmcv", "mmengine"),
    [
        ("attn.in_proj_bias", 1, False, False, {"bias_decay_mult": 0.0, "bias_lr_mult": 2.0}, (1, 1), (1, 1)),
        ("conv.bias", 1, False, False, {"bias_decay_mult": 0.0, "bias_lr_mult": 2.0}, (2, 0), (2, 0)),
        ("bn.bias", 1, True, False, {"bias_decay_mult": 0.0, "bias_lr_mult": 2.0}, (1, 1), (1, 0)),
        ("bn.weight", 1, True, False, {"flat_decay_mult": 0.0}, (1, 1), (1, 0)),
        ("dw.bias", 1, False, True, {"bias_decay_mult": 0.0, "dwconv_decay_mult": 0.5}, (1, 0.5), (1, 0)),
        ("dw.bias", 1, False, True, {"bias_decay_mult": 0.0}, (1, 1), (1, 0)),
        ("dw.weight", 4, False, True, {"bias_decay_mult": 0.0, "dwconv_decay_mult": 0.5}, (1, 0.5), (1, 0.5)),
        ("scale", 1, False, False, {"flat_decay_mult": 0.0}, (1, 1), (1, 0)),
    ],
)
def test_rules_by_kind(original, dimensions, in_norm, in_depthwise, settings, mmcv, mmengine):
    """Of several rules that fit a parameter, mmcv and mmengine do not choose the same."""
    one = NamedParameter(original, original, dimensions, in_norm, in_depthwise, frozenset())
    assert factors_of(one, settings, None) == mmcv
    assert factors_of(one, settings, None, engine=True) == mmengine

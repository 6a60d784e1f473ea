"""Configs of PoolFormer, VAN, PVT and PVT v2 in their authors' and mmpretrain's spelling."""

import pytest

from segzoo.backbones import MiTConfig, PoolFormerConfig, PVTConfig, VANConfig
from segzoo.backbones.poolformer import VARIANTS as POOLFORMERS
from segzoo.backbones.pvt import VARIANTS as PVTS
from segzoo.backbones.van import VARIANTS as VANS
from segzoo.conversion import rules  # noqa: F401  registers every rule
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.rules.pvt import V2_VARIANTS

# What the authors' configs keep of the ResNet that they derive from.
RESNET = {
    "depth": 50,
    "num_stages": 4,
    "out_indices": (0, 1, 2, 3),
    "dilations": (1, 1, 1, 1),
    "strides": (1, 2, 2, 2),
    "norm_cfg": {"type": "SyncBN", "requires_grad": True},
    "norm_eval": False,
    "style": "pytorch",
    "contract_dilation": True,
}
ALL_MAPS = {"out_indices": (0, 2, 4, 6)}


def translated(original):
    context = Context("model.backbone", OriginalConfig())
    return find_rule("backbone", original, "model.backbone").convert(original, context)[0]


@pytest.mark.parametrize("name", POOLFORMERS)
def test_poolformer_in_both_spellings(name):
    expected = PoolFormerConfig(**POOLFORMERS[name]).to_dict()
    assert translated({"type": f"{name}_feat", **RESNET}).to_dict() == expected
    arch = name.removeprefix("poolformer_")
    assert translated({"type": "mmpretrain.PoolFormer", "arch": arch, **ALL_MAPS}).to_dict() == expected


@pytest.mark.parametrize("name", PVTS)
def test_pvt(name):
    assert translated({"type": name, **RESNET}).to_dict() == PVTConfig(**PVTS[name]).to_dict()


@pytest.mark.parametrize("name", V2_VARIANTS)
def test_pvt_v2_is_a_mit(name):
    config = translated({"type": name, "style": "pytorch"})
    assert config.to_dict() == MiTConfig(**V2_VARIANTS[name]).to_dict()
    assert config.mlp_ratios == ([4] * 4 if name == "pvt_v2_b5" else [8, 8, 4, 4])
    assert (config.norm_eps, config.patch_norm_eps) == (1e-6, 1e-5)


@pytest.mark.parametrize(("name", "variant"), [("van_tiny", "van_b0"), ("van_large", "van_b3")])
def test_the_first_names_of_van(name, variant):
    expected = VANConfig(**VANS[variant], map_norm_eps=1e-6)
    assert translated({"type": name, **RESNET}).to_dict() == expected.to_dict()


def test_options_of_van():
    config = translated(
        {
            "type": "VAN",
            "embed_dims": [8, 16, 32, 64],
            "depths": [1, 2, 3, 1],
            "mlp_ratios": [4, 4, 2, 2],
            "norm_cfg": {"type": "BN", "eps": 1e-3},
            "drop_path_rate": 0.3,
            "in_chans": 4,
        }
    )
    assert (config.channels, config.depths, config.mlp_ratios) == ([8, 16, 32, 64], [1, 2, 3, 1], [4, 4, 2, 2])
    assert (config.norm_eps, config.map_norm_eps, config.drop_path_rate, config.num_channels) == (1e-3, 1e-5, 0.3, 4)


def test_options_of_poolformer():
    config = translated(
        {
            "type": "PoolFormer",
            "arch": {"layers": [1, 1, 2, 1], "embed_dims": [8, 12, 16, 24], "mlp_ratios": [2, 2, 2, 2]},
            "norm_cfg": {"type": "GN", "num_groups": 1, "eps": 1e-3},
            "out_indices": (0, 4),
            "in_patch_size": 5,
            "down_stride": 3,
            "pool_size": 5,
        }
    )
    assert (config.depths, config.norm_eps, config.out_features) == ([1, 1, 2, 1], 1e-3, ["stage1", "stage3"])
    assert (config.patch_sizes, config.strides, config.pool_size) == ([5, 3, 3, 3], [4, 3, 3, 3], 5)
    assert translated({"type": "PoolFormer"}).out_features == ["stage4"]
    assert translated({"type": "poolformer_s12_feat", "use_layer_scale": False}).layer_scale is None


@pytest.mark.parametrize(
    ("original", "words"),
    [
        ({"type": "PoolFormer", "out_indices": (0, 1)}, "only those of stages"),
        ({"type": "PoolFormer", "arch": "s99"}, "arch='s99' is unknown"),
        ({"type": "PoolFormer", "arch": {"layers": [1] * 4, "embed_dims": [8] * 4}}, "embed_dims=.* not supported"),
        ({"type": "PoolFormer", "norm_cfg": {"type": "LN2d"}}, "only GN of one group"),
        ({"type": "PoolFormer", "act_cfg": {"type": "ReLU"}}, "only GELU"),
        ({"type": "poolformer_s12_feat", "norm_layer": "LayerNormChannel"}, "norm_layer='LayerNormChannel'"),
        ({"type": "VAN", "linear": True}, "linear=True is not supported"),
        ({"type": "VAN", "num_stages": 3}, "num_stages=3 differs"),
        ({"type": "VAN", "arch": "tiny"}, "unknown option arch"),
        ({"type": "pvt_tiny", "F4": True}, "F4=True is not supported"),
        ({"type": "pvt_v2_b2_lin"}, "pvt_v2_b2_lin.* is not supported"),
    ],
)
def test_options_that_would_change_the_numbers(original, words):
    with pytest.raises(ConversionError, match=words):
        translated(original)

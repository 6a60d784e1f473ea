"""DDRNet and PIDNet: sizes that the originals do not take, variants, options."""

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn
from torch.nn import functional as F

from segzoo import AutoBackbone
from segzoo.auto import backbone_variants
from segzoo.backbones import DDRNetConfig, PIDNetConfig
from segzoo.errors import SegZooError
from segzoo.layers import ContextPooling, residual_blocks


@pytest.mark.parametrize("config", [DDRNetConfig.tiny(), PIDNetConfig.tiny(), PIDNetConfig(channels=8, light=False)])
@torch.no_grad()
def test_any_size(config):
    """The originals take sides that are multiples of 8 alone; larger maps are those of the stem."""
    model = settle(AutoBackbone.from_config(config)).eval()
    for x in model(torch.randn(1, 3, 75, 109)).feature_maps:
        assert x.shape[2:] == (10, 14) and x.isfinite().all()


@pytest.mark.parametrize("parallel", [False, True])
@torch.no_grad()
def test_pooling_by_hand(parallel):
    pooling = settle(ContextPooling(16, 8, 12, parallel=parallel)).eval()
    x = torch.randn(1, 16, 9, 13)
    averages = [F.avg_pool2d(x, side, stride, side // 2) for side, stride in ((5, 2), (9, 4), (17, 8))]
    averages.append(F.adaptive_avg_pool2d(x, 1))
    first = pooling.scales[0](x)
    others = [
        F.interpolate(scale(y), (9, 13), mode="bilinear")
        for scale, y in zip(pooling.scales[1:], averages, strict=True)
    ]
    if parallel:
        found = [first, pooling.fusions[0](torch.cat([y + first for y in others], 1))]
        assert pooling.fusions[0].conv.groups == 4
    else:
        found = [first]
        for fusion, y in zip(pooling.fusions, others, strict=True):
            found.append(fusion(y + found[-1]))
    assert_close(pooling(x), pooling.compression(torch.cat(found, 1)) + pooling.shortcut(x))


def test_which_sums_are_activated():
    def activated(*args, **options):
        return [isinstance(block.activation, nn.ReLU) for block in residual_blocks(*args, **options)]

    assert activated(8, 8, 1) == [True]
    assert activated(8, 8, 3) == [True, True, False]
    assert activated(8, 8, 1, bottleneck=True) == [False]
    assert activated(8, 8, 3, bottleneck=True) == [False, True, False]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("pidnet_s", 7.48e6),
        ("pidnet_m", 28.2e6),
        ("pidnet_l", 36.3e6),
        ("ddrnet_23_slim", 5.62e6),
        ("ddrnet_23", 19.9e6),
    ],
)
def test_sizes_of_variants(name, parameters):
    """Those of the released models without their heads."""
    with torch.device("meta"):
        model = AutoBackbone.from_config(backbone_variants()[name].variant_config(name))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)


def test_a_stage_without_blocks():
    with pytest.raises(SegZooError, match="branch_blocks=0 must be 1 at least"):
        PIDNetConfig(branch_blocks=0)

"""What Fast-SCNN has beyond the contract: where it has activations, its fusion, the momentum of its norms."""

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn
from torch.nn import functional as F

from segzoo.backbones import FastSCNNBackbone, FastSCNNConfig
from segzoo.backbones.fast_scnn import VARIANTS
from segzoo.errors import SegZooError


def test_the_published_one():
    with torch.device("meta"):
        model = FastSCNNBackbone(FastSCNNConfig(**VARIANTS["fast_scnn"])).eval()
        maps = model(torch.empty(1, 3, 256, 512)).feature_maps
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 32, 64), (128, 8, 16), (128, 32, 64)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 40 and {norm.momentum for norm in norms} == {0.01}
    assert {
        norm.momentum for norm in FastSCNNBackbone(FastSCNNConfig.tiny()).modules() if hasattr(norm, "momentum")
    } == {0.1}


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_activations(activation):
    config = FastSCNNConfig.tiny()
    config.activation, config.depthwise_activation = "silu", activation
    model = FastSCNNBackbone(config)
    assert isinstance(model.stem[0].activation, nn.SiLU)
    for conv in model.stem[1:]:
        assert isinstance(conv.depthwise.activation, nn.GELU if activation else nn.Identity)
        assert isinstance(conv.pointwise.activation, nn.ReLU)
    for part in (model.coarse_conv[1], model.fine_conv):
        assert isinstance(part.activation, nn.Identity)


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_fusion(align_corners):
    config = FastSCNNConfig.tiny()
    config.align_corners = align_corners
    model = settle(FastSCNNBackbone(config)).eval()
    fine, coarse, fused = model(torch.randn(2, 3, 75, 109)).feature_maps
    assert coarse.shape[2:] == (3, 4)
    x = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=align_corners)
    assert_close(fused, F.relu(model.coarse_conv(x) + model.fine_conv(fine)))
    assert float(fused.min()) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stem_channels": [32]}, "must be 2 numbers"),
        ({"stage_channels": [32, 64]}, "must be 3 numbers"),
        ({"stage_strides": [2, 2, 4]}, "must be 1 or 2"),
        ({"coarse_channels": 96}, "multiple of fused_channels=128"),
        ({"norm_momentum": 0.0}, "norm_momentum=0.0 must be above 0"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        FastSCNNConfig(**options)

"""ConvNeXt: equal to transformers', its published sizes, and norms of the maps that are returned alone."""

import pytest
import torch
from torch import nn
from transformers import ConvNextBackbone, ConvNextConfig, ConvNextV2Backbone, ConvNextV2Config

from segzoo.backbones import ConvNeXtBackbone, ConvNeXtConfig
from segzoo.backbones.convnext import VARIANTS
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.rules.convnext import TRANSFORMERS
from segzoo.conversion.translation import ComponentKeys
from segzoo.conversion.weights import original_state_dict
from segzoo.errors import SegZooError

# Millions of weights of the published classifiers, without the last layer and norm.
PUBLISHED = {
    "convnext_tiny": 27.8,
    "convnext_small": 49.4,
    "convnext_base": 87.6,
    "convnext_large": 196.2,
    "convnext_xlarge": 348.1,
}


def tiny(**options):
    torch.manual_seed(0)
    sizes = {"channels": [8, 12, 16, 24], "depths": [1, 2, 2, 1]}
    backbone = ConvNeXtBackbone(ConvNeXtConfig(**sizes | options)).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone


@pytest.mark.parametrize("size", [(64, 96), (75, 109)])
@pytest.mark.parametrize(
    ("options", "backbone_class", "config_class"),
    [
        ({}, ConvNextBackbone, ConvNextConfig),
        ({"layer_scale": None, "response_norm": True}, ConvNextV2Backbone, ConvNextV2Config),
    ],
)
def test_same_maps_as_transformers(size, options, backbone_class, config_class):
    ours = tiny(**options)
    maps = ["stage1", "stage2", "stage3", "stage4"]
    theirs = backbone_class(config_class(hidden_sizes=[8, 12, 16, 24], depths=[1, 2, 2, 1], out_features=maps)).eval()
    components = [ComponentKeys("", "", KeyTable(TRANSFORMERS.keys(ours.config)), "", ours.config)]
    theirs.load_state_dict(original_state_dict(ours.state_dict(), components))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        found, wanted = ours(x, output_hidden_states=True), theirs(x, output_hidden_states=True)
    assert len(found.feature_maps) == 4
    for a, b in zip(
        (*found.feature_maps, *found.hidden_states), (*wanted.feature_maps, *wanted.hidden_states), strict=True
    ):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("name", VARIANTS)
def test_published_sizes(name):
    with torch.device("meta"):
        backbone = ConvNeXtBackbone(ConvNeXtConfig(**VARIANTS[name]))
    count = sum(p.numel() for part, p in backbone.named_parameters() if not part.startswith("norms."))
    assert count == pytest.approx(PUBLISHED[name] * 1e6, abs=6e4)


def test_norms_of_the_maps_that_are_returned():
    backbone, whole = tiny(out_features=["stage2", "stage4"]), tiny()
    assert list(backbone.norms) == ["stage2", "stage4"]
    backbone.load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        output = whole(x, output_hidden_states=True)
        for found, index in zip(backbone(x).feature_maps, (1, 3), strict=True):
            assert torch.equal(found, output.feature_maps[index])
            assert not torch.equal(found, output.hidden_states[index + 1])


def test_without_scales():
    backbone = tiny(layer_scale=None)
    assert not any("scale" in name for name in backbone.state_dict())
    scaled = tiny(layer_scale=1.0)
    scaled.load_state_dict(backbone.state_dict(), strict=False)
    for stage in scaled.stages:
        for layer in stage.layers:
            nn.init.ones_(layer.scale)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone(x).feature_maps[3], scaled(x).feature_maps[3])


def test_first_weights():
    backbone = ConvNeXtBackbone(ConvNeXtConfig(channels=[64, 64], depths=[1, 1], layer_scale=0.25))
    layer = backbone.stages[1].layers[0]
    assert (layer.scale == 0.25).all() and (layer.norm.weight == 1).all()
    for weight in (backbone.patch_embedding.weight, layer.depthwise_conv.weight, layer.mlp.fc1.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("options", [{"depths": [1, 2]}, {"depths": [], "channels": []}])
def test_lists_that_do_not_fit(options):
    with pytest.raises(SegZooError, match="need one entry for each of 1 to 8 stages"):
        ConvNeXtConfig(**options)

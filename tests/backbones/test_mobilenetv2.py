"""What MobileNetV2 has beyond the contract: output strides, two ways of dilating, widths."""

import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import MobileNetV2Backbone, MobileNetV2Config
from segzoo.backbones.mobilenetv2 import VARIANTS
from segzoo.errors import SegZooError


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_variants_have_their_output_stride(name):
    stride = int(name.rsplit("_d", 1)[1]) if "_d" in name else 32
    with torch.device("meta"):
        model = MobileNetV2Backbone(MobileNetV2Config(**VARIANTS[name]))
        maps = model(torch.empty(1, 3, 128, 192)).feature_maps
    assert [m.shape[1] for m in maps] == model.channels == [24, 32, 96, 320]
    assert tuple(maps[-1].shape[2:]) == (128 // stride, 192 // stride)
    assert sum(p.numel() for p in model.parameters()) == 1_811_712


def dilations(name):
    model = MobileNetV2Backbone(MobileNetV2Config(**VARIANTS[name]))
    return [[block.depthwise.conv.dilation[0] for block in stage] for stage in model.stages]


def test_mmsegmentation_dilates_the_first_block_of_a_stage():
    assert dilations("mobilenetv2_d8")[3:] == [[2, 1, 1, 1], [2, 1, 1], [4, 1, 1], [4]]


def test_mit_dilates_the_others_too():
    assert dilations("mobilenetv2_mit_d8")[3:] == [[1, 2, 2, 2], [2, 2, 2], [2, 4, 4], [4]]


def test_maps_after_first_blocks():
    torch.manual_seed(0)
    model = MobileNetV2Backbone(MobileNetV2Config(maps_after_first_blocks=True, out_features=["stage6"])).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        inside = model.stem(x)
        for stage in model.stages[:5]:
            inside = stage(inside)
        assert torch.equal(model(x).feature_maps[0], model.stages[5][0](inside))


def test_widths_are_multiples_of_eight_not_much_below():
    config = MobileNetV2Config(widen_factor=0.35)
    assert [config.width(c) for c in (16, 24, 32, 96, 320)] == [8, 8, 16, 32, 112]


def test_a_model_around_it_uses_four_resolutions():
    model = SegZooForSemanticSegmentation(SegZooConfig.from_backbone(MobileNetV2Config.tiny(), num_labels=3))
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 64, 96)).logits.shape == (1, 3, 16, 24)
        assert len(model.backbone(torch.randn(1, 3, 64, 96)).feature_maps) == 4


@pytest.mark.parametrize(("options", "words"), [({"strides": [1, 2]}, "7 stages"), ({"widen_factor": 0.0}, "above 0")])
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        MobileNetV2Config(**options)

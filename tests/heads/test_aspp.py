"""DeepLabV3's and DeepLabV3+'s heads beside what the papers say."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import ASPPHead, ASPPHeadConfig, SeparableASPPHead, SeparableASPPHeadConfig
from segzoo.layers import ConvNormAct, SeparableConv


def test_the_pools_mean_and_the_branches_are_joined_in_order():
    head = settle(ASPPHead(ASPPHeadConfig.tiny())).eval()
    x = torch.randn(2, 32, 9, 14)
    pyramid = head.pyramid
    pooled = pyramid.image_pool(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, 9, 14)
    assert [branch.conv.dilation for branch in pyramid.branches] == [(1, 1), (2, 2), (5, 5)]
    assert [branch.conv.kernel_size for branch in pyramid.branches] == [(1, 1), (3, 3), (3, 3)]
    joined = torch.cat([pooled, *(branch(x) for branch in pyramid.branches)], dim=1)
    expected = head.classifier(ConvNormAct.forward(pyramid.fusion, joined))
    assert_close(head([x, x, x]).logits, expected)


def test_the_fine_map_sets_the_resolution_and_comes_last():
    head = settle(SeparableASPPHead(SeparableASPPHeadConfig.tiny())).eval()
    fine, middle, coarse = torch.randn(1, 8, 13, 10), torch.randn(1, 16, 7, 5), torch.randn(1, 32, 4, 3)
    x = F.interpolate(head.pyramid(coarse), size=(13, 10), mode="bilinear", align_corners=False)
    expected = head.classifier(head.refinement(torch.cat([x, head.fine_conv(fine)], dim=1)))
    assert_close(head([fine, middle, coarse]).logits, expected)
    assert [type(branch) for branch in head.pyramid.branches] == [ConvNormAct, SeparableConv, SeparableConv]


def test_without_a_fine_map():
    head = SeparableASPPHead(SeparableASPPHeadConfig(in_channels=[32], in_index=[-1], channels=16, dilations=[1, 2]))
    assert head.fine_conv is None and head.refinement[0].depthwise.conv.in_channels == 16
    assert head.eval()([torch.randn(1, 32, 4, 3)]).logits.shape[-2:] == (4, 3)


@pytest.mark.parametrize(
    "options", [{"in_index": [0, 1, 2]}, {"in_index": None}, {"in_index": None, "in_channels": [1] * 4}]
)
def test_more_maps_than_two_are_refused(options):
    with pytest.raises(SegZooError, match="one map for the pyramid and one fine map"):
        SeparableASPPHeadConfig(**options)


def test_a_fine_map_needs_channels():
    with pytest.raises(SegZooError, match="fine_channels=0"):
        SeparableASPPHeadConfig(fine_channels=0)

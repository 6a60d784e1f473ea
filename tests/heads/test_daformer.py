"""DAFormer's head and DeepLabV2's beside their formulas."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import DAFormerHead, DAFormerHeadConfig, DeepLabV2Head, DeepLabV2HeadConfig, ISAHead, ISAHeadConfig

SIZES = [(9, 7), (5, 4), (3, 2)]
align_corners = pytest.mark.parametrize("align", [False, True])


def built(**options):
    config = DAFormerHeadConfig(**{**DAFormerHeadConfig.tiny().to_diff_dict(), **options})
    head = settle(DAFormerHead(config)).eval().double()
    maps = [torch.randn(2, c, *size, dtype=torch.double) for c, size in zip([8, 12, 16], SIZES, strict=True)]
    return head, maps


def joined(head, maps):
    """The projected maps at the first one's size."""
    resized = [F.interpolate(x, size=SIZES[0], mode="bilinear", align_corners=head.config.align_corners) for x in maps]
    return torch.cat([project(x) for project, x in zip(head.projections, resized, strict=True)], 1)


@torch.no_grad()
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("pool", [True, False])
@align_corners
def test_fusion_by_a_pyramid(separable, pool, align):
    head, maps = built(separable=separable, image_pool=pool, projected_channels=[6, 8, 10], align_corners=align)
    x, pyramid = joined(head, maps), head.fusion
    assert x.shape[1] == 24 and hasattr(pyramid.branches[1], "depthwise") == separable
    found = [branch(x) for branch in pyramid.branches]
    if pool:
        found.insert(0, pyramid.image_pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *SIZES[0]))
    expected = head.classifier(pyramid.fusion([torch.cat(found, 1)]))
    assert_close(head(maps).logits, expected, 1e-10)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3])
@align_corners
def test_fusion_by_a_convolution(size, align):
    head, maps = built(fusion="conv", kernel_size=size, align_corners=align)
    fusion = head.fusion
    x = F.conv2d(joined(head, maps), fusion.conv.weight, fusion.conv.bias, padding=size // 2)
    assert_close(head(maps).logits, head.classifier(fusion.norm(x).relu()), 1e-10)


@torch.no_grad()
@pytest.mark.parametrize("joins", [True, False])
@align_corners
def test_fusion_by_attention(joins, align):
    options = {"attention_channels": 6, "attention_convs": 2, "attention_block": [2, 3]}
    head, maps = built(fusion="attention", attention_joins_input=joins, align_corners=align, **options)
    x = head.fusion.in_conv([joined(head, maps)])
    isa = ISAHead(ISAHeadConfig(in_channels=[8], channels=8, isa_channels=6, down_factor=[2, 3], num_labels=5))
    isa.in_conv, isa.far, isa.near = torch.nn.Identity(), head.fusion.far, head.fusion.near
    isa.out_conv = head.fusion.out_conv if joins else torch.nn.Identity()
    found = isa.features(x)
    assert_close(head(maps).logits, head.classifier(found if joins else found[:, :8]), 1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projected_channels": [8, 8]}, "one entry for each of 3 maps"),
        ({"kernel_size": 2}, "kernel_size=2"),
        ({"attention_block": [8]}, "a height and a width"),
        ({"attention_convs": 0}, "attention_convs=0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(SegZooError, match=message):
        built(**options)


@torch.no_grad()
def test_deeplabv2_sums_its_convolutions():
    head = settle(DeepLabV2Head(DeepLabV2HeadConfig.tiny())).eval().double()
    maps = [torch.randn(2, 16, 9, 7, dtype=torch.double)] * 2
    total = F.conv2d(maps[1], head.classifier.branches[0].weight, head.classifier.branches[0].bias)
    for branch, dilation in zip(list(head.classifier.branches)[1:], (2, 3), strict=True):
        total = total + F.conv2d(maps[1], branch.weight, branch.bias, padding=dilation, dilation=dilation)
    assert_close(head(maps).logits, total, 1e-12)


def test_deeplabv2_begins_small():
    torch.manual_seed(0)
    head = DeepLabV2Head(DeepLabV2HeadConfig(in_channels=[64], in_index=[0], num_labels=5))
    for branch in head.classifier.branches:
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.05) and not branch.bias.any()
    with pytest.raises(SegZooError, match="dilations is empty"):
        DeepLabV2HeadConfig(dilations=[])

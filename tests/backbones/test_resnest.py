"""What ResNeSt has beyond ResNet: branches, their attention, where the stride is."""

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn
from torch.nn import functional as F

from segzoo.backbones import ICNetBackbone, ICNetConfig, ResNeStBackbone, ResNeStConfig
from segzoo.backbones.resnest import VARIANTS, ResNeStBlock, SplitAttention
from segzoo.errors import SegZooError


@pytest.mark.parametrize(
    ("name", "stem", "millions"),
    [
        ("resnest50", 64, 25.4),
        pytest.param("resnest101_d8", 128, 46.2, marks=pytest.mark.slow),
        pytest.param("resnest200_d16", 128, 68.2, marks=pytest.mark.slow),
    ],
)
def test_variants(name, stem, millions):
    with torch.device("meta"):
        model = ResNeStBackbone(ResNeStConfig(**VARIANTS[name])).eval()
        maps = model(torch.empty(1, 3, 128, 192), output_hidden_states=True).hidden_states
    stride = int(name.rsplit("_d", 1)[1]) if "_d" in name else 32
    assert maps[0].shape[1] == stem and maps[-1].shape[1:] == (2048, 128 // stride, 192 // stride)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.2)


@torch.no_grad()
@pytest.mark.parametrize(("radix", "groups"), [(2, 1), (1, 2), (4, 2)])
@pytest.mark.parametrize("average", [True, False])
def test_attention_is_over_the_branches_of_each_channel(radix, groups, average):
    width = 32
    config = ResNeStConfig(radix=radix, reduction_factor=1, average_stride=average)
    attention = settle(SplitAttention(config, width, stride=2, dilation=2, groups=groups)).eval()
    x = torch.randn(2, width, 9, 11)
    options = {"stride": 1 if average else 2, "padding": 2, "dilation": 2, "groups": groups * radix}
    y = F.conv2d(x, attention.branches.conv.weight, **options)
    y = F.relu(attention.branches.norm(y)).reshape(2, radix, width, *y.shape[2:])
    squeeze, scores = attention.squeeze, attention.scores
    pooled = y.sum(1).mean((2, 3), keepdim=True)
    inside = F.relu(squeeze.norm(F.conv2d(pooled, squeeze.conv.weight, squeeze.conv.bias, groups=groups)))
    logits = F.conv2d(inside, scores.weight, scores.bias, groups=groups)[:, :, 0, 0]
    expected = 0
    for channel in range(width):  # of group g; its scores stand branch by branch inside the group
        share = width // groups
        group, place = divmod(channel, share)
        own = logits[:, [(group * radix + branch) * share + place for branch in range(radix)]]
        weights = own.sigmoid() if radix == 1 else own.softmax(dim=1)
        result = (weights[:, :, None, None] * y[:, :, channel]).sum(1)
        expected = result[:, None] if channel == 0 else torch.cat([expected, result[:, None]], dim=1)
    if average:  # borders count as zeros
        expected = F.conv2d(expected, torch.full((width, 1, 3, 3), 1 / 9), stride=2, padding=1, groups=width)
    assert attention.squeeze.conv.out_channels == max(width * radix, 32)
    assert_close(attention(x), expected)


def test_the_stride_is_where_the_options_say():
    block = ResNeStBackbone(ResNeStConfig.tiny()).stages[1][0]
    assert isinstance(block.conv2.pool, nn.AvgPool2d) and block.conv2.branches.conv.stride == (1, 1)
    config = ResNeStConfig.tiny()
    config.downsample_in_bottleneck = True  # which leaves none for the pool
    block = ResNeStBackbone(config).stages[1][0]
    assert block.conv1.conv.stride == (2, 2) and isinstance(block.conv2.pool, nn.Identity)


def test_inside_another_network_its_blocks_are_its_own():
    inner = ResNeStConfig(base_channels=8, stem_channels=8, groups=2, base_width=8)
    with torch.device("meta"):
        model = ICNetBackbone(ICNetConfig(resnet_config=inner, light_channels=4, pyramid_channels=8)).eval()
        assert isinstance(model.resnet.stages[0][0], ResNeStBlock)
        assert [x.shape[1] for x in model(torch.empty(1, 3, 128, 128)).feature_maps] == [64, 256, 256]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 18}, "ResNeSt has no depth 18; choose one of 50, 101, 152, 200"),
        ({"strides": [1, 2]}, "ResNeSt: strides"),
        ({"base_channels": 9}, "the 9 channels of stage 1, .* groups=1 of radix=2"),
        ({"groups": 3, "base_width": 4}, "attention's 32, do not divide into groups=3"),
        ({"radix": 0}, "must be 1 at least"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        ResNeStConfig(**options)

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.necks import JPUNeck, JPUNeckConfig

CHANNELS, SIZES = [3, 4, 5, 6], [(13, 18), (7, 9), (4, 5), (2, 3)]


@torch.no_grad()
@pytest.mark.parametrize(("first", "end"), [(0, None), (1, None), (1, 3), (2, 3)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_used_maps_come_back_untouched_with_the_fused_one_behind_them(first, end, align_corners):
    options = {"first_map": first, "end_map": end, "align_corners": align_corners}
    neck = settle(JPUNeck(JPUNeckConfig(in_channels=CHANNELS, channels=7, dilations=[1, 3], **options))).eval()
    maps = [torch.randn(2, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]
    *untouched, fused = neck(maps)
    used = maps[first:end]
    assert len(untouched) == len(used) - 1 and all(a is b for a, b in zip(untouched, used[:-1], strict=True))
    assert neck.out_channels == [*CHANNELS[first:end][:-1], 14]
    size = used[0].shape[2:]
    projected = [conv(x) for conv, x in zip(neck.projections, used, strict=True)]
    x = torch.cat([F.interpolate(y, size, mode="bilinear", align_corners=align_corners) for y in projected], dim=1)
    parts = []
    for conv, dilation in zip(neck.dilated_convs, (1, 3), strict=True):
        depthwise, pointwise = conv.depthwise, conv.pointwise
        y = F.conv2d(x, depthwise.conv.weight, padding=dilation, dilation=dilation, groups=7 * len(used))
        parts.append(F.relu(pointwise.norm(F.conv2d(depthwise.norm(y), pointwise.conv.weight))))
    assert_close(fused, torch.cat(parts, dim=1))
    assert not any(isinstance(conv.depthwise.activation, nn.ReLU) for conv in neck.dilated_convs)


def test_what_does_not_fit_is_named():
    with pytest.raises(SegZooError, match=r"JPUNeck was built for .*\[8, 16, 24\] channels but was given \[8, 8\]"):
        JPUNeck(JPUNeckConfig.tiny())([torch.randn(1, 8, 4, 4)] * 2)
    with pytest.raises(SegZooError, match="dilations is empty"):
        JPUNeckConfig(dilations=[])
    with pytest.raises(SegZooError, match="JPUNeckConfig: first_map=2 and end_map=2 choose no map of 3"):
        JPUNeckConfig(in_channels=[8, 16, 24], first_map=2, end_map=2)

"""SETR's neck: the sums from the deepest map on, and maps that do not fit."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.necks import MLANeck, MLANeckConfig


@torch.no_grad()
def test_maps_are_summed_from_the_deepest_on():
    neck = settle(MLANeck(MLANeckConfig(in_channels=[6, 6, 6], channels=4, layer_norm_eps=0.5))).double()
    maps = [torch.randn(2, 6, 5, 7, dtype=torch.double) for _ in range(3)]
    projected = []
    for x, norm, project in zip(maps, neck.norms, neck.projections, strict=True):
        x = F.layer_norm(x.permute(0, 2, 3, 1), (6,), norm.weight, norm.bias, 0.5).permute(0, 3, 1, 2)
        projected.append(F.conv2d(x, project.conv.weight, project.conv.bias))
    first, second, third = projected
    for found, conv, x in zip(neck(maps), neck.convs, (third, third + second, third + second + first), strict=True):
        assert_close(found, F.conv2d(x, conv.conv.weight, conv.conv.bias, padding=1), 1e-12)


def test_what_does_not_fit_is_named():
    neck = MLANeck(MLANeckConfig.tiny())
    for maps in ([torch.randn(1, 16, 4, 4)] * 3, [torch.randn(1, 16, 4 + i, 4) for i in range(4)]):
        with pytest.raises(SegZooError, match="4 maps of one size"):
            neck(maps)

import pytest
import torch
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.necks import MultiLevelNeck, MultiLevelNeckConfig


@torch.no_grad()
def test_maps_are_resized_by_the_factor_between_two_convolutions():
    neck = MultiLevelNeck(MultiLevelNeckConfig(in_channels=[3, 4, 5, 6], channels=7)).double()
    maps = [torch.randn(2, channels, 5, 7, dtype=torch.double) for channels in neck.config.in_channels]
    state = neck.state_dict()
    assert {name.split(".")[2] for name in state} == {"conv"}, "neither norms nor activations have weights"
    for i, (found, x, scale) in enumerate(zip(neck(maps), maps, (4, 2, 1, 0.5), strict=True)):
        lateral, conv = ([state[f"{part}.{i}.conv.{n}"] for n in ("weight", "bias")] for part in ("laterals", "convs"))
        x = F.interpolate(F.conv2d(x, *lateral), scale_factor=scale, mode="bilinear", align_corners=False)
        assert torch.allclose(found, F.conv2d(x, *conv, padding=1))
    assert neck.out_channels == [7] * 4 and found.shape == (2, 7, 2, 3)


def test_one_map_feeds_all_scales():
    neck = MultiLevelNeck(MultiLevelNeckConfig(in_channels=[6], scales=[0.5, 3.0], norm="batch_norm"))
    assert [tuple(x.shape) for x in neck([torch.randn(2, 6, 4, 5)])] == [(2, 6, 2, 2), (2, 6, 12, 15)]
    assert "laterals.0.norm.weight" in neck.state_dict() and neck.laterals[0].conv.bias is None


def test_what_does_not_fit_is_named():
    neck = MultiLevelNeck(MultiLevelNeckConfig(in_channels=[6]))
    with pytest.raises(SegZooError, match="built for 1 maps but was given 2"):
        neck([torch.randn(1, 6, 4, 4)] * 2)
    with pytest.raises(SegZooError, match=r"map of \(1, 4\) cannot be made 0.5 times"):
        neck([torch.randn(1, 6, 1, 4)])
    with pytest.raises(SegZooError, match="one map or 4, but"):
        MultiLevelNeckConfig(in_channels=[6, 6])
    with pytest.raises(SegZooError, match="must be above 0"):
        MultiLevelNeckConfig(scales=[1.0, 0.0])

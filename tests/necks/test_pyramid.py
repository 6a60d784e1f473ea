import pytest
import torch
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.necks import PyramidNeck, PyramidNeckConfig


def test_one_map_feeds_all_scales():
    neck = PyramidNeck(PyramidNeckConfig(in_channels=[6])).eval()
    x = torch.randn(2, 6, 5, 8)
    finest, fine, same, coarse = neck([x])
    assert finest.shape[-2:] == (20, 32) and fine.shape[-2:] == (10, 16)
    assert torch.equal(same, x) and torch.equal(coarse, F.max_pool2d(x, 2))


def test_wrong_maps_are_named():
    neck = PyramidNeck(PyramidNeckConfig(in_channels=[6]))
    with pytest.raises(SegZooError, match="built for 1 maps but was given 2"):
        neck([torch.randn(1, 6, 4, 4)] * 2)
    with pytest.raises(SegZooError, match="at least two patches"):
        neck([torch.randn(1, 6, 1, 4)])
    with pytest.raises(SegZooError, match="one map or four"):
        PyramidNeckConfig(in_channels=[6, 6])

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.necks import ICNeck, ICNeckConfig


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_each_fusion_gives_its_coarse_part_and_the_last_one_the_sum(align_corners):
    neck = settle(ICNeck(ICNeckConfig(in_channels=[3, 4, 5], channels=6, align_corners=align_corners))).eval()
    maps = full, half, quarter = [torch.randn(2, 3 + i, 13 - 4 * i, 17 - 5 * i) for i in range(3)]
    found = neck(maps)
    total = quarter
    for i, (fusion, fine) in enumerate(zip(neck.fusions, (half, full), strict=True)):
        part = fusion.coarse(F.interpolate(total, fine.shape[2:], mode="bilinear", align_corners=align_corners))
        assert fusion.coarse.conv.dilation == (2, 2)
        assert_close(found[i], part)
        total = F.relu(part + fusion.fine(fine))
    assert_close(found[2], total)
    assert neck.out_channels == [6, 6, 6]


def test_what_does_not_fit_is_named():
    with pytest.raises(SegZooError, match="three maps, from fine to coarse, but"):
        ICNeckConfig(in_channels=[6, 6])
    with pytest.raises(SegZooError, match=r"\[8, 16, 24\] channels but was given \[8, 8\]"):
        ICNeck(ICNeckConfig.tiny())([torch.randn(1, 8, 4, 4)] * 2)

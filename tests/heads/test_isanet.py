"""ISANet's head: which pixels attend to each other, and where the map is padded."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import ISAHead, ISAHeadConfig


def groups(attention, x, numbers):
    """The attention within the pixels that have the same number, one group after another; x (B, C, H, W)."""
    found = torch.empty_like(x)
    for number in numbers.unique():
        at = numbers == number
        found[:, :, at] = attention(x[:, :, at].unsqueeze(-1)).squeeze(-1)
    return found


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 6), (7, 8), (1, 2)])
def test_far_pixels_then_neighbours(size):
    head = settle(ISAHead(ISAHeadConfig.tiny())).eval().double()  # blocks of 2 x 3 pixels
    x = torch.randn(2, 32, *size).double()
    pixels = head.in_conv(x)
    (height, width), (rows, columns) = size, (2, 3)
    more = -height % rows, -width % columns
    top, left = more[0] // 2, more[1] // 2  # of an odd number of rows or columns the larger half comes after
    padded = F.pad(pixels, (left, more[1] - left, top, more[0] - top))
    i, j = torch.meshgrid(*map(torch.arange, padded.shape[-2:]), indexing="ij")
    found = groups(head.far, padded, (i % rows) * 100 + j % columns)
    found = groups(head.near, found, (i // rows) * 100 + j // columns)
    found = found[:, :, top : top + height, left : left + width]
    expected = head.classifier(head.out_conv(torch.cat([found, pixels], dim=1)))
    assert_close(head([x, x, x]).logits, expected, 1e-12)


def test_down_factor_is_a_pair():
    with pytest.raises(SegZooError, match=r"down_factor=\[8\] must be a height and a width"):
        ISAHeadConfig(down_factor=[8])

import pytest
import torch
from support.contract import settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads.fpn import FPNHead, FPNHeadConfig


def resized(x, size, align_corners):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("strides", "steps"), [(None, [1, 1, 2, 3]), ([4, 8, 16, 32], [1, 1, 2, 3]), ([4, 4, 6, 20], [1, 1, 1, 2])]
)
def test_it_is_the_formula(strides, steps, align_corners):
    options = {"in_channels": [5, 6, 7, 8], "channels": 4, "num_labels": 3}
    head = FPNHead(FPNHeadConfig(strides=strides, align_corners=align_corners, **options)).double()
    settle(head).eval()
    maps = [
        torch.randn(2, 5 + i, *size, dtype=torch.double) for i, size in enumerate([(11, 14), (6, 7), (3, 4), (2, 2)])
    ]
    total = 0
    for i, x in enumerate(maps):
        assert len(head.branches[i]) == steps[i]
        for conv in head.branches[i]:
            x = conv(x)
            if i and not (strides and strides[i] == strides[0]):
                x = resized(x, (2 * x.shape[2], 2 * x.shape[3]), align_corners)
        total = total + resized(x, maps[0].shape[2:], align_corners)
    torch.testing.assert_close(head(maps).logits, head.classifier(total), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": [8, 4]}, "begin with the smallest"),
        ({"strides": []}, "begin with the smallest"),
        ({"strides": [4, 8], "in_channels": [3, 3, 3]}, "2 for 3 maps"),
        ({"strides": [4, 8], "in_index": [0]}, "2 for 1 maps"),
    ],
)
def test_wrong_strides_are_named(options, message):
    with pytest.raises(SegZooError, match=message):
        FPNHeadConfig(**options)

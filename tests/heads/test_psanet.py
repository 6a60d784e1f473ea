"""PSANet's head: the mask by its definition, sizes of maps, options that no released model has."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import PSAHead, PSAHeadConfig, psanet


def built(**options):
    config = PSAHeadConfig.tiny()
    for name, value in options.items():
        setattr(config, name, value)
    config.check()
    return settle(PSAHead(config)).eval().double()


def weights_of(predicted, kind, mask):
    """(B, H * W, H * W), first the pixel that is read, then the one that reads: the original's loop over the mask."""
    batch, _, height, width = predicted.shape
    weights = predicted.new_zeros(batch, height * width, height * width)
    for i in range(height):
        for j in range(width):
            for k in range(mask[0]):
                for m in range(mask[1]):
                    y, x = i + k - (mask[0] - 1) // 2, j + m - (mask[1] - 1) // 2
                    if 0 <= y < height and 0 <= x < width:
                        own, other = i * width + j, y * width + x
                        to = (other, own) if kind == "collect" else (own, other)
                        weights[:, to[0], to[1]] = predicted[:, k * mask[1] + m, i, j]
    return weights


def by_hand(head, x):
    config = head.config
    height, width = x.shape[-2:]
    aligned, size = config.align_corners, (height, width)
    if config.shrink_factor != 1:
        aligned = bool(height % config.shrink_factor and width % config.shrink_factor)
        size = tuple(-(-s // config.shrink_factor) if aligned else s // config.shrink_factor for s in size)
    found = []
    for kind, direction in head.directions.items():
        small = F.interpolate(direction.reduction(x), size, mode="bilinear", align_corners=aligned)
        predicted = direction.scores(direction.conv(small))
        if not config.compact:
            weights = weights_of(predicted, kind, config.mask_size)
        else:
            transposed = kind == ("distribute" if config.psa_type == "bi-direction" else "collect")
            weights = predicted.flatten(2).mT if transposed else predicted.flatten(2)
        if config.psa_softmax:
            weights = weights.softmax(1)
        factor = config.normalization_factor or config.mask_size[0] * config.mask_size[1]
        found.append((small.flatten(2) @ weights).unflatten(2, size) / factor)
    out = head.projection(torch.cat(found, dim=1))
    assert out.shape[-2:] == (size[0] + 2, size[1] + 2)
    out = F.interpolate(out, (height, width), mode="bilinear", align_corners=aligned)
    return head.classifier(head.fusion(torch.cat([x, out], dim=1)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((7, 9), {}),  # both odd
        ((8, 10), {}),
        ((7, 10), {}),  # one odd side
        ((8, 9), {"align_corners": True}),
        ((7, 9), {"mask_size": [9, 11]}),  # reaches everything
        ((7, 8), {"shrink_factor": 3}),
        ((6, 8), {"shrink_factor": 3}),
        ((4, 5), {"shrink_factor": 1}),
        ((4, 5), {"shrink_factor": 1, "align_corners": True}),
        ((7, 9), {"psa_type": "collect", "psa_softmax": False}),
        ((7, 9), {"psa_type": "distribute", "normalization_factor": None}),
        ((6, 8), {"compact": True}),
        ((6, 8), {"compact": True, "psa_type": "collect"}),
        ((6, 8), {"compact": True, "psa_type": "distribute", "normalization_factor": 2.0}),
    ],
)
def test_by_the_definition(size, options):
    head, x = built(**options), torch.randn(2, 32, *size).double()
    assert_close(head([x, x, x]).logits, by_hand(head, x), 1e-12)


def test_the_index_is_made_once_for_each_size():
    head, sizes = built(), [(14, 18), (14, 18), (22, 18)]
    psanet._kept_offsets.cache_clear()
    with torch.inference_mode():
        for size in sizes:
            head([torch.randn(1, 32, *size).double()] * 3)
    assert psanet._kept_offsets.cache_info().misses == 3  # rows of 7 and of 11 pixels, and columns of 9
    x = torch.randn(1, 32, 14, 18, dtype=torch.float64, requires_grad=True)
    head([x, x, x]).logits.sum().backward()  # with what was made in inference mode
    assert x.grad.any() and psanet._kept_offsets.cache_info().misses == 3


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize(("length", "resized"), [(9, 5), (8, 4), (6, 9), (4, 6), (2, 1), (3, 5)])
def test_products_that_resize(length, resized, aligned):
    x = torch.randn(1, 2, length, 4).double()
    found = psanet._line(length, resized, aligned, x) @ x
    assert_close(found, F.interpolate(x, (resized, 4), mode="bilinear", align_corners=bool(aligned)), 1e-12)


def test_initial_values():
    scores = PSAHead(PSAHeadConfig.tiny()).directions["collect"].scores
    assert scores.bias is None and 0.2 < scores.weight.abs().max() <= 16**-0.5


@pytest.mark.parametrize(
    ("options", "size", "named"),
    [({"compact": True}, (8, 8), "shrink to 12 pixels.*4x4"), ({}, (1, 2), "one of 1x2 is too small")],
)
def test_maps_that_do_not_fit(options, size, named):
    with pytest.raises(SegZooError, match=named):
        built(**options)([torch.randn(1, 32, *size).double()] * 3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mask_size": [97]}, "must be a height and a width"),
        ({"mask_size": [60_000, 60_000]}, "pixels at most|is out of range"),
        ({"normalization_factor": 0.0}, "normalization_factor=0"),
        ({"shrink_factor": 0}, "shrink_factor=0 must be 1 at least"),
    ],
)
def test_options_that_do_not_fit(options, named):
    with pytest.raises(SegZooError, match=named):
        PSAHeadConfig(**options)

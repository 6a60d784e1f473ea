"""OCRNet's head beside what the paper says."""

import pytest
import torch
from support.contract import assert_close, settle

from segzoo.errors import SegZooError
from segzoo.heads import HeadOutput, OCRHead, OCRHeadConfig


@torch.no_grad()
def test_pixels_attend_to_the_means_of_regions():
    head = settle(OCRHead(OCRHeadConfig.tiny())).eval().double()
    x, logits = torch.randn(2, 32, 6, 5).double(), torch.randn(2, 3, 6, 5).double()  # any number of regions
    pixels = head.pixel_conv(x)
    shares = logits.flatten(2).softmax(-1).unflatten(2, (6, 5))
    regions = torch.einsum("bkhw,bchw->bck", shares, pixels)[..., None]
    query, key, value = head.query(pixels), head.key(regions)[..., 0], head.value(regions)[..., 0]
    attention = (torch.einsum("bchw,bck->bkhw", query, key) * head.config.ocr_channels**-0.5).softmax(1)
    context = head.context_conv(torch.einsum("bkhw,bck->bchw", attention, value))
    expected = head.classifier(head.fusion(torch.cat([context, pixels], dim=1)))
    assert_close(head([x, x, x], previous=HeadOutput(logits=logits)).logits, expected, 1e-12)


def test_nothing_before_it():
    head, x = OCRHead(OCRHeadConfig.tiny()), torch.randn(1, 32, 6, 5)
    with pytest.raises(SegZooError, match="previous=HeadOutput"):
        head([x, x, x])


def test_logits_of_another_resolution():
    head, x = OCRHead(OCRHeadConfig.tiny()), torch.randn(1, 32, 6, 5)
    with pytest.raises(SegZooError, match=r"\(6, 5\) pixels.*\(3, 5\)"):
        head([x, x, x], previous=HeadOutput(logits=torch.randn(1, 5, 3, 5)))

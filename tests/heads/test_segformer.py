"""SegFormer's head: the fusion before the resize gives the numbers of the fusion after it."""

import pytest
import torch
from support.contract import settle
from torch import nn

from segzoo.heads import SegFormerHead, SegFormerHeadConfig
from segzoo.layers import concatenate


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_are_fused_before_they_are_resized(linear, align_corners):
    torch.manual_seed(0)
    config = SegFormerHeadConfig.tiny()
    config.linear_projections, config.align_corners = linear, align_corners
    head = settle(SegFormerHead(config)).double().eval()
    maps = [x.double() for x in config.tiny_inputs(2, 19, 27)["feature_maps"]]
    projected = [project(x) for project, x in zip(head.projections, maps, strict=True)]
    together = head.fusion_conv.conv(concatenate(projected, align_corners))
    expected = head.classifier(head.fusion_conv.activation(head.fusion_conv.norm(together)))
    assert torch.allclose(head(maps).logits, expected, atol=1e-12)
    assert (head.projections[0].conv.bias is not None) is linear


def test_layers_that_an_adapter_replaced_are_called():
    class Doubled(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 2 * self.layer(x)

    config = SegFormerHeadConfig.tiny()
    config.linear_projections = True
    head = settle(SegFormerHead(config)).eval()
    maps = config.tiny_inputs()["feature_maps"]
    before = head(maps).logits
    head.projections[1].conv = Doubled(head.projections[1].conv)
    changed = head(maps).logits
    assert not torch.allclose(changed, before)
    head.projections[1].conv = head.projections[1].conv.layer
    head.projections[1].conv.weight.data *= 2
    head.projections[1].conv.bias.data *= 2
    assert torch.allclose(head(maps).logits, changed, atol=1e-5)

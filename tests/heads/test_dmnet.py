"""DMNet's filters, picture by picture."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.heads import DMHead, DMHeadConfig
from segzoo.heads.dmnet import filter_maps


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7])
def test_each_map_has_its_own_filter(side):
    x, filters = torch.randn(2, 3, 6, 5).double(), torch.randn(2, 3, side, side).double()
    x = x.to(memory_format=torch.channels_last)
    above = side // 2  # of even sides the odd pixel is above and to the left
    padded = F.pad(x, (above, side - 1 - above, above, side - 1 - above))
    expected = [[F.conv2d(padded[b, c][None, None], filters[b, c][None, None]) for c in range(3)] for b in range(2)]
    expected = torch.cat([torch.cat(row, dim=1) for row in expected])
    assert_close(filter_maps(x, filters), expected, 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("fusion", [False, True])
def test_filters_follow_from_the_pooled_map(fusion):
    head = settle(DMHead(DMHeadConfig(in_channels=[32], channels=16, filter_sizes=[1, 3], fusion=fusion)))
    head.eval().double()
    x = torch.randn(2, 32, 7, 5).double()
    joined = [x]
    for context, side in zip(head.contexts, (1, 3), strict=True):
        filters = F.conv2d(
            F.adaptive_avg_pool2d(x, side), context.filter_conv.weight, context.filter_conv.bias
        )  # neither norm nor activation
        found = F.relu(context.norm(filter_maps(context.reduction(x), filters)))
        joined.append(context.fusion(found))
        assert isinstance(context.fusion, torch.nn.Identity) != fusion
    expected = head.classifier(head.context_conv(torch.cat(joined, dim=1)))
    assert_close(head([x]).logits, expected, 1e-12)


@torch.no_grad()
def test_an_exported_graph_takes_any_batch_and_size():
    head = settle(DMHead(DMHeadConfig.tiny())).eval()
    dims = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    maps = head.config.tiny_inputs(3, 80, 112)["feature_maps"]
    program = torch.export.export(head, (maps,), dynamic_shapes=([None, None, dims],), strict=False).module()
    other = [*maps[:2], torch.randn(2, 32, 17, 13)]
    assert_close(program(other)["logits"], head(other).logits)

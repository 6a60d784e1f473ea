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


class FilterMaps(torch.nn.Module):
    """The function as a module, for exports."""

    def forward(self, x, filters):
        return filter_maps(x, filters)


def test_an_exported_graph_takes_any_batch_and_size():
    x, filters = torch.randn(2, 3, 6, 5), torch.randn(2, 3, 2, 2)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(FilterMaps(), (x, filters), dynamic_shapes=(free, {0: torch.export.Dim.DYNAMIC}))
    x, filters = torch.randn(3, 3, 7, 9), torch.randn(3, 3, 2, 2)
    assert_close(program.module()(x, filters), filter_maps(x, filters))

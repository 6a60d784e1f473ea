"""APCNet's head beside its formula, written with sums over cells."""

import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.heads import APCHead, APCHeadConfig


@torch.no_grad()
def test_pixels_weigh_the_cells_of_every_grid():
    head = settle(APCHead(APCHeadConfig.tiny())).eval().double()
    x = torch.randn(2, 32, 7, 5).double()
    joined = [x]
    for context, side in zip(head.contexts, head.config.pool_scales, strict=True):
        cells = context.cell_conv(F.adaptive_avg_pool2d(x, side))
        reduced = context.reduction(x)
        picture = context.global_conv(reduced.mean((2, 3), keepdim=True)).expand_as(reduced)
        weights = context.affinity(reduced + picture).sigmoid()
        found = torch.zeros_like(reduced)
        for cell in range(side**2):  # row by row
            found += weights[:, cell, None] * cells[:, :, cell // side, cell % side, None, None]
        joined.append(context.fusion(F.relu(context.residual_conv(found) + reduced)))
    expected = head.classifier(head.context_conv(torch.cat(joined, dim=1)))
    assert_close(head([x, x, x]).logits, expected, 1e-12)


def test_without_fusion_there_is_a_convolution_less_a_scale():
    options = APCHeadConfig.tiny().to_diff_dict() | {"fusion": False}
    options.pop("model_type")
    names = {name for name, _ in APCHead(APCHeadConfig(**options)).named_parameters()}
    assert {name for name, _ in APCHead(APCHeadConfig.tiny()).named_parameters()} - names == {
        f"contexts.{i}.fusion.{kind}" for i in range(3) for kind in ("conv.weight", "norm.weight", "norm.bias")
    }

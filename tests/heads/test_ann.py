"""ANN's head: what attends to what."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import ANNHead, ANNHeadConfig
from segzoo.layers import ConvNormAct, attend


def pooled(x, scales=(1, 2)):
    return torch.cat([F.adaptive_avg_pool2d(x, side).flatten(2) for side in scales], dim=2)


@torch.no_grad()
@pytest.mark.parametrize("stages", [1, 2])
def test_pixels_of_the_second_map_attend_to_cells_of_the_first(stages):
    config = ANNHeadConfig.tiny()
    config.num_stages = stages
    head = settle(ANNHead(config)).eval().double()
    low, high = torch.randn(2, 16, 7, 9).double(), torch.randn(2, 32, 4, 5).double()

    def context(block, x, source):
        return sum(
            a.output(
                attend(a.query(x), pooled((a.query if a.key is None else a.key)(source)), pooled(a.value(source)))
            )
            for a in block.stages
        )

    x = torch.cat([context(head.across, high, low), high], dim=1)
    assert isinstance(head.across.fusion.activation, torch.nn.Identity)
    x = head.conv(head.across.fusion.norm(head.across.fusion.conv(x)))
    assert all(stage.key is None for stage in head.within.stages)  # one projection for queries and keys
    x = ConvNormAct.forward(head.within.fusion, torch.cat([context(head.within, x, x), x], dim=1))
    assert_close(head([low, low, high]).logits, head.classifier(x), 1e-12)


def test_the_contexts_begin_with_nothing_and_channels_are_dropped_between_the_blocks():
    head = ANNHead(ANNHeadConfig.tiny())
    assert not any(stage.output.weight.any() for block in (head.across, head.within) for stage in block.stages)
    dropped = []
    head.dropout.register_forward_hook(lambda module, args, output: dropped.append(output.shape[1]))
    head(**head.config.tiny_inputs())
    assert dropped == [32, 16]  # the second map's channels, and the head's before the classifier


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"in_index": [2]}, "reads two maps"),
        ({"in_index": None, "in_channels": [8] * 3}, "reads two maps"),
        ({"key_pool_scales": []}, "must name a grid"),
        ({"num_stages": 0}, "num_stages=0 be 1 at least"),
    ],
)
def test_what_does_not_fit(options, named):
    with pytest.raises(SegZooError, match=named):
        ANNHeadConfig(**options)

"""MSCAN: a block beside its formula, what is not an option, and how weights begin."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.backbones import MSCANBackbone, MSCANConfig
from segzoo.backbones.mscan import VARIANTS
from segzoo.errors import SegZooError


@torch.no_grad()
def test_a_block_is_the_formula():
    model = settle(MSCANBackbone(MSCANConfig.tiny())).eval().double()
    block = model.stages[1].blocks[0]
    x = torch.randn(2, 12, 9, 7, dtype=torch.double)
    normed, gate = block.norm1(x), block.attention.gate
    inner = F.gelu(block.attention.proj1(normed))
    square = F.conv2d(inner, gate.square.weight, gate.square.bias, padding=2, groups=12)
    total = square
    for length, (across, down) in zip((7, 11, 21), gate.strips, strict=True):
        found = F.conv2d(square, across.weight, across.bias, padding=(0, length // 2), groups=12)
        total = total + F.conv2d(found, down.weight, down.bias, padding=(length // 2, 0), groups=12)
    attention = block.attention.proj2(gate.mix(total) * inner) + normed
    y = x + block.scale1.view(1, -1, 1, 1) * attention
    hidden = block.mlp.fc1(block.norm2(y))
    hidden = F.gelu(
        F.conv2d(hidden, block.mlp.depthwise_conv.weight, block.mlp.depthwise_conv.bias, padding=1, groups=24)
    )
    assert_close(block(x), y + block.scale2.view(1, -1, 1, 1) * block.mlp.fc2(hidden), 1e-12)


def test_norms_of_the_maps_keep_their_epsilon():
    config = MSCANConfig.tiny()
    config.norm_eps = 1e-3
    model = MSCANBackbone(config)
    assert [stage.norm.eps for stage in model.stages] == [1e-5] * 4
    assert model.stages[0].blocks[0].norm1.eps == model.stages[2].embedding[0].norm.eps == 1e-3


def test_weights_begin_as_the_originals():
    torch.manual_seed(0)
    model = MSCANBackbone(MSCANConfig(channels=[64, 64], depths=[1, 1], mlp_ratios=[4, 4]))
    block = model.stages[0].blocks[0]
    assert block.scale1.eq(0.01).all() and block.scale2.eq(0.01).all()
    assert block.attention.gate.square.weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.1)
    assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.1)
    assert not block.mlp.fc1.bias.any()


def test_parameters_of_the_published_sizes():
    with torch.device("meta"):
        counts = {name: MSCANBackbone(MSCANConfig(**options)).num_parameters() for name, options in VARIANTS.items()}
    assert counts == {"mscan_t": 3_903_584, "mscan_s": 13_450_176, "mscan_b": 26_277_824, "mscan_l": 44_636_864}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [1, 1]}, "one entry for each"),
        ({"channels": [9, 12, 16, 24]}, "odd width"),
        ({"kernel_sizes": [5, 6]}, "odd numbers"),
        ({"kernel_sizes": []}, "odd numbers"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(SegZooError, match=message):
        MSCANConfig(**options)

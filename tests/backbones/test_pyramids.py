"""PoolFormer, VAN and PVT: what parity records of whole models do not show."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo import AutoBackbone
from segzoo.auto import backbone_variants
from segzoo.backbones import PoolFormerConfig, PVTConfig, VANConfig
from segzoo.errors import SegZooError

SMALL = {"channels": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


@torch.no_grad()
def test_positions_of_pvt():
    """Resized, but taken in their order where the first grid has as many patches in another shape."""
    stage = settle(AutoBackbone.from_config(PVTConfig.tiny())).eval().stages[0]
    learned = stage.position_embedding
    assert learned.shape == (1, 256, 8)
    assert torch.equal(stage.positions((8, 32)), learned) and torch.equal(stage.positions((16, 16)), learned)
    resized = F.interpolate(learned.unflatten(1, (16, 16)).permute(0, 3, 1, 2), (5, 7), mode="bilinear")
    assert_close(stage.positions((5, 7)), resized.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_the_last_positions_of_pvt_begin_with_a_tokens():
    model = settle(AutoBackbone.from_config(PVTConfig.tiny())).eval()
    last, x = model.stages[-1], torch.randn(1, 3, 64, 64)
    assert last.position_embedding.shape == (1, 5, 16)
    before = model(x).feature_maps[-1]
    last.position_embedding[:, 0] += 1
    assert torch.equal(model(x).feature_maps[-1], before)
    last.position_embedding[:, 1] += 1
    assert not torch.equal(model(x).feature_maps[-1], before)


@torch.no_grad()
def test_poolformers_neighbourhoods_end_at_the_border():
    block = settle(AutoBackbone.from_config(PoolFormerConfig(**SMALL, layer_scale=None))).eval().stages[0][0]
    x = torch.randn(1, 8, 5, 6)
    norm = block.norm1(x)
    ones = torch.ones(1, 1, 3, 3)
    sums = F.conv2d(norm.transpose(0, 1), ones, padding=1).transpose(0, 1)
    counts = F.conv2d(torch.ones(1, 1, 5, 6), ones, padding=1)
    mixed = x + sums / counts - norm
    assert_close(block(x), mixed + block.fc2(F.gelu(block.fc1(block.norm2(mixed)))))
    assert block.scale1 is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("poolformer_s12", 11.4e6),
        ("poolformer_m48", 72.8e6),
        ("van_b0", 3.85e6),
        ("van_b3", 44.2e6),
        ("pvt_tiny", 12.7e6),
        ("pvt_large", 60.9e6),
    ],
)
def test_sizes_of_variants(name, parameters):
    """As their papers say, without the classifier."""
    with torch.device("meta"):
        model = AutoBackbone.from_config(backbone_variants()[name].variant_config(name))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PoolFormerConfig(pool_size=2), "pool_size=2 must be odd"),
        (lambda: PoolFormerConfig(depths=[1, 1]), "depths=.* needs one entry for each stage"),
        (lambda: VANConfig(depths=[1, 1]), "depths=.* needs one entry for each stage"),
        (lambda: PVTConfig(num_heads=[1, 2, 3, 8]), "do not divide into num_heads"),
        (lambda: PVTConfig(image_size=100), "does not divide into patches"),
        (lambda: PVTConfig(depths=[1, 1]), "depths=.* needs one entry for each stage"),
    ],
)
def test_options_that_do_not_fit(make, words):
    with pytest.raises(SegZooError, match=words):
        make()


def test_images_that_are_too_small_for_the_coarser_grid():
    with pytest.raises(SegZooError, match="too small: a stage has a grid of 4x4"):
        AutoBackbone.from_config(PVTConfig.tiny())(torch.randn(1, 3, 16, 16))

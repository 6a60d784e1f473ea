"""What MiT has beyond the contract: variants, attention to a coarser grid, sizes that do not divide."""

import pytest
import torch
from torch.nn import functional as F

from segzoo.backbones import MiTBackbone, MiTConfig
from segzoo.backbones.mit import VARIANTS
from segzoo.errors import SegZooError
from segzoo.layers import SpatialReductionAttention
from segzoo.training.layer_depths import layer_depths

# Counted in the originals' state dicts.
PARAMETERS = {"mit_b0": 3_319_392, "mit_b2": 24_196_288}


@pytest.mark.parametrize("name", PARAMETERS)
def test_variants(name):
    config = MiTConfig(**VARIANTS[name])
    with torch.device("meta"):
        model = MiTBackbone(config)
        maps = model(torch.empty(1, 3, 96, 160)).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [
        (width, 24 // 2**i, 40 // 2**i) for i, width in enumerate(config.channels)
    ]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    depths, count = layer_depths(model)
    assert count == 1 + sum(config.depths) and depths["stages.1.blocks.0.norm1.weight"] == 1 + config.depths[0]


@pytest.mark.parametrize("grid", [(8, 12), (9, 13)])
def test_attention_to_a_coarser_grid(grid):
    """Against one matrix product after another; rows and columns that are left over belong to no patch."""
    torch.manual_seed(0)
    layer = SpatialReductionAttention(MiTConfig.tiny(), 8, 2, reduction=4, norm_eps=1e-5).double()
    x = torch.randn(2, grid[0] * grid[1], 8, dtype=torch.float64)
    image = x.transpose(1, 2).unflatten(2, grid)[..., : grid[0] // 4 * 4, : grid[1] // 4 * 4]
    patches = F.unfold(image, 4, stride=4)
    coarse = (layer.reduction.weight.flatten(1) @ patches).transpose(1, 2) + layer.reduction.bias
    query, (key, value) = layer.q(x), layer.kv(layer.norm(coarse)).chunk(2, dim=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = (query[..., part] @ key[..., part].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ value[..., part])
    assert torch.allclose(layer(x, grid), layer.proj(torch.cat(heads, dim=-1)), atol=1e-12)


@pytest.mark.parametrize("grid", [(8, 12), (2, 5)])
def test_linear_attention_reads_averages(grid):
    """PVT v2's, of which the cells overlap in small grids."""
    torch.manual_seed(0)
    config = MiTConfig(**MiTConfig.tiny().to_diff_dict() | {"pooled_grid": 3})
    block = MiTBackbone(config).double().eval().stages[3].blocks[0]
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, grid[0] * grid[1], 16, dtype=torch.float64)
    layer, cells = block.attention, [[(i * side // 3, -(-(i + 1) * side // 3)) for i in range(3)] for side in grid]
    image = x.unflatten(1, grid)
    averages = torch.stack([image[:, a:b, c:d].mean((1, 2)) for a, b in cells[0] for c, d in cells[1]], dim=1)
    assert layer.reduction.weight.shape == (16, 16, 1, 1)
    coarse = F.gelu(layer.norm(averages @ layer.reduction.weight[:, :, 0, 0].T + layer.reduction.bias))
    query, (key, value) = layer.q(x), layer.kv(coarse).chunk(2, dim=-1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        weights = (query[..., part] @ key[..., part].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append(weights @ value[..., part])
    assert torch.allclose(layer(x, grid), layer.proj(torch.cat(heads, dim=-1)), atol=1e-12)
    hidden = block.mlp.fc1(x).relu().transpose(1, 2).unflatten(2, grid)
    expected = block.mlp.fc2(F.gelu(block.mlp.depthwise_conv(hidden)).flatten(2).transpose(1, 2))
    assert torch.allclose(block.mlp(x, grid), expected, atol=1e-12)


def test_maps_are_channels_last():
    model = MiTBackbone(MiTConfig.tiny()).eval()
    with torch.no_grad():
        for found in model(torch.randn(2, 3, 64, 96)).feature_maps:
            assert found.is_contiguous(memory_format=torch.channels_last)


def test_images_that_are_too_small():
    model = MiTBackbone(MiTConfig.tiny())
    with pytest.raises(SegZooError, match="too small: a stage has a grid of 6x16 patches.*8 times as coarse"):
        model(torch.zeros(1, 3, 24, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [2, 2, 2]}, r"depths=\[2, 2, 2\] needs one entry for each stage"),
        ({"num_heads": [1, 2, 6, 8]}, r"channels=\[32, 64, 160, 256\] do not divide into num_heads=\[1, 2, 6, 8\]"),
        ({"strides": [4, 0, 2, 2]}, "strides"),
    ],
)
def test_configs_that_do_not_fit(options, message):
    with pytest.raises(SegZooError, match=message):
        MiTConfig(**options)

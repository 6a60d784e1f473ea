"""Twins beyond the contract: numbers of timm's models, windows that are padded, drop path, and what is refused."""

import pytest
import timm.models.twins
import torch
from support.contract import settle

from segzoo import AutoBackbone, SegZooError
from segzoo.auto import backbone_variants
from segzoo.backbones import TwinsBackbone, TwinsConfig
from segzoo.backbones.twins import WindowAttention, padding_mask
from segzoo.conversion.pretrained.twins import translate_twins
from segzoo.conversion.published import fill_backbone

# Counted in timm's models without their classifiers and last norms, and with norms after the stages of SVT.
PARAMETERS = {
    "twins_pcpvt_small": 23_592_192,
    "twins_pcpvt_base": 43_314_432,
    "twins_pcpvt_large": 60_475_648,
    "twins_svt_small": 23_548_672,
    "twins_svt_base": 55_303_296,
    "twins_svt_large": 98_248_192,
}

SIZES = {
    "pcpvt": {"embed_dims": (64, 64, 64, 128), "num_heads": (1, 1, 1, 2)},
    "svt": {"embed_dims": (32, 32, 64, 64), "num_heads": (1, 1, 2, 2), "wss": (7, 7, 7, 7)},
}


@pytest.mark.parametrize("kind", SIZES)
def test_maps_are_those_of_timm_from_the_same_weights(kind):
    """timm has the authors' numbers: no masks, epsilons of two kinds."""
    options = {"depths": (2, 2, 3, 1), "mlp_ratios": (4, 3, 2, 2), **SIZES[kind]}
    theirs = settle(timm.models.twins.Twins(img_size=(96, 64), num_classes=5, **options)).double().eval()
    state = theirs.state_dict()
    config = translate_twins(state, "a test").config
    config.mask_padding = False
    ours = TwinsBackbone(config).double().eval()
    fill_backbone(ours, state, "a test")
    pixels = torch.randn(2, 3, 96, 64, dtype=torch.double)
    with torch.no_grad():
        for stage in ours.stages:
            stage.norm = torch.nn.Identity()
        found = ours(pixels).feature_maps
        wanted = theirs.forward_intermediates(pixels, norm=False, intermediates_only=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes(name):
    with torch.device("meta"):
        model = AutoBackbone.from_config(backbone_variants()[name].variant_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@torch.no_grad()
@pytest.mark.parametrize(
    ("grid", "mask_padding", "attend_to_padding"),
    [((6, 9), True, None), ((7, 9), True, True), ((6, 8), True, True), ((7, 8), True, False), ((7, 8), False, True)],
)
def test_attention_in_padded_windows(grid, mask_padding, attend_to_padding):
    """One window at a time: the padding is left out, or takes part as zeros in front of the projection."""
    height, width = grid
    config = TwinsConfig.tiny()
    config.mask_padding = mask_padding
    attention = WindowAttention(config, 2, side=3).double()
    x = torch.randn(2, height * width, 16, dtype=torch.double)
    mapped = x.unflatten(1, grid)
    wanted = torch.zeros_like(mapped)
    for top in range(0, height, 3):
        for left in range(0, width, 3):
            tokens = mapped[:, top : top + 3, left : left + 3].flatten(1, 2)
            count = tokens.shape[1]
            if attend_to_padding:
                tokens = torch.cat([tokens, tokens.new_zeros(2, 9 - count, 16)], dim=1)
            query, key, value = attention.qkv(tokens).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            mixed = (query @ key.mT / 8**0.5).softmax(-1) @ value
            mixed = attention.proj(mixed.transpose(1, 2).flatten(2))[:, :count]
            rows = mapped[:, top : top + 3, left : left + 3].shape[1:3]
            wanted[:, top : top + 3, left : left + 3] = mixed.unflatten(1, rows)
    torch.testing.assert_close(attention(x, grid).unflatten(1, grid), wanted, rtol=1e-10, atol=1e-12)


def test_the_mask_of_a_grid():
    outside = padding_mask((3, 3), 2, torch.zeros(1))
    assert outside.tolist() == [[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    assert not padding_mask((3, 4), 2, torch.zeros(1)).any() and not padding_mask((4, 3), 2, torch.zeros(1)).any()


@pytest.mark.parametrize("twice", [False, True])
def test_how_often_branches_are_dropped(twice):
    config = TwinsConfig.tiny()
    config.drop_path_rate, config.drop_path_twice = 0.5, twice
    blocks = [block for stage in TwinsBackbone(config).stages for block in stage.blocks]
    rates = [0.1 * i for i in range(6)]
    doubled = [1 - (1 - rate) ** 2 for rate in rates] if twice else rates
    assert [block.drop_path.p for block in blocks] == pytest.approx(doubled)
    within_windows = [True, False, True, True, False, True]
    wanted = [a if inside else b for a, b, inside in zip(rates, doubled, within_windows, strict=True)]
    assert [block.attention_drop_path.p for block in blocks] == pytest.approx(wanted)


def test_images_that_are_no_whole_patches():
    config = TwinsConfig.tiny()
    pixels = torch.randn(1, 3, 71, 103)
    padded = settle(TwinsBackbone(config)).eval()
    assert [tuple(x.shape[2:]) for x in padded(pixels).feature_maps] == [(18, 26), (9, 13), (5, 7), (3, 4)]
    config.pad_patches = False
    floored = settle(TwinsBackbone(config)).eval()
    assert [tuple(x.shape[2:]) for x in floored(pixels).feature_maps] == [(17, 25), (8, 12), (4, 6), (2, 3)]
    with pytest.raises(SegZooError, match="too small.* 7x12 patches.*8 times"):
        padded(torch.randn(1, 3, 28, 48))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [1, 1]}, "depths.* one entry for each stage"),
        ({"windows": [7]}, "windows.* one entry"),
        ({"windows": [7, 7, 0, 7]}, "windows.* 1 at least"),
        ({"num_heads": [1, 2, 3, 8]}, "do not divide"),
        ({"depths": [1000, 1, 1, 1]}, "no model has more"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(SegZooError, match=message):
        TwinsConfig(**options)

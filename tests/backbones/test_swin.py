"""Swin: equal to transformers' from the same weights, its windows against their definition, and other sizes."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import SwinBackbone as TheirBackbone
from transformers import SwinConfig as TheirConfig

from segzoo.backbones import SwinBackbone, SwinConfig, swin
from segzoo.errors import SegZooError
from segzoo.layers.window_attention import resize_window_table, windows_of

# Of the published classifiers, less their last norm and classifier, plus a norm for each map.
MILLIONS = {"tiny": 27.5, "small": 48.8, "base": 86.7, "base_window12": 86.9, "large": 195.0, "large_window12": 195.2}
SIZES = {"channels": 12, "depths": [1, 2, 3], "num_heads": [1, 2, 3], "window_size": 3, "mlp_ratio": 2.0}


def tiny(**options):
    torch.manual_seed(0)
    backbone = SwinBackbone(SwinConfig(**(SIZES | options))).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone


@pytest.mark.parametrize("name", MILLIONS)
def test_published_sizes(name):
    with torch.device("meta"):
        backbone = SwinBackbone(SwinConfig(**swin.VARIANTS[f"swin_{name}"]))
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.06)


def from_transformers(state):
    """Our weights of those in a folder of transformers' backbone."""
    parts = {"embeddings.patch_embeddings.projection.": "patch_embedding.", "embeddings.norm.": "embedding_norm."}
    parts |= {
        "encoder.layers.": "stages.", ".blocks.": ".layers.", "layernorm_before.": "norm1.", "layernorm_after.": "norm2.",
        "intermediate.dense.": "mlp.fc1.", "attention.output.dense.": "attention.proj.", "output.dense.": "mlp.fc2.",
        "attention.self.relative": "attention.relative", "hidden_states_norms.": "norms.",
    }  # fmt: skip
    found, thirds = {}, {}
    for key, value in state.items():
        if key.endswith("relative_position_index") or key.startswith("swin.layernorm."):  # computed; never run
            continue
        name = key
        for old, new in parts.items():
            name = name.replace(old, new)
        block, inside, part = name.partition("attention.self.")
        if inside:
            which, kind = part.split(".")
            thirds.setdefault(f"{block}attention.qkv.{kind}", {})[which] = value
        else:
            found[name] = value
    joined = {name: torch.cat([three[part] for part in ("query", "key", "value")]) for name, three in thirds.items()}
    return found | joined


def test_same_maps_as_transformers(tmp_path):
    config = TheirConfig(
        embed_dim=12, depths=[1, 2, 3], num_heads=[1, 2, 3], window_size=3, mlp_ratio=2.0, image_size=64,
        drop_path_rate=0.0, out_features=["stage1", "stage2", "stage3"],
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = TheirBackbone(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    ours = tiny()
    ours.load_state_dict(from_transformers(load_file(tmp_path / "model.safetensors")))
    for size in ((64, 64), (75, 109), (16, 33)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            found, expected = ours(x).feature_maps, theirs(x).feature_maps
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [(6, 6), (5, 7), (2, 9), (2, 2)])
@pytest.mark.parametrize("shift", [0, 1])
def test_windows_are_those_of_a_rolled_grid(grid, shift):
    """Padding, rolling, cutting and masking as Swin's code does it, one after the other."""
    side, (height, width) = 3, grid
    attention = tiny().stages[1].layers[0].attention.double()
    x = torch.randn(2, height * width, 24, dtype=torch.double)
    down, right = -height % side, -width % side
    padded = F.pad(x.unflatten(1, grid), (0, 0, 0, right, 0, down)).roll((-shift, -shift), (1, 2))
    regions = torch.zeros(height + down, width + right)
    for i, rows in enumerate((slice(0, -side), slice(-side, -shift or None), slice(-shift, None))):
        for j, columns in enumerate((slice(0, -side), slice(-side, -shift or None), slice(-shift, None))):
            regions[rows, columns] = 0 if shift == 0 else 3 * i + j

    def cut(x):
        x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        return x.flatten(3, 4).flatten(0, 2) if x.ndim > 5 else x.flatten(3).flatten(0, 2)

    tokens, region = cut(padded), cut(regions[None]).repeat(2, 1)
    qkv = attention.qkv(tokens).unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    offsets = places[:, None] - places + side - 1
    bias = attention.relative_position_bias_table[offsets[..., 0] * (2 * side - 1) + offsets[..., 1]].permute(2, 0, 1)
    scores = qkv[0] @ qkv[1].transpose(-1, -2) / 12**0.5 + bias
    scores = scores - 100.0 * (region[:, None, :, None] != region[:, None, None, :])
    mixed = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).flatten(2)
    rows, columns = (height + down) // side, (width + right) // side
    mixed = mixed.view(2, rows, columns, side, side, 24).transpose(2, 3).reshape(2, height + down, width + right, 24)
    mixed = mixed.roll((shift, shift), (1, 2))[:, :height, :width].flatten(1, 2)
    found = attention(x, windows_of(grid, side, shift, x.device))
    torch.testing.assert_close(found, attention.proj(mixed))


def test_other_windows_are_bicubic_as_in_the_original():
    backbone = tiny()
    table = backbone.stages[2].layers[1].attention.relative_position_bias_table.detach()
    backbone.resize_windows(5)
    grid = table.t().reshape(1, 3, 5, 5)
    wanted = F.interpolate(grid, size=(9, 9), mode="bicubic", align_corners=False).reshape(3, 81).t()
    assert torch.equal(backbone.stages[2].layers[1].attention.relative_position_bias_table, wanted)
    assert backbone.config.window_size == 5 and backbone(torch.randn(1, 3, 50, 70)).feature_maps
    assert resize_window_table(wanted, 5) is wanted


def test_positions_of_another_size_are_resized():
    backbone = tiny(image_size=[32, 48])
    seen = []
    backbone.stages[0].register_forward_hook(lambda module, arguments, output: seen.append(arguments[0]))
    x = torch.randn(1, 3, 40, 56)
    backbone(x)
    tokens = backbone.embedding_norm(backbone.patch_embedding(x).flatten(2).transpose(1, 2))
    positions = backbone.position_embeddings.transpose(1, 2).reshape(1, 12, 8, 12)
    positions = F.interpolate(positions, size=(10, 14), mode="bicubic", align_corners=False)
    torch.testing.assert_close(seen[0], tokens + positions.flatten(2).transpose(1, 2))


def test_only_returned_maps_have_norms_and_stages_continue_from_before():
    backbone = tiny(out_features=["stage2"])
    assert list(backbone.norms) == ["stage2"]
    output = backbone(torch.randn(1, 3, 32, 32), output_hidden_states=True)
    normed = backbone.norms["stage2"](output.hidden_states[2].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(output.feature_maps[0], normed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": [1, 2]}, "need one entry for each"),
        ({"num_heads": [1, 5, 3]}, "24 channels does not divide into 5 heads"),
        ({"window_size": 0}, "window_size=0 must be from 1 to 64"),
        ({"image_size": [32]}, "must be a side or"),
        ({"image_size": 3}, "of 4 pixels at least"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(SegZooError, match=words):
        SwinConfig(**(SIZES | options))

"""Swin's published classifiers, small and synthetic: the authors' files, ImageNet-22k included, MoBY's, and timm's."""

import pytest
import timm
import torch

from segzoo import AutoBackbone
from segzoo.backbones import SwinBackbone, SwinConfig
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.published import fill_backbone

WIDTH, DEPTHS, HEADS, SIDE = 8, (1, 2), (1, 2), 3


def weights(*, classes=10):
    """What ``swin_*_patch4_window*.pth`` holds under ``model``; those of 22k have as many rows in ``head``."""
    shapes = {"absolute_pos_embed": (1, 12 * 12, WIDTH), "head.weight": (classes, 16), "head.bias": (classes,)}

    def layer(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name, width):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 4, 4), "patch_embed.proj.bias": (WIDTH,)}
    shapes |= norm("patch_embed.norm", WIDTH) | norm("norm", 16)
    shapes |= {"layers.0.downsample.reduction.weight": (16, 32)} | norm("layers.0.downsample.norm", 32)
    for stage, depth in enumerate(DEPTHS):
        width = WIDTH * 2**stage
        for i in range(depth):
            block = f"layers.{stage}.blocks.{i}"
            shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
            shapes |= layer(f"{block}.attn.qkv", 3 * width, width) | layer(f"{block}.attn.proj", width, width)
            shapes |= layer(f"{block}.mlp.fc1", 2 * width, width) | layer(f"{block}.mlp.fc2", width, 2 * width)
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * SIDE - 1) ** 2, HEADS[stage])
            shapes[f"{block}.attn.relative_position_index"] = (SIDE * SIDE, SIDE * SIDE)
            if i == 1:
                shapes[f"{block}.attn_mask"] = (4, SIDE * SIDE, SIDE * SIDE)
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def converted(content, folder):
    folder.mkdir()
    torch.save(content, folder / "swin.pth")
    report = convert_checkpoint(folder / "swin.pth", output=folder / "out").report
    return AutoBackbone.from_pretrained(folder / "out"), report


def test_every_form_gives_the_same_backbone(tmp_path):
    state = weights()
    backbone, report = converted({"model": state}, tmp_path / "authors")
    config = backbone.config
    assert (config.channels, config.depths, config.num_heads) == (WIDTH, [1, 2], [1, 2])
    assert (config.window_size, config.image_size, config.mlp_ratio, config.patch_norm) == (SIDE, 48, 2.0, True)
    assert "norms of maps" in report.notes[0] and "head.weight" in report.keys.left_out
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in backbone.norms.values())
    assert torch.equal(backbone.position_embeddings, state["absolute_pos_embed"])
    assert torch.equal(backbone.stages[0].downsample.reduction.weight, state["layers.0.downsample.reduction.weight"])
    assert torch.equal(backbone.stages[1].layers[1].mlp.fc2.bias, state["layers.1.blocks.1.mlp.fc2.bias"])
    moby = {f"encoder.{name}": value for name, value in state.items() if not name.startswith(("head.", "norm."))}
    forms = {
        "22k": {"model": weights(classes=21841) | {name: state[name] for name in state if "head" not in name}},
        "moby": {"model": moby | {"projector.linear.weight": torch.zeros(3, 3)}},
    }
    for name, content in forms.items():
        other, _ = converted(content, tmp_path / name)
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_the_maps_are_those_of_timm():
    options = {"window_size": 4, "embed_dim": 8, "depths": (1, 2, 2), "num_heads": (1, 2, 2), "img_size": 64}
    torch.manual_seed(0)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", **options).eval()
    config = SwinConfig(channels=8, depths=[1, 2, 2], num_heads=[1, 2, 2], window_size=4)
    ours = SwinBackbone(config).eval()
    fill_backbone(ours, theirs.state_dict(), "x")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = ours(pixels, output_hidden_states=True).hidden_states[2]
        expected = theirs.layers[1](theirs.layers[0](theirs.patch_embed(pixels))).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tables_are_resized_to_the_windows_of_the_backbone():
    state = {name: value for name, value in weights().items() if name != "absolute_pos_embed"}
    sizes = {"channels": WIDTH, "depths": DEPTHS, "num_heads": HEADS, "mlp_ratio": 2.0}
    backbone = SwinBackbone(SwinConfig(window_size=5, **sizes))
    fill_backbone(backbone, state, "x")
    same = SwinBackbone(SwinConfig(window_size=SIDE, **sizes))
    fill_backbone(same, state, "x")
    same.resize_windows(5)
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in same.state_dict().items())


def test_other_tables_are_refused():
    state = weights()
    state["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(15, 1)
    with pytest.raises(
        ConversionError, match="x: the weights do not make a Swin: a table of offsets in square windows"
    ):
        find_kind(state).translate(state, "x")

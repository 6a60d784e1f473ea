"""ImageNet files of STDC's encoder, small and synthetic, in the layouts of its authors and of mmsegmentation."""

import pytest
import torch

from segzoo import AutoBackbone
from segzoo.backbones import STDCNetConfig
from segzoo.conversion import ConversionError, convert_checkpoint
from segzoo.conversion.keys import Context, KeyTable, find_rule
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.rules.stdc import encoder_keys

CONFIG = {"channels": [4, 8, 16, 24, 32], "depths": [2, 1, 2], "num_convs": 4}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def authors_file(*, add=False):
    """What the authors' ``STDCNet813M_73.91.tar`` holds under ``state_dict``."""
    stem, second, *widths = CONFIG["channels"]
    shapes = {}

    def layer(conv, norm, out, into, side):
        shapes[f"{conv}.weight"] = (out, into, side, side)
        shapes.update({f"{norm}.{part}": () if part == NORM[-1] else (out,) for part in NORM})

    layer("features.0.conv", "features.0.bn", stem, 3, 3)
    layer("features.1.conv", "features.1.bn", second, stem, 3)
    index, before = 2, second
    for width, depth in zip(widths, CONFIG["depths"], strict=True):
        for i in range(depth):
            block = f"features.{index}"
            into = width if i else before
            sizes = [(width // 2, into, 1), (width // 4, width // 2, 3), (width // 8, width // 4, 3)]
            for k, (out, inside, side) in enumerate([*sizes, (width // 8, width // 8, 3)]):
                layer(f"{block}.conv_list.{k}.conv", f"{block}.conv_list.{k}.bn", out, inside, side)
            if i == 0:
                layer(f"{block}.avd_layer.0", f"{block}.avd_layer.1", width // 2, 1, 3)
            if i == 0 and add:
                layer(f"{block}.skip.0", f"{block}.skip.1", into, 1, 3)
                layer(f"{block}.skip.2", f"{block}.skip.3", width, into, 1)
            index += 1
        before = width
    layer("conv_last.conv", "conv_last.bn", 1024, before, 1)
    generator = torch.Generator().manual_seed(3)
    state = {name: torch.randn(shape, generator=generator).abs() for name, shape in shapes.items()}
    state |= {
        f"x2.0.{name.removeprefix('features.')}": state[name] for name in shapes if name.startswith("features.0.")
    }
    return state | {"fc.weight": torch.zeros(4, 4), "bn.weight": torch.zeros(4), "linear.weight": torch.zeros(4, 4)}


def converted(content, folder):
    folder.mkdir()
    torch.save(content, folder / "stdc.tar")
    report = convert_checkpoint(folder / "stdc.tar", output=folder / "out").report
    return AutoBackbone.from_pretrained(folder / "out").eval(), report


@pytest.mark.parametrize("fusion", ["cat", "add"])
def test_the_authors_file(fusion, tmp_path):
    state = authors_file(add=fusion == "add")
    model, report = converted({"state_dict": state}, tmp_path / "authors")
    expected = STDCNetConfig(fusion=fusion, **CONFIG)
    assert {name: getattr(model.config, name) for name in (*CONFIG, "fusion")} == CONFIG | {"fusion": fusion}
    assert model.config.out_features == expected.out_features
    assert {"linear.weight", "fc.weight", "conv_last.conv.weight", "x2.0.0.conv.weight"} <= set(report.keys.left_out)
    block = model.stages[2][0]  # the fifth layer: two come before the stages, two are the first stage's
    assert torch.equal(block.convs[3].conv.weight, state["features.4.conv_list.3.conv.weight"])
    assert torch.equal(block.downsample.norm.running_var, state["features.4.avd_layer.1.running_var"])
    if fusion == "add":
        assert torch.equal(block.skip[1].conv.weight, state["features.4.skip.2.weight"])
    assert torch.equal(model.stages[3][1].convs[0].conv.weight, state["features.6.conv_list.0.conv.weight"])
    del state["features.4.conv_list.1.conv.weight"]
    with pytest.raises(ConversionError, match="features.4.conv_list.1.conv.weight"):
        converted({"state_dict": state}, tmp_path / "short")


def test_mmsegmentations_file(tmp_path):
    """As its converter writes it: the same weights, with the last convolution."""
    ours, _ = converted({"state_dict": authors_file()}, tmp_path / "authors")
    table = KeyTable(encoder_keys(ours.config))
    state = {table.to_original(key): tensor for key, tensor in ours.state_dict().items()}
    state["final_conv.conv.weight"] = torch.ones(1024, 32, 1, 1)
    model, report = converted(state, tmp_path / "mmseg")
    assert report.keys.left_out == ["final_conv.conv.weight"]
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(model(x).feature_maps, ours(x).feature_maps, strict=True):
        assert torch.equal(a, b)


def test_both_names_of_the_layer_that_halves():
    """The original of the kind that adds registers it twice."""
    original = {"type": "STDCNet", "stdc_type": "STDCNet1", "in_channels": 3, "channels": [8, 8, 16, 24, 32]}
    original |= {"bottleneck_type": "add", "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}}
    config, table = find_rule("backbone", original, "model.backbone").convert(original, Context("model.backbone"))
    state = AutoBackbone.from_config(config).state_dict()
    names = {name for key in state for name in table.to_originals(key)}
    assert {"stages.2.0.downsample.conv.weight", "stages.2.0.layers.0.1.conv.weight"} <= names
    assert {"stages.2.0.layers.0.0.bn.bias", "stages.2.1.layers.0.conv.weight", "stages.3.0.skip.1.bn.weight"} <= names
    assert all(table.to_native(name) in state for name in names)


def test_what_is_no_encoder_of_stdc():
    assert find_kind({"features.0.conv.weight": torch.ones(1)}) is None
    state = authors_file()
    del state["features.1.conv.weight"]
    kind = find_kind(state)
    with pytest.raises(ConversionError, match="odd.tar: .* features.1.conv.weight is missing"):
        kind.translate(state, "odd.tar")

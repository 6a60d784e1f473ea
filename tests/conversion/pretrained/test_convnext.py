"""ConvNeXt's published classifiers, small and synthetic: the authors' files, mmcls's, timm's and transformers'."""

import pytest
import timm
import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
)

from segzoo import AutoBackbone
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.pretrained.convnext import TIMM
from segzoo.conversion.published import fill_backbone
from segzoo.conversion.rules.convnext import AUTHORS, MMCLS
from segzoo.conversion.translation import ComponentKeys
from segzoo.conversion.weights import match_weights, original_state_dict

CHANNELS, DEPTHS = (8, 12, 16, 24), (1, 2, 1, 1)


def weights(*, classes=10, depthwise="dwconv", linear="pwconv", last="norm"):
    """What ``convnext_*_1k_224_ema.pth`` holds under ``model``; those of 22k have as many rows in ``head``."""
    shapes = {"head.weight": (classes, CHANNELS[3]), "head.bias": (classes,)}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    layer("downsample_layers.0.0", CHANNELS[0], 3, 4, 4)
    layer("downsample_layers.0.1", CHANNELS[0])
    for stage, (width, depth) in enumerate(zip(CHANNELS, DEPTHS, strict=True)):
        if stage:
            layer(f"downsample_layers.{stage}.0", CHANNELS[stage - 1])
            layer(f"downsample_layers.{stage}.1", width, CHANNELS[stage - 1], 2, 2)
        for i in range(depth):
            block = f"stages.{stage}.{i}"
            shapes[f"{block}.gamma"] = (width,)
            layer(f"{block}.{depthwise}", width, 1, 7, 7)
            layer(f"{block}.norm", width)
            layer(f"{block}.{linear}1", 4 * width, width)
            layer(f"{block}.{linear}2", width, 4 * width)
    layer(last, CHANNELS[3])
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def converted(content, folder):
    folder.mkdir()
    torch.save(content, folder / "convnext.pth")
    report = convert_checkpoint(folder / "convnext.pth", output=folder / "out").report
    return AutoBackbone.from_pretrained(folder / "out"), report


def test_every_form_gives_the_same_backbone(tmp_path):
    state = weights()
    backbone, report = converted({"model": state}, tmp_path / "authors")
    config = backbone.config
    assert (config.channels, config.depths, config.patch_size) == (list(CHANNELS), list(DEPTHS), 4)
    assert (config.norm_eps, config.downsample_norm_eps, config.layer_scale) == (1e-6, 1e-6, 1e-6)
    assert sorted(report.keys.left_out) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    assert "a classifier has none" in report.notes[0]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in backbone.norms.values())
    assert torch.equal(backbone.stages[1].downsample.conv.weight, state["downsample_layers.1.1.weight"])
    assert torch.equal(backbone.stages[1].layers[1].mlp.fc2.bias, state["stages.1.1.pwconv2.bias"])

    larger = {"model": weights(classes=21841) | {name: state[name] for name in state if "head" not in name}}
    other, _ = converted(larger, tmp_path / "22k")
    ours = backbone.state_dict()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in ours.items())

    in_mmcls = weights(depthwise="depthwise_conv", linear="pointwise_conv", last="norm3")
    content = {
        f"backbone.{name}" if "head" not in name else f"head.fc.{name[5:]}": value for name, value in in_mmcls.items()
    }
    other, report = converted({"state_dict": content, "meta": {}}, tmp_path / "mmcls")
    assert "a classifier has the last; others begin anew" in report.notes[0]
    names = [name for name in ours if not name.startswith("norms.stage4")]
    assert all(torch.equal(ours[name], other.state_dict()[name]) for name in names)
    assert torch.equal(other.norms["stage4"].weight, in_mmcls["norm3.weight"])


def test_the_maps_are_those_of_timm_and_transformers(tmp_path):
    torch.manual_seed(0)
    in_timm = timm.create_model("convnext_tiny", dims=CHANNELS, depths=DEPTHS, num_classes=10).eval()
    config = ConvNextConfig(hidden_sizes=list(CHANNELS), depths=list(DEPTHS), layer_scale_init_value=0.5)
    in_transformers = ConvNextForImageClassification(config).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = {
            "timm": (in_timm, in_timm.forward_features(pixels)),
            "transformers": (in_transformers, in_transformers.convnext(pixels).last_hidden_state),
        }
        for name, (model, last) in expected.items():
            ours, _ = converted(model.state_dict(), tmp_path / name)
            filled = AutoBackbone.from_config(ours.config)
            fill_backbone(filled, model.state_dict(), "x")
            for backbone in (ours.eval(), filled.eval()):
                found = backbone(pixels, output_hidden_states=True).hidden_states[4]
                assert (found - last).abs().max() <= 1e-5 * last.abs().max()


def test_version_2(tmp_path):
    """timm's, transformers', and the authors' and mmpretrain's names for timm's weights."""
    torch.manual_seed(0)
    in_timm = timm.create_model("convnextv2_atto", dims=CHANNELS, depths=DEPTHS, num_classes=10).eval()
    config = ConvNextV2Config(hidden_sizes=list(CHANNELS), depths=list(DEPTHS))
    in_transformers = ConvNextV2ForImageClassification(config).eval()
    for model in (in_timm, in_transformers):
        for name, value in model.named_parameters():
            if ".grn." in name:
                torch.nn.init.normal_(value)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = in_timm.forward_features(pixels)
        expected = {
            "timm": (in_timm.state_dict(), last),
            "authors": (renamed(in_timm.state_dict(), AUTHORS), last),
            "mmpretrain": (renamed(in_timm.state_dict(), MMCLS), last),
            "transformers": (in_transformers.state_dict(), in_transformers.convnextv2(pixels).last_hidden_state),
        }
        for name, (state, wanted) in expected.items():
            backbone, _ = converted({"model": state}, tmp_path / name)
            assert backbone.config.response_norm and backbone.config.layer_scale is None
            found = backbone.eval()(pixels, output_hidden_states=True).hidden_states[4]
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


def renamed(state, spelling):
    """timm's weights of a classifier under other names, without the classifier itself."""
    config = find_kind(state).translate(state, "x").config
    components = [ComponentKeys("", "", KeyTable(keys(config)), "", config) for keys in (TIMM.keys, spelling.keys)]
    expected = AutoBackbone.from_config(config).state_dict()
    bare = {name: value for name, value in state.items() if not name.startswith(("head.", "norm"))}
    return original_state_dict(match_weights(bare, components[:1], expected)[0], components[1:])


def test_what_is_no_classifier():
    state = weights()
    assert find_kind({f"backbone.{name}": value for name, value in state.items()}) is None
    mmcls = {f"backbone.{name}": value for name, value in weights(depthwise="depthwise_conv").items()}
    assert find_kind(mmcls) is not None and find_kind(mmcls | {"decode_head.conv_seg.bias": torch.zeros(2)}) is None
    incomplete = {name: value for name, value in state.items() if name != "downsample_layers.0.0.weight"}
    with pytest.raises(ConversionError, match="do not make a ConvNeXt: downsample_layers.0.0.weight is missing"):
        find_kind(incomplete).translate(incomplete, "x")

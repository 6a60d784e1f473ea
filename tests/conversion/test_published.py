"""Published weights of backbones: the table, and each layout against the library that wrote it."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models as torchvision_models

from segzoo import AutoBackbone, SegZooError
from segzoo.auto import backbone_variants
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.published import (
    backbones_of_transformers,
    fill_backbone,
    load_published,
    original_files,
    published_weights,
)


def ours(name, **changes):
    return AutoBackbone.from_config(backbone_variants()[name].variant_config(name, **changes)).eval()


def theirs(name, **options):
    torch.manual_seed(3)
    model = timm.create_model(name, **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model


@pytest.mark.parametrize(
    "source", sorted(place for place in set(published_weights().values()) if place[:5] == "timm/")
)
def test_every_row_fits_its_variants(source):
    """On the meta device: names and shapes are timm's own; nothing is left over, and nothing stays as it was."""
    repository = timm.get_pretrained_cfg(source.removeprefix("timm/")).hf_hub_id
    assert repository == source
    with torch.device("meta"):
        state = timm.create_model(source.removeprefix("timm/")).state_dict()
        for variant in (name for name, place in published_weights().items() if place == source):
            if "beit-adapter" not in variant:  # a table's spline needs numbers
                fill_backbone(ours(variant), state, source)


def test_names_of_the_table_are_variants_and_no_name_stands_twice():
    tables = [published_weights(), original_files(), backbones_of_transformers()]
    assert sum(map(len, tables)) == len({name for table in tables for name in table})
    assert (published_weights().keys() | original_files().keys()) <= backbone_variants().keys()
    assert all("/" in place for place in backbones_of_transformers().values())


@pytest.mark.parametrize(
    ("variant", "name", "options"),
    [
        ("resnet18", "resnet18", {}),
        ("resnet18_d8", "resnet18", {"output_stride": 8}),
        ("resnet18_v1d", "resnet18d", {}),
        ("resnet50_v1c", "resnet50c", {}),
        ("resnet50_mit", "resnet50s", {}),
        ("mobilenetv2", "mobilenetv2_100", {}),
    ],
)
def test_the_maps_are_those_of_the_library_that_wrote_the_weights(variant, name, options):
    backbone = ours(variant)
    fill_backbone(backbone, theirs(name).state_dict(), name)
    features = theirs(name, features_only=True, **options)
    features.load_state_dict(theirs(name).state_dict(), strict=False)
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = backbone(pixels).feature_maps, features(pixels)[1:]
    if variant == "resnet18_d8":  # timm dilates the first block of a stage otherwise than mmsegmentation
        found, expected = found[:2], expected[:2]
    assert len(found) == len(expected) == (2 if variant == "resnet18_d8" else 4)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_other_channels_see_grey_pictures_as_before():
    state = theirs("resnet18").state_dict()
    rgb = ours("resnet18")
    fill_backbone(rgb, state, "x")
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = rgb(grey.expand(1, 3, 64, 64)).feature_maps[-1]
        for channels in (1, 4, 6):
            other = ours("resnet18", num_channels=channels)
            fill_backbone(other, state, "x")
            found = other(grey.expand(1, channels, 64, 64)).feature_maps[-1]
            if channels != 4:  # of whose channels red comes twice
                assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
            assert found.isfinite().all()


def test_a_vit_adapter_gets_its_vit_and_keeps_the_rest():
    state = theirs("deit_tiny_patch16_224").state_dict()
    adapter = ours("vit-adapter-t")
    branch = {name: value.clone() for name, value in adapter.state_dict().items() if not name.startswith("vit.")}
    fill_backbone(adapter, state, "x")
    filled = adapter.state_dict()
    assert torch.equal(filled["vit.layers.11.mlp.fc2.weight"], state["blocks.11.mlp.fc2.weight"])
    assert torch.equal(filled["vit.position_embeddings"], state["pos_embed"])
    assert all(torch.equal(filled[name], value) for name, value in branch.items())
    assert (filled["vit.layers.0.scale1"] == 1).all(), "DeiT has none: they begin with 1"


def test_other_weights_are_refused(tmp_path):
    state = theirs("resnet18").state_dict()
    incomplete = {name: value for name, value in state.items() if "layer4.1.bn2" not in name}
    for variant, weights in (("resnet18", incomplete), ("resnet34", state)):
        with pytest.raises(
            SegZooError, match="x: these weights are of another model than ResNetBackbone here: stages"
        ):
            fill_backbone(ours(variant), weights, "x")
    with pytest.raises(SegZooError, match="x: these are no weights of a backbone"):
        fill_backbone(ours("resnet18"), {"a": torch.zeros(1)}, "x")
    (tmp_path / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(SegZooError, match="cannot be read .*; remove it"):
        load_published(ours("resnet18"), tmp_path / "model.safetensors", "x")


# Files for `segzoo convert`


def deep(state, layout):
    """The deep stem of a timm ResNet under mmpretrain's or MIT's names."""
    names = {
        "mmpretrain": ("stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"),
        "mit": ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"),
    }[layout]
    old = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
    stem = {
        f"{new}.{key.removeprefix(f'{a}.')}": value
        for a, new in zip(old, names, strict=True)
        for key, value in state.items()
        if key.startswith(f"{a}.")
    }
    return stem | {key: value for key, value in state.items() if not key.startswith(tuple(f"{a}." for a in old))}


@pytest.mark.parametrize("layout", ["mmpretrain", "mit"])
def test_original_files_become_the_same_backbone(layout, tmp_path):
    state = timm.create_model("resnet18", stem_type="deep", stem_width=32).state_dict()
    torch.save({"state_dict": deep(state, layout)}, tmp_path / "resnet18.pth")
    convert_checkpoint(tmp_path / "resnet18.pth", output=tmp_path / "out")
    converted, expected = AutoBackbone.from_pretrained(tmp_path / "out"), ours("resnet18_v1c")
    fill_backbone(expected, state, "x")
    found, wanted = converted.config.to_dict(), expected.config.to_dict()
    assert all(found[name] == value for name, value in wanted.items() if name in type(expected.config).__annotations__)
    assert all(torch.equal(value, converted.state_dict()[key]) for key, value in expected.state_dict().items())


def test_torchvisions_files_and_resnexts():
    with torch.device("meta"):
        states = {
            name: getattr(torchvision_models, name)().state_dict()
            for name in ("resnet18", "resnext50_32x4d", "wide_resnet50_2")
        }
    found = {name: find_kind(state) for name, state in states.items()}
    assert {kind.title for kind in found.values()} == {"ResNet classifier"}
    config = found["resnext50_32x4d"].translate(states["resnext50_32x4d"], "x").config
    assert (config.depth, config.groups, config.base_width) == (50, 32, 4)
    with pytest.raises(ConversionError, match="x: a wide ResNet is not supported"):
        found["wide_resnet50_2"].translate(states["wide_resnet50_2"], "x")


def test_a_safetensors_file(tmp_path):
    state = theirs("resnet18").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    backbone = ours("resnet18")
    load_published(backbone, tmp_path / "model.safetensors", "x")
    assert torch.equal(backbone.stem[0].conv.weight, state["conv1.weight"])

"""Depths of parameters, which for research models must give the groups of the originals' optimizers."""

import gzip
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from support.odd_backbones import OneMapBackbone, OneMapConfig, UNetBackbone, UNetConfig
from support.universal import config_of
from torch import nn
from transformers import (
    BeitBackbone,
    BeitConfig,
    ConvNextBackbone,
    ConvNextConfig,
    Dinov2Backbone,
    Dinov2Config,
    DPTConfig,
    PvtV2Backbone,
    PvtV2Config,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinBackbone,
    SwinConfig,
    UperNetConfig,
)

from segzoo import SegZooError, SegZooForSemanticSegmentation, zoo
from segzoo.auto import BACKBONES
from segzoo.conversion.translate import translate_config
from segzoo.training import parameter_groups
from segzoo.training.layer_depths import depths_from_names, layer_depths
from segzoo.training.optimization import kinds_of_parameters
from segzoo.training.recipes.recipe import load_recipe
from segzoo.universal import model_from_config

RECORDS = json.loads(gzip.decompress((Path(__file__).parent / "records/parameter_groups.json.gz").read_bytes()))
INTERNVIT = "upernet_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5"
OF_OUR_MODELS = [*(name for name, record in RECORDS.items() if "config" in record), INTERNVIT]
OTHERS = [name for name, record in RECORDS.items() if "parameters" in record and name != INTERNVIT]


def recorded(record):
    """{(depth, decays): (tensors, elements, hash of names)}"""
    return {
        (group["depth"], group["weight_decay"] > 0): tuple(
            group[key] for key in ("n_tensors", "n_elements", "names_sha256")
        )
        for group in record["groups"]
    }


def summed(members):
    """The same, of {(depth, decays): [(original name, elements)]}."""
    return {
        key: (
            len(entries),
            sum(count for _, count in entries),
            hashlib.sha256("\n".join(sorted(name for name, _ in entries)).encode()).hexdigest(),
        )
        for key, entries in members.items()
    }


def to_original(components, name):
    part = next(part for part in components if name.startswith(part.native_prefix))
    return part.original_prefix + part.table.to_original(name.removeprefix(part.native_prefix))


@pytest.mark.parametrize("name", OF_OUR_MODELS)
def test_the_groups_are_the_originals(name):
    record = RECORDS[name]
    translation = translate_config(record.get("config") or zoo.original_config(name))
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    depths, count = layer_depths(model)
    kinds = kinds_of_parameters(model)
    recipe = load_recipe(name)
    assert (recipe.layer_decay or 1.0) == record["layer_decay"]
    members = defaultdict(list)
    for native, parameter in model.named_parameters():
        decays = not kinds[native].intersection(recipe.no_decay)
        members[depths[native], decays].append((to_original(translation.components, native), parameter.numel()))
    assert summed(members) == recorded(record)
    groups = parameter_groups(
        model,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        no_decay=recipe.no_decay,
        layer_decay=recipe.layer_decay,
    )
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {(g["depth"], g["weight_decay"] > 0): (g["lr_scale"], g["weight_decay"]) for g in record["groups"]}
    for native, parameter in model.named_parameters():
        scale, decay = expected[depths[native], not kinds[native].intersection(recipe.no_decay)]
        assert found[id(parameter)] == pytest.approx((record["learning_rate"] * scale, decay), rel=1e-12)
    assert len(groups) == len({(group["lr_scale"], group["weight_decay"]) for group in record["groups"]})


# What the originals' optimizers give to parameters, worked out by hand from their rules: (scale, weight decay).
BY_HAND = {
    # AdamW 6e-5, weight decay 0.01. The key "norm" finds no name: the norms of blocks are ln1 and ln2, those of heads bn.
    "upernet_vit-b16_ln_mln_512x512_160k_ade20k": {
        "backbone.pos_embed": (1.0, 0.0),
        "backbone.cls_token": (1.0, 0.0),
        "backbone.patch_embed.projection.bias": (1.0, 0.01),
        "backbone.layers.0.ln1.weight": (1.0, 0.01),
        "backbone.layers.11.attn.attn.in_proj_bias": (1.0, 0.01),
        "backbone.ln1.bias": (1.0, 0.01),
        "neck.lateral_convs.0.conv.weight": (1.0, 0.01),
        "decode_head.bottleneck.bn.weight": (1.0, 0.01),
        "auxiliary_head.conv_seg.bias": (1.0, 0.01),
    },
    # 14 ids and a rate of 0.65. The list of names without decay has "pos_embed", and the name is "backbone.pos_embed".
    "upernet_mae-base_fp16_8x2_512x512_160k_ade20k": {
        "backbone.pos_embed": (0.65**13, 0.05),
        "backbone.cls_token": (0.65**13, 0.05),
        "backbone.patch_embed.projection.weight": (0.65**13, 0.05),
        "backbone.patch_embed.projection.bias": (0.65**13, 0.0),
        "backbone.layers.0.attn.relative_position_bias_table": (0.65**12, 0.05),
        "backbone.layers.0.gamma_1": (0.65**12, 0.0),
        "backbone.layers.11.attn.qkv.weight": (0.65, 0.05),
        "backbone.layers.11.ln2.weight": (0.65, 0.0),
        "neck.upsample_4x.0.weight": (1.0, 0.05),
        "neck.upsample_4x.1.weight": (1.0, 0.0),
        "decode_head.conv_seg.weight": (1.0, 0.05),
    },
    "upernet_beit-base_8x2_640x640_160k_ade20k": {
        "backbone.cls_token": (0.9**13, 0.05),
        "backbone.layers.5.attn.q_bias": (0.9**7, 0.0),
        "backbone.layers.5.attn.relative_position_bias_table": (0.9**7, 0.05),
        "neck.upsample_2x.0.bias": (1.0, 0.0),
    },
    # SGD without decay.
    "segmenter_vit-s_linear_8x1_512x512_160k_ade20k": {
        "backbone.pos_embed": (1.0, 0.0),
        "backbone.layers.3.ffn.layers.1.weight": (1.0, 0.0),
        "decode_head.conv_seg.weight": (1.0, 0.0),
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_groups_worked_out_by_hand(name):
    translation, recipe = translate_config(zoo.original_config(name)), load_recipe(name)
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    groups = parameter_groups(
        model,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        no_decay=recipe.no_decay,
        layer_decay=recipe.layer_decay,
        head_lr_multiplier=recipe.head_lr_multiplier,
    )
    rates = {
        id(p): (group["lr"] / recipe.learning_rate, group["weight_decay"]) for group in groups for p in group["params"]
    }
    found = {to_original(translation.components, name): rates[id(p)] for name, p in model.named_parameters()}
    for original, expected in BY_HAND[name].items():
        assert found[original] == pytest.approx(expected, rel=1e-9), original


def module_of(shapes):
    """A module with parameters of these names and shapes, on the meta device."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, nn.Parameter(torch.empty(shape, device="meta")))
    return root


PLAIN_VIT = ("blocks.", "patch_embed.", "pos_embed", "cls_token")
LOWEST_IN_THE_HEAD = ("mask_embed.", "cls_embed.", "query_embed.", "query_feat.", "level_embed.")


@pytest.mark.parametrize("name", OTHERS)
def test_the_rule_makes_the_groups_of_models_to_come(name):
    """ViT-Adapter's layers are those that a plain ViT's names tell; what is added to the ViT has the full rate.
    Mask2Former's heads put a few of their own parameters at depth 0.
    """
    record = RECORDS[name]
    model = module_of(record["parameters"])
    inside = [full.removeprefix("backbone.") for full in record["parameters"] if full.startswith("backbone.")]
    depths, count = depths_from_names([inner for inner in inside if inner.startswith(PLAIN_VIT)], name)
    no_decay = ("vectors",)
    kinds = kinds_of_parameters(model)
    members = defaultdict(list)
    for full, parameter in model.named_parameters():
        part, _, inner = full.partition(".")
        lowest = part == "decode_head" and inner.startswith(LOWEST_IN_THE_HEAD)
        depth = 0 if lowest else depths.get(inner, count) if part == "backbone" else count
        members[depth, not kinds[full].intersection(no_decay)].append((full, parameter.numel()))
    assert summed(members) == recorded(record)
    for group in record["groups"]:
        assert record["layer_decay"] ** (count - group["depth"]) == pytest.approx(group["lr_scale"], rel=1e-12)


PARALLEL = {"segzoo_ddrnet", "segzoo_pidnet"}  # branches side by side, which layer_decay refuses


@pytest.mark.parametrize("model_type", sorted(BACKBONES.keys() - PARALLEL))
def test_every_backbone_tells_its_layers(model_type):
    with torch.device("meta"):
        backbone = BACKBONES[model_type].model(BACKBONES[model_type].config.tiny())
    depths, count = layer_depths(backbone)
    assert set(depths.values()) - {count} == set(range(count)), "each layer from 0 on has parameters"


def test_resnet_counts_its_blocks():
    from segzoo.backbones.resnet import ResNetBackbone, ResNetConfig

    with torch.device("meta"):
        backbone = ResNetBackbone(ResNetConfig(depth=50, stem="deep"))
    depths, count = layer_depths(backbone)
    assert count == 17
    names = ("stem.0.conv.weight", "stages.0.0.conv1.conv.weight", "stages.3.2.conv3.norm.bias")
    assert [depths[name] for name in names] == [0, 1, 16]


SMALL = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32, "patch_size": 16}


@pytest.mark.parametrize(
    ("model_class", "config", "count", "expected"),
    [
        (
            SwinBackbone,
            SwinConfig(embed_dim=12, depths=[1, 2, 2, 1], num_heads=[1, 2, 2, 3]),
            7,
            {
                "embeddings.patch_embeddings": 0,
                "encoder.layers.0.blocks.0": 1,
                "encoder.layers.0.downsample": 2,
                "encoder.layers.1.blocks.1": 3,
                "encoder.layers.3.blocks.0": 6,
                "hidden_states_norms.stage4": 7,
            },
        ),
        (
            PvtV2Backbone,
            PvtV2Config(depths=[1, 2, 1, 1], hidden_sizes=[8] * 4, num_attention_heads=[1] * 4),
            6,
            {
                "encoder.layers.0.patch_embedding": 0,
                "encoder.layers.0.blocks.0": 1,
                "encoder.layers.0.layer_norm.": 2,
                "encoder.layers.1.patch_embedding": 2,
                "encoder.layers.3.blocks.0": 5,
                "encoder.layers.3.layer_norm.": 6,
            },
        ),
        (
            Dinov2Backbone,
            Dinov2Config(num_hidden_layers=3, **(SMALL | {"mlp_ratio": 1})),
            4,
            {"embeddings.cls_token": 0, "encoder.layer.0.": 1, "encoder.layer.2.": 3, "layernorm.": 4},
        ),
        (
            BeitBackbone,
            BeitConfig(num_hidden_layers=2, **SMALL, out_indices=[1, 2], use_relative_position_bias=True),
            3,
            {"embeddings.cls_token": 0, "0.attention.": 1, "1.attention.": 2},
        ),
        # mmsegmentation's LearningRateDecayOptimizerConstructor, decay_type stage_wise: num_layers is 6 for ConvNeXt-T and 12
        # for the others; the scale is rate ** (num_layers + 2 - id - 1) with id 0 for the downsampling, 1..4 for the stages.
        (
            ConvNextBackbone,
            ConvNextConfig(depths=[3, 3, 9, 3], hidden_sizes=[8] * 4),
            7,
            {
                "embeddings.": 0,
                "encoder.stages.1.downsampling_layer.": 0,
                "encoder.stages.0.layers.2.": 1,
                "encoder.stages.2.layers.8.": 3,
                "encoder.stages.3.layers.0.": 4,
                "hidden_states_norms.": 7,
            },
        ),
        (ConvNextBackbone, ConvNextConfig(depths=[3, 3, 27, 3], hidden_sizes=[8] * 4), 13, {"embeddings.": 0}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_backbones_of_transformers(model_class, config, count, expected):
    with torch.device("meta"):
        model = model_class(config)
    names = [name for name, _ in model.named_parameters()]
    depths, found = depths_from_names(names, model_class.__name__, config)
    assert found == count and set(depths) == set(names)
    for part, depth in expected.items():
        assert {depths[name] for name in names if part in name} == {depth}, part


def test_a_whole_model_of_transformers():
    config = SegformerConfig(hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, depths=[2, 1, 1, 1])
    with torch.device("meta"):
        model = SegformerForSemanticSegmentation(config)
    depths, count = layer_depths(model)
    assert count == 6
    assert {depth for name, depth in depths.items() if name.startswith("decode_head")} == {6}
    assert {depth for name, depth in depths.items() if not name.startswith("decode_head")} == {0, 1, 2, 3, 4, 5, 6}


def dpt():
    sizes = SMALL | {"num_hidden_layers": 4, "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
    return DPTConfig(**sizes, backbone_out_indices=[0, 1, 2, 3])


def convnext_with_uper():
    stages = {"depths": [1, 1, 9, 1], "hidden_sizes": [8] * 4, "out_features": [f"stage{i}" for i in range(1, 5)]}
    return UperNetConfig(backbone_config=ConvNextConfig(**stages), hidden_size=8)


UNIVERSAL = "model.pixel_level_module.encoder."


@pytest.mark.parametrize(
    ("config", "count", "backbone"),
    [
        (dpt(), 5, ("dpt.",)),
        (convnext_with_uper(), 7, ("backbone.",)),
        (config_of("mask2former"), 5, (UNIVERSAL,)),
        (config_of("maskformer"), 5, (UNIVERSAL,)),
        (config_of("oneformer"), 5, (UNIVERSAL,)),
        (config_of("eomt"), 4, ("embeddings.", "layers.", "layernorm.")),
        (config_of("eomt_dinov3"), 4, ("embeddings.", "layers.", "layernorm.")),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_all_behind_the_backbone_of_a_model_of_transformers_has_the_full_rate(config, count, backbone):
    with torch.device("meta"):
        model = model_from_config(config)
    depths, found = layer_depths(model)
    assert found == count and set(depths) == {name for name, _ in model.named_parameters()}
    behind = {name: depth for name, depth in depths.items() if not name.startswith(backbone)}
    assert behind and set(behind.values()) == {count}
    assert {depths[name] for name in depths.keys() - behind.keys()} >= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"_backbone.conv1": 0, "_backbone.layer1.1.": 2, "_backbone.layer2.0.": 3}),
        (
            "convnext_atto",
            {"_backbone.stem_0": 0, "_backbone.stages_0.blocks.1": 2, "_backbone.stages_1.downsample": 3},
        ),
        ("vit_tiny_patch16_224", {"model.patch_embed": 0, "model.pos_embed": 0, "model.blocks.1.": 2}),
    ],
)
def test_backbones_of_timm(name, expected):
    pytest.importorskip("timm")
    from transformers import TimmBackbone, TimmBackboneConfig

    config = TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=[1, 2])
    with torch.device("meta"):
        model = TimmBackbone(config)
    names = [name for name, _ in model.named_parameters()]
    depths, _ = depths_from_names(names, "TimmBackbone", config)
    for part, depth in expected.items():
        assert {depths[name] for name in names if part in name} == {depth}, part


def test_a_backbone_of_segzoo_whose_names_tell_nothing():
    with torch.device("meta"):
        depths, count = layer_depths(OneMapBackbone(OneMapConfig()))
        assert count == 3 and depths["blocks.0.conv.weight"] == 1 and depths["blocks.1.conv2.conv.weight"] == 2
        with pytest.raises(SegZooError, match="layers of UNetBackbone cannot be told"):
            layer_depths(UNetBackbone(UNetConfig()))


def test_a_backbone_whose_names_tell_nothing():
    with pytest.raises(SegZooError, match="layers of Strange cannot be told"):
        depths_from_names(["one.weight", "two.weight"], "Strange")

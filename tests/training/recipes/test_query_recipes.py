"""Learning rate and weight decay of single parameters of Mask2Former and MaskFormer, as mmengine's optimizer gives them."""

import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import SwinConfig
from segzoo.heads import Mask2FormerHeadConfig, MaskFormerHeadConfig
from segzoo.training import build_optimizer
from segzoo.training.recipes.recipe import load_recipe

TABLE = "backbone.stages.0.layers.0.attention.relative_position_bias_table"
# Factors on the recipe's learning rate and weight decay.
MASK2FORMER = {
    "backbone.stages.0.layers.0.attention.qkv.weight": (0.1, 1),
    "backbone.stages.0.layers.0.norm1.weight": (0.1, 0),
    "backbone.norms.stage1.bias": (0.1, 0),
    TABLE: (0.1, 0),
    "decode_heads.0.query_positions.weight": (1, 0),
    "decode_heads.0.query_features.weight": (1, 0),
    "decode_heads.0.level_embed.weight": (1, 0),
    "decode_heads.0.pixel_decoder.level_embed.weight": (1, 1),  # has another name there, which nothing matches
    "decode_heads.0.pixel_decoder.input_convs.0.norm.weight": (1, 0),
    "decode_heads.0.layers.0.norm3.bias": (1, 0),
    "decode_heads.0.norm.weight": (1, 0),
    "decode_heads.0.layers.0.cross_attention.in_proj.bias": (1, 1),
    "decode_heads.0.mask_embed.0.bias": (1, 1),
}
SWIN = {
    "backbone.stages.0.layers.0.attention.qkv.weight": (1, 1),
    "backbone.stages.0.layers.0.norm1.weight": (1, 0),
    TABLE: (1, 0),
    "decode_heads.0.query_positions.weight": (1, 0),
    "decode_heads.0.norm.weight": (1, 1),
    "decode_heads.0.pixel_decoder.lateral_convs.0.norm.weight": (1, 1),
}
RESNET = {name: (0.1 if name.startswith("backbone.") else 1, 1) for name in SWIN}


@pytest.mark.parametrize(
    ("name", "head", "factors"),
    [
        ("mask2former_160k_ade20k_512x512", Mask2FormerHeadConfig, MASK2FORMER),
        ("maskformer_swin_160k_ade20k_512x512", MaskFormerHeadConfig, SWIN),
        ("maskformer_r50_160k_ade20k_512x512", MaskFormerHeadConfig, RESNET),
    ],
)
def test_groups_of_single_parameters(name, head, factors):
    config = head.tiny()
    config.in_channels = None
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(SegZooConfig.from_backbone(SwinConfig.tiny(), config, auxiliary=False))
    recipe = load_recipe(name)
    optimizer = build_optimizer(model, recipe.optimizer_options)
    groups = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    for key, (rate, decay) in factors.items():
        expected = recipe.learning_rate * rate, recipe.weight_decay * decay
        assert groups[id(parameters[key])] == pytest.approx(expected), key

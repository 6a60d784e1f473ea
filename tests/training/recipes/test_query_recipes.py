"""Learning rate and weight decay of single parameters of Mask2Former, MaskFormer and K-Net, as mmengine's and mmcv's optimizers give
them."""

import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import SwinConfig
from segzoo.heads import KNetHeadConfig, Mask2FormerHeadConfig, MaskFormerHeadConfig
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
# mmcv's key "norm" is found in the original's names of these.
KNET = {
    "backbone.stages.0.layers.0.norm1.weight": (1, 0),
    "backbone.norms.stage1.bias": (1, 0),
    TABLE: (1, 0),
    "decode_heads.0.generator.convs.0.norm.weight": (1, 1),  # bn
    "decode_heads.0.stages.0.attention_norm.weight": (1, 0),
    "decode_heads.0.stages.1.feed_forward.1.bias": (1, 0),  # ffn_norm
    "decode_heads.0.stages.0.updator.gathered_gate_norm.weight": (1, 0),  # input_norm_in
    "decode_heads.0.stages.1.updator.output_norm.bias": (1, 0),  # fc_norm
    "decode_heads.0.stages.0.mask_layers.0.weight": (1, 1),  # mask_fcs.0
    "decode_heads.0.stages.0.mask_layers.1.weight": (1, 1),  # mask_fcs.1, a layer norm
    "decode_heads.0.stages.1.mask_layers.1.bias": (1, 1),
    "decode_heads.0.stages.1.mask_layers.3.bias": (1, 1),  # fc_mask
    "decode_heads.0.classifier.bias": (1, 1),
}


@pytest.mark.parametrize(
    ("name", "head", "factors"),
    [
        ("mask2former_160k_ade20k_512x512", Mask2FormerHeadConfig, MASK2FORMER),
        ("maskformer_swin_160k_ade20k_512x512", MaskFormerHeadConfig, SWIN),
        ("maskformer_r50_160k_ade20k_512x512", MaskFormerHeadConfig, RESNET),
        ("knet_swin_80k_ade20k_512x512", KNetHeadConfig, KNET),
        ("knet_swin_80k_ade20k_640x640", KNetHeadConfig, KNET),
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

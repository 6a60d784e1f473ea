"""The parameter groups of SegFormer's trainings, by hand after what mmcv's rules for names really match.

``norm`` turns decay off where a name holds it: not in a head, whose rule comes first, nor for the norms behind
mmsegmentation's stages, which are called ``layers.0.2``. ``pos_block`` matches nothing.
"""

import pytest
import torch

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.training.optimization import parameter_groups
from segzoo.training.recipes.recipe import load_recipe

# Name -> (factor on the learning rate, weight decay).
GROUPS = {
    "backbone.stages.0.patch_embedding.weight": (1, 0.01),
    "backbone.stages.0.patch_norm.weight": (1, 0),
    "backbone.stages.0.blocks.0.norm1.bias": (1, 0),
    "backbone.stages.0.blocks.0.attention.q.weight": (1, 0.01),
    "backbone.stages.0.blocks.0.attention.kv.bias": (1, 0.01),
    "backbone.stages.0.blocks.0.attention.reduction.weight": (1, 0.01),
    "backbone.stages.0.blocks.0.attention.norm.weight": (1, 0),
    "backbone.stages.3.blocks.1.norm2.weight": (1, 0),
    "backbone.stages.3.blocks.1.mlp.depthwise_conv.weight": (1, 0.01),
    "backbone.stages.0.norm.weight": (1, 0.01),
    "backbone.stages.3.norm.bias": (1, 0.01),
    "decode_heads.0.projections.0.conv.weight": (10, 0.01),
    "decode_heads.0.projections.0.norm.weight": (10, 0.01),
    "decode_heads.0.fusion_conv.norm.bias": (10, 0.01),
    "decode_heads.0.classifier.bias": (10, 0.01),
}


@pytest.mark.parametrize(
    "name",
    [
        "segformer_mit-b0_512x512_160k_ade20k",
        "segformer_mit-b5_640x640_160k_ade20k",
        "segformer_mit-b0_8x1_1024x1024_160k_cityscapes",
    ],
)
def test_groups(name):
    translation, recipe = translate_config(zoo.original_config(name)), load_recipe(name)
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    options = recipe.optimizer_options
    groups = parameter_groups(
        model,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        no_decay=options.no_decay,
        layer_decay=options.layer_decay,
        head_lr_multiplier=options.head_lr_multiplier,
        parameter_rules=options.parameter_rules,
    )
    found = {id(p): (group["lr"] / 6e-5, group["weight_decay"]) for group in groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    assert {key: found[id(parameters[key])] for key in GROUPS} == {
        key: pytest.approx(value) for key, value in GROUPS.items()
    }
    without = [key for key, parameter in parameters.items() if found[id(parameter)][1] == 0]
    assert all("norm" in key for key in without)
    config = translation.config.backbone_config
    reduced = sum(depth for depth, ratio in zip(config.depths, config.reductions, strict=True) if ratio > 1)
    assert len(without) == 2 * (4 + 2 * sum(config.depths) + reduced)

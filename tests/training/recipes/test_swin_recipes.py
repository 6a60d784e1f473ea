"""Learning rate and weight decay of single parameters of Swin, as mmcv's optimizer gives them."""

import pytest
import torch

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.training import build_optimizer
from segzoo.training.recipes.recipe import load_recipe

NAME = "upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K"
# The original's key "norm" is found in the names of all layer norms, and in no name of a batch norm, which is "bn".
DECAYS = {
    "backbone.patch_embedding.weight": True,
    "backbone.patch_embedding.bias": True,
    "backbone.position_embeddings": False,
    "backbone.embedding_norm.weight": False,
    "backbone.embedding_norm.bias": False,
    "backbone.stages.0.layers.0.norm1.weight": False,
    "backbone.stages.0.layers.0.norm1.bias": False,
    "backbone.stages.0.layers.0.attention.relative_position_bias_table": False,
    "backbone.stages.0.layers.0.attention.qkv.weight": True,
    "backbone.stages.0.layers.0.attention.qkv.bias": True,
    "backbone.stages.3.layers.1.mlp.fc2.bias": True,
    "backbone.stages.2.downsample.norm.weight": False,
    "backbone.stages.2.downsample.reduction.weight": True,
    "backbone.norms.stage1.bias": False,
    "decode_heads.0.context_conv.norm.weight": True,
    "decode_heads.0.context_conv.norm.bias": True,
    "decode_heads.0.classifier.bias": True,
}


@pytest.mark.parametrize("name", [NAME])
def test_groups_of_single_parameters(name):
    values = zoo.original_config(name)
    values["model"]["backbone"]["use_abs_pos_embed"] = True
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translate_config(values).config)
    optimizer = build_optimizer(model, load_recipe(name).optimizer_options)
    groups = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    assert {key: groups[id(parameters[key])] for key in DECAYS} == {
        key: (6e-5, 0.01 if decays else 0.0) for key, decays in DECAYS.items()
    }

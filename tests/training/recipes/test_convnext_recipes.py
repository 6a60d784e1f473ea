"""Learning rate and weight decay of single parameters of ConvNeXt, as mmsegmentation's optimizer gives them.

Its decay is by stage. All steps down count as the stem, of depth 0, and a stage's blocks as the stage, from 1 to 4. The
largest depth comes from the config: 7 for ConvNeXt-T and 13 for all others. Heads, and the norms of the maps, have the
full rate. Vectors do not decay.
"""

import pytest
import torch

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.training import build_optimizer
from segzoo.training.recipes.recipe import load_recipe

# Depth, or None for the full rate, and whether it decays.
PARAMETERS = {
    "backbone.patch_embedding.weight": (0, True),
    "backbone.patch_embedding.bias": (0, False),
    "backbone.embedding_norm.weight": (0, False),
    "backbone.stages.1.downsample.norm.bias": (0, False),
    "backbone.stages.3.downsample.conv.weight": (0, True),
    "backbone.stages.0.layers.0.depthwise_conv.weight": (1, True),
    "backbone.stages.0.layers.2.scale": (1, False),
    "backbone.stages.1.layers.2.norm.weight": (2, False),
    "backbone.stages.2.layers.8.mlp.fc1.weight": (3, True),
    "backbone.stages.3.layers.2.mlp.fc2.bias": (4, False),
    "backbone.norms.stage1.weight": (None, False),
    "backbone.norms.stage4.bias": (None, False),
    "decode_heads.0.fusion_conv.conv.weight": (None, True),
    "decode_heads.0.fusion_conv.norm.weight": (None, False),
    "auxiliary_heads.0.classifier.bias": (None, False),
}


@pytest.mark.parametrize(
    ("name", "rate", "largest"),
    [
        ("upernet_convnext_tiny_fp16_512x512_160k_ade20k", 1e-4, 7),
        ("upernet_convnext_xlarge_fp16_640x640_160k_ade20k", 8e-5, 13),
    ],
)
def test_groups_of_single_parameters(name, rate, largest):
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translate_config(zoo.original_config(name)).config)
    optimizer = build_optimizer(model, load_recipe(name).optimizer_options)
    groups = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    for parameter, (depth, decays) in PARAMETERS.items():
        scale = 1.0 if depth is None else 0.9 ** (largest - depth)
        assert groups[id(parameters[parameter])] == pytest.approx((rate * scale, 0.05 if decays else 0.0)), parameter

"""The parameter groups of VAN's trainings with UPerNet, whose rule for ``norm`` does not match the heads' ``bn``."""

import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import VANConfig
from segzoo.heads import UPerHeadConfig
from segzoo.training.optimization import parameter_groups
from segzoo.training.recipes.recipe import load_recipe

DECAYS = {
    "backbone.stages.0.patch_embedding.weight": 0.01,
    "backbone.stages.0.patch_norm.weight": 0,
    "backbone.stages.0.blocks.0.norm1.bias": 0,
    "backbone.stages.0.blocks.0.scale1": 0.01,
    "backbone.stages.3.blocks.0.attention.far.bias": 0.01,
    "backbone.stages.3.norm.weight": 0,
    "decode_heads.0.classifier.bias": 0.01,
}


def test_groups():
    options = load_recipe("van_upernet_160k_ade20k_512x512").optimizer_options
    with torch.device("meta"):
        config = SegZooConfig.from_backbone(VANConfig.tiny(), UPerHeadConfig(channels=8), num_labels=5)
        model = SegZooForSemanticSegmentation(config)
    groups = parameter_groups(
        model,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        no_decay=options.no_decay,
        parameter_rules=options.parameter_rules,
    )
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    assert {key: found[id(parameters[key])] for key in DECAYS} == {k: pytest.approx(v) for k, v in DECAYS.items()}
    norms = [name for name in parameters if name.startswith("decode_heads") and ".norm." in name]
    assert norms and {found[id(parameters[name])] for name in norms} == {0.01}

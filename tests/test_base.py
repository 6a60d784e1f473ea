"""What every config shares: typed options, and errors for unknown ones."""

import inspect
import re
from dataclasses import fields

import pytest
from torch import nn
from transformers import PreTrainedConfig

from segzoo.backbones import MobileNetV2Backbone, MobileNetV2Config, ResNetBackbone, ResNetConfig
from segzoo.base import _TRANSFORMERS_KEYS
from segzoo.layers import GroupNorm


def test_the_keys_of_transformers_are_those_of_its_version():
    """A new release of transformers may give more to a config: add to `_TRANSFORMERS_KEYS` what is missing here."""
    source = inspect.getsource(PreTrainedConfig.__post_init__)
    taken = set(re.findall(r'kwargs\.(?:pop|get)\("(\w+)"', source)) - {"rope_scaling", "rope_theta"}  # no images
    config = PreTrainedConfig()
    names = {field.name for field in fields(PreTrainedConfig)}
    attributes = vars(config).keys() - names - {"_post_init_done"}
    written = config.to_dict().keys() - names
    assert len(taken) > 5 and taken | attributes | written <= _TRANSFORMERS_KEYS


@pytest.mark.parametrize(
    ("config", "model_class", "activation"),
    [
        (ResNetConfig(depth=18, base_channels=32), ResNetBackbone, nn.ReLU),
        (MobileNetV2Config(widen_factor=4), MobileNetV2Backbone, nn.ReLU6),
    ],
)
def test_backbones_are_made_of_the_blocks_of_their_config(config, model_class, activation):
    kinds = {type(module) for module in model_class(config).modules()}
    assert activation in kinds and GroupNorm not in kinds
    config.norm, config.norm_eps, config.activation = "group_norm", 1e-3, "silu"
    model = model_class(config)
    kinds = {type(module) for module in model.modules()}
    assert nn.SiLU in kinds and activation not in kinds and not any(issubclass(k, nn.BatchNorm2d) for k in kinds)
    assert {module.eps for module in model.modules() if isinstance(module, GroupNorm)} == {1e-3}

"""What every config shares: typed options, and errors for unknown ones."""

import inspect
import json
import re
from dataclasses import fields

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import nn
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PreTrainedConfig

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import BACKBONES, HEADS, NECKS
from segzoo.backbones import ERFNetConfig, MobileNetV2Backbone, MobileNetV2Config, ResNetBackbone, ResNetConfig
from segzoo.base import _TRANSFORMERS_KEYS
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig, PSAHeadConfig
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


def test_keys_that_are_not_known_load_with_a_warning_and_are_kept(tmp_path):
    SegZooConfig.tiny().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    written["lab"] = {"sample": 3}
    written["decode_head_configs"][0]["later_option"] = 2
    written["backbone_config"]["later_stem"] = "x"
    path.write_text(json.dumps(written))
    for load in (SegZooConfig.from_pretrained, AutoConfig.from_pretrained):
        with pytest.warns(UserWarning, match="does not know") as warned:
            config = load(tmp_path)
        texts = " ".join(str(warning.message) for warning in warned)
        assert all(
            f"{kind} has '{key}'" in texts
            for kind, key in (("segzoo", "lab"), ("uper_head", "later_option"), ("resnet", "later_stem"))
        )
        assert config.lab == {"sample": 3}
        assert config.decode_head_configs[0].later_option == 2 and config.backbone_config.later_stem == "x"
        config.save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text()) == written
    with pytest.warns(UserWarning, match="does not know"):
        SegZooForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
        loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model")
    assert loaded.config.lab == {"sample": 3}
    with pytest.raises(SegZooError, match="no_such_option"):  # also after something was loaded
        SegZooConfig(no_such_option=1)
    with pytest.raises(SegZooError, match="later_option"):
        SegZooConfig(decode_head_configs=[{"model_type": "segzoo_uper_head", "later_option": 2}])


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


def test_whole_numbers_stand_for_floats():
    config = FCNHeadConfig(dropout=0)
    assert type(config.dropout) is float and json.loads(config.to_json_string()).get("dropout", 0.0) == 0.0
    config.dropout = 1
    assert type(config.dropout) is float and config.dropout == 1.0
    assert type(ERFNetConfig(dropout=0).dropout) is float  # no "must be 1 at least", which is for sizes
    assert type(PSAHeadConfig(normalization_factor=2).normalization_factor) is float
    assert type(ResNetConfig(base_channels=32).base_channels) is int
    for wrong in (True, "0", 10**400):
        with pytest.raises(StrictDataclassFieldValidationError, match="dropout"):
            FCNHeadConfig(dropout=wrong)
    with pytest.raises(StrictDataclassFieldValidationError, match="base_channels"):
        ResNetConfig(base_channels=32.0)


def test_every_float_of_every_config_takes_whole_numbers():
    looked_at = 0
    for entry in (BACKBONES | HEADS | NECKS).values():
        config = entry.config.tiny()
        for field in fields(config):
            value = getattr(config, field.name)
            if type(value) is float and field.name not in {field.name for field in fields(PreTrainedConfig)}:
                setattr(config, field.name, round(value))
                assert type(getattr(config, field.name)) is float, (entry.config, field.name)
                looked_at += 1
    assert looked_at > 100


def test_parts_of_a_config_are_not_written_as_text_to_check_their_types(monkeypatch):
    """huggingface_hub's check writes the value for each type of a union that does not fit, which took half of a
    config's time."""
    monkeypatch.setattr(PreTrainedConfig, "__repr__", lambda self: pytest.fail("written as text"))
    config = SegZooConfig.tiny()
    SegZooConfig(backbone_config=config.backbone_config, decode_head_configs=config.decode_head_configs)


def test_a_field_is_not_checked_by_every_class_that_its_config_derives_from(monkeypatch):
    """By its own class and by transformers', whose check looks at the fields of all."""
    seen = []
    config = ResNetConfig()
    monkeypatch.setitem(ResNetConfig.__validators__, "depth", [seen.append])
    config.depth = 101
    assert seen == [101] * 2 and config.depth == 101

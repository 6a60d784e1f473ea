"""One registration makes a class known everywhere."""

import pytest
from support.odd_backbones import OneMapBackbone, OneMapConfig
from transformers import AutoConfig

from segzoo.auto import BACKBONES, HEADS, NECKS, Registration, backbone_variants, register_backbone
from segzoo.backbones import ResNetBackbone, ResNetConfig, resnet
from segzoo.errors import SegZooError


def test_a_registration_has_the_classes_and_the_variants():
    assert BACKBONES["segzoo_resnet"] == Registration(ResNetConfig, ResNetBackbone, resnet.VARIANTS)
    assert all(not entry.variants for entry in (*HEADS.values(), *NECKS.values()))
    assert BACKBONES["segzoo_resnet"].variant_config("resnet18_d8").dilations == [1, 1, 2, 4]


def test_variants_of_every_registered_backbone_are_found_by_name():
    assert backbone_variants()["vit-adapter-b"] is BACKBONES["segzoo_vit_adapter"]
    register_backbone(OneMapConfig, OneMapBackbone, variants={"one-map-wide": {"width": 32}})
    assert backbone_variants()["one-map-wide"].variant_config("one-map-wide").width == 32


def test_a_variant_name_that_another_backbone_has_is_refused():
    with pytest.raises(SegZooError, match="OneMapConfig and ResNetConfig both have a variant 'resnet50'; rename"):
        register_backbone(OneMapConfig, OneMapBackbone, variants={"one-map": {}, "resnet50": {}})
    assert "odd_one_map" not in BACKBONES
    register_backbone(ResNetConfig, ResNetBackbone, variants=resnet.VARIANTS)  # once more is no conflict


@pytest.mark.parametrize("name", sorted(backbone_variants()))
def test_every_variant_makes_a_config(name):
    entry = backbone_variants()[name]
    config = entry.variant_config(name)
    assert type(config) is entry.config and type(AutoConfig.for_model(**config.to_dict())) is entry.config

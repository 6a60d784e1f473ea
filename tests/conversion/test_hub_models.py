"""The refusal of a type without a rule names what its publisher has on the Hub."""

import pytest
from conversion import tiny

from segzoo.conversion.errors import ConversionError, UnknownTypeError
from segzoo.conversion.hub_models import hub_models, hub_models_named
from segzoo.conversion.translate import translate_config

MODELS = [
    ("D2SwinTransformer", "Mask2FormerHead", "facebook/mask2former-swin-large-ade-semantic"),
    ("ResNet", "MaskFormerHead", "facebook/maskformer-swin-base-ade"),
    ("BEiT", "UPerHead", "microsoft/beit-base-finetuned-ade-640-640"),
    ("VisionTransformer", "DPTHead", "Intel/dpt-large-ade"),
]


@pytest.mark.parametrize(("backbone", "head", "name"), MODELS)
def test_the_publisher_s_models(backbone, head, name):
    model = {"backbone": {"type": backbone}, "decode_head": {"type": head}}
    assert name in hub_models(model)
    with (
        pytest.raises(UnknownTypeError, match=f"no rule; on the Hub its publisher has .*{name}"),
        hub_models_named(model),
    ):
        raise UnknownTypeError("no rule")


@pytest.mark.parametrize("head", [{"type": "OwnHead"}, [{"type": "UPerHead"}], None, {}, {"type": 3}])
def test_none_is_known(head):
    model = {"backbone": {"type": "SwinTransformer"}, "decode_head": head}
    assert hub_models(model) is None
    with pytest.raises(UnknownTypeError, match="^no rule$"), hub_models_named(model):
        raise UnknownTypeError("no rule")


def test_of_a_config():
    values = tiny.config(model__backbone={"type": "D2SwinTransformer"}, model__decode_head={"type": "MaskFormerHead"})
    with pytest.raises(ConversionError, match="type 'D2SwinTransformer' .*facebook/maskformer-swin-tiny-ade"):
        translate_config(values)
    values["model"]["decode_head"]["type"] = "OwnHead"
    with pytest.raises(ConversionError) as caught:
        translate_config(values)
    assert "Hub" not in str(caught.value)

import pytest
import torch
from support.contract import assert_close, settle

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.inference.faster import faster_on_cpu


@pytest.fixture
def model():
    torch.manual_seed(0)
    return settle(SegZooForSemanticSegmentation(SegZooConfig.tiny())).eval()


def test_the_copy_is_fused_and_the_model_stays(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(image).logits
        faster = faster_on_cpu(model)
        assert faster.fused and not model.fused
        assert_close(faster(image).logits, expected)
    assert faster_on_cpu(faster) is faster
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert any(parameter.data_ptr() in own for parameter in faster.parameters())  # weights are shared
    assert faster_on_cpu(model, fuse=False) is model


@pytest.mark.parametrize("change", ["hook", "half"])
def test_what_others_have_changed_stays(model, change):
    if change == "hook":
        model.backbone.register_forward_hook(lambda *_: None)
    else:
        model.bfloat16()
    assert faster_on_cpu(model) is model
    assert not model.fused


def test_models_of_others_stay():
    assert isinstance(faster_on_cpu(torch.nn.Identity()), torch.nn.Identity)

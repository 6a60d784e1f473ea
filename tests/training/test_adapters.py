import copy

import pytest
import torch
from support.contract import settle, tiny_composite
from torch import nn

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import BACKBONES
from segzoo.backbones import ViTConfig
from segzoo.training import modules_to_save

peft = pytest.importorskip("peft")


def layers_of_backbone(model):
    """Some layers of a kind that peft adapts."""
    layers = [
        name
        for name, module in model.backbone.named_modules(prefix="backbone")
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.groups == 1 and module.dilation == (1, 1))
    ]
    return layers[:4]


@pytest.mark.parametrize("backbone", [*sorted(BACKBONES), "with a neck"])
def test_a_saved_adapter_is_the_model_that_was_trained(backbone, tmp_path):
    if backbone == "with a neck":
        model = SegZooForSemanticSegmentation(SegZooConfig.from_backbone(ViTConfig.tiny(), num_labels=4))
        assert model.neck is not None
    else:
        model = tiny_composite(backbone, "segzoo_fcn_head")
    settle(model).eval()
    config = peft.LoraConfig(r=2, target_modules=layers_of_backbone(model), modules_to_save=modules_to_save(model))
    trained = peft.get_peft_model(copy.deepcopy(model), config).train()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 4, (2, 64, 64))
    trained(pixel_values=images, labels=labels).loss.backward()
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    trained.eval().save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    with torch.no_grad():
        before, after, again = (m(pixel_values=images).logits for m in (model, trained, loaded))
    torch.testing.assert_close(again, after)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    state, saved = trained.state_dict(), loaded.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in state.items())

"""Models after ``fuse()``: the same results without batch norms, and no way back."""

import copy

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn

from segzoo import AutoBackbone, AutoHead, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import BACKBONES, HEADS
from segzoo.errors import SegZooError
from segzoo.fusing import fuse_blocks
from segzoo.layers import ConvNormAct
from segzoo.layers.transposed_conv import TransposedConvNormAct


def norms_after_convolutions(model):
    blocks = [module for module in model.modules() if isinstance(module, ConvNormAct)]
    return [block for block in blocks if isinstance(block.norm, nn.BatchNorm2d)]


@torch.no_grad()
def compare(model, run):
    """Fuse a copy of the model; all tensors that ``run`` gets from it must stay the same."""
    fused = copy.deepcopy(model)
    before = list(run(model))
    fuse_blocks(fused)
    assert not norms_after_convolutions(fused)
    for found, expected in zip(run(fused), before, strict=True):
        assert_close(found, expected)
    return fused


@pytest.mark.parametrize("model_type", sorted(BACKBONES))
def test_backbones_stay_the_same(model_type):
    torch.manual_seed(0)
    model = settle(AutoBackbone.from_config(BACKBONES[model_type].config.tiny())).eval()
    image = torch.randn(1, 3, 64, 96)
    compare(model, lambda model: model(image).feature_maps)


@pytest.mark.parametrize("model_type", sorted(HEADS))
def test_heads_stay_the_same(model_type):
    torch.manual_seed(0)
    config = HEADS[model_type].config.tiny()
    model, inputs = settle(AutoHead.from_config(config)).eval(), config.tiny_inputs()
    compare(model, lambda model: [model(**inputs).logits])


@pytest.mark.parametrize(
    "model_type", ["segzoo_resnet", "segzoo_hrnet", "segzoo_mobilenetv2", "segzoo_bisenetv1", "segzoo_stdc"]
)
def test_no_batch_norm_is_left_in_convolutional_backbones(model_type):
    model = settle(AutoBackbone.from_config(BACKBONES[model_type].config.tiny())).eval()
    assert norms_after_convolutions(model)
    fuse_blocks(model)
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_group_norms_and_other_activations_stay():
    block = ConvNormAct(8, 32, 3, padding=1, norm="group_norm", activation="gelu").eval()
    x = torch.randn(1, 8, 6, 6)
    fused = compare(block, lambda block: [block(x)])
    assert isinstance(fused.norm, nn.GroupNorm)


@pytest.mark.parametrize("kernel_size", [2, 3, 4])
def test_transposed_convolutions(kernel_size):
    block = settle(TransposedConvNormAct(6, 5, kernel_size)).eval()
    x = torch.randn(1, 6, 7, 8)
    fused = compare(block, lambda block: [block(x)])
    assert isinstance(fused.norm, nn.Identity)


def test_a_convolution_that_an_adapter_has_replaced_keeps_its_norm():
    block = ConvNormAct(8, 8, 1).eval()
    block.conv = nn.Sequential(block.conv)
    fuse_blocks(block)
    assert isinstance(block.norm, nn.BatchNorm2d)


def test_a_whole_model_in_inference(tmp_path):
    torch.manual_seed(0)
    model = settle(SegZooForSemanticSegmentation(SegZooConfig.tiny())).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(image).logits
        assert model.fuse() is model
        assert model.fused
        assert_close(model(image).logits, expected)
        assert_close(model.fuse()(image).logits, expected)  # once more changes nothing
    with pytest.raises(SegZooError, match="load it again"):
        model.train()
    assert model.eval() is model
    with pytest.raises(SegZooError, match="load it again"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_in_training_is_not_fused():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny()).train()
    with pytest.raises(SegZooError, match="eval"):
        model.fuse()
    assert not model.fused
    assert norms_after_convolutions(model)

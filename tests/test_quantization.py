"""Quantised loading: `from_pretrained(..., quantization_config=...)` with each library that is installed."""

from collections import Counter

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn
from transformers import AutoModelForSemanticSegmentation, BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ConvNeXtConfig, InternImageConfig, ViTAdapterConfig, ViTConfig
from segzoo.heads import UPerHeadConfig
from segzoo.layers import PointwiseLinear


def torchao() -> TorchAoConfig:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


def bitsandbytes() -> BitsAndBytesConfig:
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_8bit=True)


def quanto() -> QuantoConfig:
    pytest.importorskip("optimum.quanto")
    return QuantoConfig(weights="int8")


ADAPTER, CONVNEXT = ViTAdapterConfig.tiny(), ConvNeXtConfig.tiny()
INTERNIMAGE, VIT = InternImageConfig.tiny(), ViTConfig.tiny()
CASES = [
    pytest.param(library, backbone, id=f"{library.__name__}-{backbone.model_type}")
    for library in (torchao, bitsandbytes, quanto)
    for backbone in (ADAPTER, CONVNEXT, INTERNIMAGE, VIT)
]


@pytest.mark.parametrize(("library", "backbone"), CASES)
def test_loads_quantised(library, backbone, tmp_path):
    quantization_config = library()
    config = SegZooConfig.from_backbone(backbone, UPerHeadConfig(channels=8), num_labels=5)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path / "model", quantization_config=quantization_config, dtype=torch.float32
    ).eval()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    quantised = Counter(type(loaded.get_submodule(name).weight) for name in linear)
    assert quantised.keys().isdisjoint({nn.Parameter, torch.Tensor}) and len(linear) > 5
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, found = model(images).logits, loaded(images).logits
        assert_close(found, expected, 0.05)
        assert not torch.equal(found, expected)
        if library is not quanto:  # of which transformers saves nothing
            loaded.save_pretrained(tmp_path / "quantised")
            again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "quantised").eval()
            assert_close(again(images).logits, found, 1e-4)


def test_quantised_weights_of_a_model_that_is_loaded():
    """The short ways of our own layers are for plain weights."""
    quantization = pytest.importorskip("torchao.quantization")
    config = SegZooConfig.from_backbone(ADAPTER, UPerHeadConfig(channels=8), num_labels=5)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    images = torch.randn(1, 3, 64, 96)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # with one, PointwiseLinear has no short way
    try:
        with torch.no_grad():
            expected = model(images).logits
            quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
            assert_close(model(images).logits, expected, 0.05)
    finally:
        torch.set_num_threads(threads)


def test_models_that_are_not_quantised_keep_their_fast_layers(tmp_path):
    config = SegZooConfig.from_backbone(VIT, UPerHeadConfig(channels=8), num_labels=5)
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert any(isinstance(module, PointwiseLinear) for module in loaded.modules())

"""Loading a model with its image processor."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinBackbone,
    SwinConfig,
)

import segzoo
from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetBackbone, ResNetConfig
from segzoo.hub import save_model_folder
from segzoo.inference.loading import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    return str(save_model_folder(model, SegZooImageProcessor(do_resize=False), tmp_path_factory.mktemp("m") / "tiny"))


def test_model_and_processor(folder):
    loaded = segzoo.load(folder)
    model, processor = loaded
    assert loaded.model is model and loaded.processor is processor
    assert isinstance(model, SegZooForSemanticSegmentation) and isinstance(processor, SegZooImageProcessor)
    assert not model.training and model.device == torch.device("cpu")


def test_what_is_not_there(folder, tmp_path):
    with pytest.raises(SegZooError, match="no such model folder"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(SegZooError, match="is a file; give a model folder"):
        load_model(f"{folder}/config.json")
    with pytest.raises(SegZooError, match="does not load as a segmentation model"):
        load_model(str(tmp_path))
    with pytest.raises(SegZooError, match="device nonsense cannot be used here"):
        load_model(folder, "nonsense")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, key: state.pop(key), r"1 weights are missing \({key}\)"),
        (lambda state, key: state.update({key: state[key][:1]}), r"1 weights are of another shape \({key}: 1x.* instead of"),
        (lambda state, key: state.update({"other.weight": torch.zeros(1)}), r"unknown to the model \(other.weight\)"),
    ],
)  # fmt: skip
def test_other_weights_are_refused_by_name(change, message, folder, tmp_path, capfd):
    broken = shutil.copytree(folder, tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    key = next(name for name in state if name.endswith("weight") and state[name].ndim == 4)
    change(state, key)
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SegZooError, match=message.format(key=key)) as caught:
        segzoo.load(broken)
    assert "\n" not in str(caught.value) and "LOAD REPORT" not in "".join(capfd.readouterr())


def test_a_model_of_transformers(tmp_path):
    """Its weights must be whole; those of another task beside them do no harm."""
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    model = SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=16, num_labels=3))
    for part in (model, SegformerImageProcessor()):
        part.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors") | {"classifier.weight": torch.zeros(3, 16)}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert type(segzoo.load(tmp_path).model) is SegformerForSemanticSegmentation
    del state["decode_head.classifier.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SegZooError, match=r"missing \(decode_head.classifier.weight\)"):
        segzoo.load(tmp_path)


@pytest.mark.parametrize("kind", ["segzoo", "transformers"])
def test_a_backbone_is_told_apart(kind, tmp_path):
    if kind == "segzoo":
        backbone = ResNetBackbone(ResNetConfig.tiny())
    else:
        backbone = SwinBackbone(SwinConfig(embed_dim=12, depths=[1, 1], num_heads=[1, 2]))
    backbone.save_pretrained(tmp_path)
    assert "model_type" in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(SegZooError, match=rf"this is a backbone .*`segzoo train --backbone {tmp_path}`"):
        segzoo.load(tmp_path)

"""Checkpoints around ``TIMMBackbone``, whose weights have timm's names."""

import pytest
import timm
import torch
from conversion import tiny

from segzoo import load
from segzoo.conversion import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.translate import translate_config

LIGHT = {"type": "TIMMBackbone", "model_name": "resnet10t", "pretrained": True}
LAST = {"model__decode_head__in_channels": 512, "model__decode_head__in_index": -1, "model__pretrained": None}


def config(**backbone):
    return tiny.config(model__backbone={**LIGHT, **backbone}, **LAST)


@pytest.mark.parametrize("options", [{}, {"out_indices": (1, 2, 4)}, {"output_stride": 8, "in_channels": 3}])
def test_maps_are_those_of_timm(tmp_path, options):
    """As the original wraps it: the model with ``timm_model.`` before its names, without classifier."""
    values = config(**options)
    state = tiny.state_dict(values)
    given = {name: value for name, value in options.items() if name != "in_channels"}
    theirs = timm.create_model("resnet10t", features_only=True, **given).eval()
    prefix = "backbone.timm_model."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    theirs.load_state_dict(weights, strict=True)
    convert_checkpoint(tiny.save(tmp_path / "timm.pth", values, state=state), output=tmp_path / "out")
    model, _ = load(tmp_path / "out")
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = model.eval().backbone(image).feature_maps, theirs(image)
    assert len(found) == len(wanted) == len(options.get("out_indices", range(5)))
    assert all(torch.equal(ours, map_) for ours, map_ in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_name": "resnet10x"}, "model_name='resnet10x': timm .* has no model of this name"),
        ({"out_indices": (1, 9)}, r"out_indices=\(1, 9\): timm cannot build it"),
        ({"features_only": False}, "features_only=False is not supported"),
        ({"type": "mmpretrain.TIMMBackbone"}, "features_only=False is not supported"),
        ({"norm_layer": "SyncBN"}, "unknown option norm_layer='SyncBN'"),
    ],
)
def test_refused(options, words):
    with pytest.raises(ConversionError, match=words):
        translate_config(config(**options))


def test_timm_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("segzoo.conversion.rules.timm_backbone.is_timm_available", lambda: False)
    with pytest.raises(ConversionError, match=r"is a model of timm; pip install 'segzoo\[timm\]'"):
        translate_config(config())


def test_of_mmpretrain():
    values = config(type="mmpretrain.TIMMBackbone", features_only=True, drop_path_rate=0.1)
    translation = translate_config(values)
    assert translation.config.backbone_config.backbone == "resnet10t"
    assert "drop_path_rate=0.1" in translation.notes[0]

"""Windows and rescaling against what mmsegmentation 0.27 gave for the PSPNet-R18 record, in float64."""

import json
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights
from segzoo.inference import label_map_from_logits, probabilities_from_logits

NAME = "pspnet_r18-d8_512x1024_80k_cityscapes"
MODEL = json.loads((Path(__file__).parents[1] / "parity" / "records" / f"{NAME}.json").read_text())
RECORD = json.loads((Path(__file__).parent / "records" / f"slide_{NAME}.json").read_text())
VALUES = load_file(Path(__file__).parent / "records" / f"slide_{NAME}.safetensors")


@pytest.fixture(scope="module")
def model():
    translation = translate_config(MODEL["config"])
    model = SegZooForSemanticSegmentation(translation.config)
    state, _ = match_weights(synthesis.state_dict(MODEL["keys"]), translation.components, model.state_dict())
    model.load_state_dict(state)
    return model.double().eval()


@pytest.fixture(scope="module")
def pixel_values():
    return synthesis.image(RECORD["input"]["label"], RECORD["input"]["shape"]).double()


def assert_recorded(maps, name):
    output = next(output for output in RECORD["outputs"] if output["name"] == name)
    assert list(maps.shape) == output["shape"]
    expected = VALUES[name].double()
    sampled = maps[..., output["rows"], :][..., output["cols"]]
    assert (sampled - expected.reshape(sampled.shape)).abs().max() <= 3e-7 * expected.abs().max()
    assert abs(float(maps.mean()) - output["mean"]) <= 1e-8


@torch.no_grad()
def test_sliding_windows(model, pixel_values):
    logits = model(pixel_values, window_size=RECORD["crop_size"], window_stride=RECORD["stride"]).logits
    assert_recorded(logits, "slide")
    inside = {"input_size": tuple(pixel_values.shape[-2:]), "crop": RECORD["img_shape"]}
    probabilities = probabilities_from_logits(logits[0], RECORD["ori_shape"], **inside)
    assert_recorded(probabilities[None], "probability")
    labels = label_map_from_logits(logits[0], RECORD["ori_shape"], **inside)
    assert torch.equal(labels, probabilities.argmax(0))


@torch.no_grad()
def test_whole_image(model, pixel_values):
    logits = model(pixel_values).logits[0]
    inside = {"input_size": tuple(pixel_values.shape[-2:]), "crop": RECORD["img_shape"]}
    assert_recorded(probabilities_from_logits(logits, RECORD["ori_shape"], **inside)[None], "whole_probability")

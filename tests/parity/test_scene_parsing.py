"""Converted models of MIT's scene parsing compute the original's logits, averaged probabilities and losses.

The records are of synthesised weights, encoder and decoder apart, as the project saves them.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file

from segzoo import SegZooForSemanticSegmentation, SegZooImageProcessor, zoo
from segzoo.conversion.scene_parsing import DECODER, ENCODER
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights
from segzoo.inference import InferenceSettings, Predictor
from segzoo.layers import resize

RECORDS = Path(__file__).parent / "scene_parsing"
FAST = ("ade20k-mobilenetv2dilated-c1_deepsup",)
NAMES = [
    pytest.param(path.stem, marks=() if path.stem in FAST else pytest.mark.slow)
    for path in sorted(RECORDS.glob("*.json"))
]
PLAIN = SegZooImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)


@cache
def convert(name):
    """(record, its tensors, the converted model in float64)."""
    record = json.loads((RECORDS / f"{name}.json").read_text())
    translation = translate_config(zoo.original_config(name))
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    state = {
        prefix + key: value
        for prefix, part in ((ENCODER, "encoder"), (DECODER, "decoder"))
        for key, value in synthesis.state_dict(record[part]).items()
    }
    native, match = match_weights(state, translation.components, model.state_dict())
    match.raise_for_problems(name)
    left_out = [key for key in state if key.endswith(("_tmp_running_mean", "_tmp_running_var", "_running_iter"))]
    assert match.left_out == left_out and len(match.renamed) == len(state) - len(left_out)
    model.load_state_dict(native, assign=True)
    return record, load_file(RECORDS / f"{name}.safetensors"), model.double().eval()


def assert_recorded(values, name, record, tensors, tolerance=3e-7):
    out = record["outputs"][name]
    assert list(values.shape) == out["shape"]
    if out["sample"] == "grid":
        sample, wanted = values[:, :, out["rows"]][..., out["cols"]], tensors[name]
    else:
        sample, wanted = values.flatten()[tensors[f"{name}.idx"].long()], tensors[f"{name}.val"]
    worst = float((sample - wanted.double()).abs().max())
    assert max(worst, abs(float(values.mean()) - out["mean"])) < tolerance * out["absmax"]


def teardown_module():
    convert.cache_clear()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_numbers(name):
    record, tensors, model = convert(name)
    pixels = synthesis.image(record["input"], record["input_shape"]).double()
    maps, _ = model.forward_maps(pixels)
    logits = model.decode(maps)[-1].logits
    assert_recorded(logits, "logits", record, tensors)
    for head in model.auxiliary_heads:
        assert_recorded(head(maps).logits, "deepsup_logits", record, tensors)
    assert len(model.auxiliary_heads) == ("deepsup_logits" in record["outputs"])
    tempered = (resize(logits, record["target"]) / record["temperature"]).softmax(1)
    assert_recorded(tempered, "prob_tempered", record, tensors)

    smaller = torch.nn.functional.interpolate(pixels, (96, 128), mode="bilinear")
    one = Predictor(model, PLAIN, InferenceSettings()).probabilities([pixels[0]], record["target"])
    several = Predictor(model, PLAIN, InferenceSettings(short_sides=(128, 96)))
    averaged = several.probabilities([pixels[0], smaller[0]], record["target"])
    # logits of some hundreds make the softmax of these weights steep
    tolerance = 3e-7 * max(1.0, record["outputs"]["logits"]["absmax"])
    assert_recorded(one[None], "prob", record, tensors, tolerance)
    assert_recorded(averaged[None], "prob_ms", record, tensors, tolerance)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_losses(name):
    record, _, model = convert(name)
    losses = record["losses"]
    pixels = synthesis.image(losses["input_label"], losses["input_shape"]).double()
    small = synthesis.labels(
        losses["labels_label"], losses["labels_shape"], 150, losses["labels_block"], ignore_index=255
    )
    factor = losses["input_shape"][-1] // losses["labels_shape"][-1]
    labels = small.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    labels[:, ::factor] = 7  # pixels that the nearest one of the smaller labels does not fall on
    found = model(pixel_values=pixels, labels=labels)
    wanted = {"decode_0.cross_entropy": losses["nll"]}
    if "nll_deepsup" in losses:
        wanted["auxiliary_0.cross_entropy"] = 0.4 * losses["nll_deepsup"]
    assert {key: float(value) for key, value in found.losses.items()} == pytest.approx(wanted, rel=1e-6)
    assert float(found.loss) == pytest.approx(losses["total"], rel=1e-6)

"""Windows and rescaling against recorded outputs of mmsegmentation 0.27 for three models, in float64."""

import json
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file
from support.key_lists import key_list

from segzoo import SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights
from segzoo.inference import (
    InferenceSettings,
    Predictor,
    label_map_from_logits,
    probabilities_from_logits,
)
from segzoo.zoo import original_config

RECORDS = Path(__file__).parent / "records"
NAMES = (
    "pspnet_r18-d8_512x1024_80k_cityscapes",
    "deeplabv3plus_r18b-d8_769x769_80k_cityscapes",
    "segmenter_vit-t_mask_8x1_512x512_160k_ade20k",
)


class Case:
    """One record: its model, its input, and what the original made of it."""

    def __init__(self, name):
        self.record = json.loads((RECORDS / f"slide_{name}.json").read_text())
        self.values = load_file(RECORDS / f"slide_{name}.safetensors")
        self.model = self.converted(name)
        self.align_corners = self.model.config.decode_head_configs[-1].align_corners
        self.pixel_values = synthesis.image(self.record["input"]["label"], self.record["input"]["shape"]).double()
        self.inside = {
            "input_size": tuple(self.pixel_values.shape[-2:]),
            "crop": self.record["img_shape"],
            "align_corners": self.align_corners,
        }

    def converted(self, name):
        translation = translate_config(original_config(name))
        model = SegZooForSemanticSegmentation(translation.config)
        weights = synthesis.state_dict(key_list(name))
        model.load_state_dict(match_weights(weights, translation.components, model.state_dict())[0])
        return model.double().eval()

    def windowed(self, pixel_values):
        """Averaged logits as one tensor."""
        windows = {"window_size": self.record["crop_size"], "window_stride": self.record["stride"]}
        return self.model(pixel_values, **windows).logits

    def check(self, maps, name):
        """Compare with the recorded positions and the mean."""
        output = next(output for output in self.record["outputs"] if output["name"] == name)
        assert list(maps.shape) == output["shape"]
        expected = self.values[name].double()
        sampled = maps[..., output["rows"], :][..., output["cols"]]
        assert (sampled - expected.reshape(sampled.shape)).abs().max() <= 3e-7 * expected.abs().max()
        assert abs(float(maps.mean()) - output["mean"]) <= 1e-8


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return Case(request.param)


@torch.no_grad()
def test_windows(case):
    logits = case.windowed(case.pixel_values)
    case.check(logits, "slide")
    target = case.record["ori_shape"]
    probabilities = probabilities_from_logits(logits[0], target, **case.inside)
    case.check(probabilities[None], "probability")
    case.check(probabilities[None].flip(-1), "probability_flipped")
    assert torch.equal(label_map_from_logits(logits[0], target, **case.inside), probabilities.argmax(0))


@torch.no_grad()
def test_whole_image(case):
    logits = case.model(case.pixel_values).logits[0]
    probabilities = probabilities_from_logits(logits, case.record["ori_shape"], **case.inside)
    case.check(probabilities[None], "whole_probability")


@pytest.mark.parametrize("windows", [True, False])
@torch.no_grad()
def test_predictor(case, windows):
    """From the picture to the target, through a processor that pads it as the record says, read row by row.

    Two of the records have random pixels in the padding, which no processor makes: there the same numbers are computed at
    once, with zeros, by the functions that the tests above compare with the record.
    """
    (height, width), target = case.record["img_shape"], case.record["ori_shape"]
    padded = dict(zip(("height", "width"), case.pixel_values.shape[-2:], strict=True))
    unchanged = {"do_resize": False, "do_rescale": False, "do_normalize": False, "resize_logits_to_input": True}
    processor = SegZooImageProcessor(**unchanged, pad_size=padded, align_corners=case.align_corners)
    sizes = {"window_size": case.record["crop_size"], "window_stride": case.record["stride"]} if windows else {}
    predictor = Predictor(case.model, processor, InferenceSettings(**sizes, windows_per_pass=3))
    picture = case.pixel_values[0, :, :height, :width]
    probabilities = predictor.probabilities(picture, target)
    assert torch.equal(predictor.label_map(picture, target).long(), probabilities.argmax(0))

    if (height, width) == case.pixel_values.shape[-2:]:
        case.check(probabilities[None], "probability" if windows else "whole_probability")
        return
    pixel_values = torch.zeros_like(case.pixel_values)
    pixel_values[..., :height, :width] = picture
    logits = case.windowed(pixel_values) if windows else case.model(pixel_values).logits
    expected = probabilities_from_logits(logits[0], target, **case.inside)
    torch.testing.assert_close(probabilities, expected, rtol=1e-12, atol=1e-14)

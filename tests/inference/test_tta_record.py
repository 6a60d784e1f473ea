"""Several views against what ViT-Adapter's code gave for one model by windows: resized, mirrored, smaller, averaged.

Both are computed in float32. Logits of about 10 are then wrong by 1e-5 of a unit, and probabilities by 1e-5 of themselves.
"""

import json
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file
from torch.nn import functional as F

from segzoo import SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights
from segzoo.inference import InferenceSettings, Predictor, sliding_window_logits
from segzoo.inference.label_maps import label_map_from_rows
from segzoo.inference.rows import AveragedRows, MapRows
from segzoo.zoo import original_config

RECORDS = Path(__file__).parent / "records"
RECORD = json.loads((RECORDS / "tta.json").read_text())
VALUES = load_file(RECORDS / "tta.safetensors")
TARGET = (90, 151)
WINDOWS = {"window_size": (64, 64), "window_stride": (43, 43)}


@pytest.fixture(scope="module")
def model():
    config = original_config("upernet_augreg_adapter_tiny_512_160k_ade20k")
    del config["model"]["auxiliary_head"]  # the record's model has none
    translation = translate_config(config)
    model = SegZooForSemanticSegmentation(translation.config)
    state, match = match_weights(synthesis.state_dict(RECORD["keys"]), translation.components, model.state_dict())
    match.raise_for_problems("the record")
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module")
def picture():
    return synthesis.image("slide", [1, 3, 96, 160])[0]


def assert_recorded(maps, name, tolerance=1e-5):
    assert list(maps.shape) == RECORD["outputs"][name]["shape"]
    picked = [(k * 2654435761 + 12345) % maps.numel() for k in range(512)]
    assert (maps.flatten()[picked] - VALUES[name]).abs().max() <= tolerance * VALUES[name].abs().max()
    assert abs(float(maps.double().mean()) - RECORD["outputs"][name]["mean"]) <= 1e-6


@torch.no_grad()
def test_logits(model, picture):
    logits = sliding_window_logits(
        lambda x: model(x).logits, picture[None], **WINDOWS, num_labels=150, windows_per_pass=3
    )
    assert_recorded(logits, "slide_logits", tolerance=2e-6)
    assert_recorded(F.interpolate(logits, size=TARGET, mode="bilinear"), "slide_logits_resized", tolerance=2e-6)


def test_views(model, picture):
    processor = SegZooImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    smaller = F.interpolate(picture[None], size=(64, 96), mode="bilinear")[0]
    plain = Predictor(model, processor, InferenceSettings(**WINDOWS))
    both = Predictor(model, processor, InferenceSettings(**WINDOWS, flip=True))
    own, small = plain.probabilities(picture, TARGET), plain.probabilities(smaller, TARGET)
    mirrored = 2 * both.probabilities(picture, TARGET) - own  # and turned back
    assert_recorded(own[None], "prob")
    assert_recorded(mirrored[None], "prob_flip", tolerance=2e-5)
    assert_recorded(small[None], "prob_small")
    assert_recorded((own + mirrored + small)[None] / 3, "prob_avg")

    # The mean of exactly these three views, as the engine takes it.
    logits = [MapRows(own.log()), MapRows(mirrored.clamp(min=1e-12).log().flip(-1)), MapRows(small.log())]
    rows = AveragedRows(logits, mirrored=[False, True, False], probabilities=True)
    found = label_map_from_rows(rows)
    recorded = VALUES["argmax"][0].long()
    chosen = ((own + mirrored + small) / 3).gather(0, torch.stack([found, recorded])).diff(dim=0)
    assert (found != recorded).sum() <= 3 and chosen.abs().max() < 1e-5, (
        "other labels only where two classes are equal"
    )

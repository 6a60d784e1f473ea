"""The preprocessing steps written into exports give the same values as the image processor."""

import json

import numpy as np
import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.export.exported_model import ExportedModel
from segzoo.export.metadata import describe
from segzoo.heads import FCNHeadConfig


@pytest.fixture(scope="module")
def model():
    return SegZooForSemanticSegmentation(
        SegZooConfig(
            backbone_config=ResNetConfig.tiny(), decode_head_configs=[FCNHeadConfig(channels=8)], num_labels=3
        )
    ).eval()


def steps(model, uint8=False, **settings) -> dict:
    processor = SegZooImageProcessor(**settings)
    return json.loads(describe(ExportedModel(model, processor, uint8=uint8), processor)["preprocessing"])


@pytest.mark.parametrize(
    ("settings", "filter"),
    [
        ({}, "bilinear, not antialiased"),
        ({"antialias": True}, "bilinear, antialiased"),
        ({"resample": 3, "antialias": True}, "bicubic, antialiased"),
        ({"resample": 0}, "nearest"),
    ],
)
def test_filter(settings, filter, model):
    assert steps(model, **settings)["resize"]["filter"] == filter


def test_sizes(model):
    edges = {"shortest_edge": 300, "longest_edge": 1000}
    mit = {"size": edges, "rounding": "down", "size_multiple": 8, "size_multiple_mode": "round_up"}
    resize = {"rounding": "down", "filter": "bilinear, not antialiased", "multiple_of": 8, "how": "round_up"}
    assert steps(model, **mit)["resize"] == edges | resize
    assert steps(model)["resize"]["rounding"] == "nearest"
    assert "rounding" not in steps(model, size={"height": 64, "width": 96})["resize"]  # nothing to round
    own = steps(model, do_resize=False, size_multiple=32)["resize"]
    assert own == {"filter": "bilinear, not antialiased", "multiple_of": 32, "how": "stretch"}
    assert "resize" not in steps(model, do_resize=False)


@pytest.mark.parametrize("do_resize", [True, False])
def test_padding_is_a_step_of_its_own(do_resize, model):
    written = steps(model, do_resize=do_resize, size_multiple=32, size_multiple_mode="pad", pad_value=0.5)
    assert list(written)[-1] == "pad" and written["pad"] == {
        "sides": "right and bottom",
        "multiple_of": 32,
        "value": 0.5,
    }
    assert "multiple_of" not in written.get("resize", {})
    written = steps(model, do_resize=do_resize, pad_size={"height": 64, "width": 96}, pad_value=[1, 2, 3])
    assert written["pad"] == {
        "sides": "right and bottom",
        "at_least": {"height": 64, "width": 96},
        "value": [1, 2, 3],
    }


@pytest.mark.parametrize("settings", [{"pad_size": {"height": 64, "width": 96}}, {"size_multiple": 32}])
def test_no_padding_where_the_processor_does_none(settings, model):
    settings |= {"size_multiple_mode": "pad"}
    assert "pad" in steps(model, **settings)
    assert "pad" not in steps(model, do_pad=False, **settings)
    assert "pad" not in steps(model) and "pad" not in steps(model, size_multiple=32)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("pad_value", [0, [0.1, -0.2, 0.3]])
def test_padding_of_raw_pictures(order, pad_value, model):
    """The same pixels, whether padded before or after the normalisation; half a step of uint8 apart at most."""
    settings = {
        "do_resize": False,
        "channel_order": order,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.1, 0.2, 0.3],
        "pad_value": pad_value,
    }
    padding = {"pad_size": {"height": 9, "width": 12}}
    picture = np.random.default_rng(0).integers(0, 256, (7, 10, 3), dtype=np.uint8)
    raw = np.empty((9, 12, 3), dtype=np.uint8)
    raw[:] = steps(model, uint8=True, **settings, **padding)["pad"]["value"]
    raw[:7, :10] = picture
    expected = SegZooImageProcessor(**settings, **padding)(picture, return_tensors="pt")["pixel_values"]
    found = SegZooImageProcessor(**settings)(raw, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.51 / 255 / 0.1)

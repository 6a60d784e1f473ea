"""Sizes of views against the original pipelines, and inputs read in parts against the image processor."""

import json
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import SegformerImageProcessor

from segzoo import SegZooError, SegZooImageProcessor
from segzoo.conversion.keys import Context
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.processor import translate_processor
from segzoo.inference import InferenceSettings, ViewMaker
from segzoo.inference.views import ViewReader

CASES = json.loads((Path(__file__).parent / "records" / "views.json").read_text())


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_sizes_of_the_original_pipelines(case):
    """Scales, flips, multiples and paddings of ViT-Adapter's multi-scale tests."""
    pipeline = case["transforms"]
    # The processor comes from the pipeline at scale 1, as of a single-scale test.
    single = {**pipeline, "img_ratios": None, "transforms": [_as_pad(step) for step in pipeline["transforms"]]}
    original = OriginalConfig.parse({"test_pipeline": [single]})
    processor = SegZooImageProcessor(**translate_processor(Context("", original)))
    resize = pipeline["transforms"][0]
    windows = {"window_size": resize["crop_size"]} if resize["type"] == "SETR_Resize" else {}
    settings = InferenceSettings(scales=pipeline.get("img_ratios") or (1.0,), flip=pipeline["flip"], **windows)
    for size in case["sizes"]:
        found = []
        for view in ViewMaker(processor, settings)(noise(*size["ori"])):
            for mirrored in (False, True):
                found.append({"shape": list(ViewReader(processor, view, mirrored).size), "flip": mirrored})
        assert found == size["augs"]


def _as_pad(step):
    """PadShortSide pads what is smaller, as Pad does."""
    if step["type"] != "PadShortSide":
        return step
    return {"type": "Pad", "size": [step["size"]] * 2, "pad_val": step["pad_val"], "seg_pad_val": step["seg_pad_val"]}


PROCESSORS = {
    "own size": {"do_resize": False},
    "multiples": {
        "size": {"shortest_edge": 50},
        "size_multiple": 16,
        "size_multiple_mode": "pad",
        "pad_value": [1, 2, 3],
    },
    "stretched": {"size": {"shortest_edge": 50, "longest_edge": 60}, "size_multiple": 32},
    "bgr, padded to a size": {
        "size": {"height": 30, "width": 41},
        "channel_order": "bgr",
        "pad_size": {"height": 64, "width": 40},
    },
    "raw": {"do_resize": False, "do_rescale": False, "do_normalize": False},
    "one mean": {
        "image_mean": 0.5,
        "image_std": 0.25,
        "do_pad": False,
        "size_multiple": 32,
        "size_multiple_mode": "pad",
    },
}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("settings", PROCESSORS.values(), ids=PROCESSORS)
def test_parts_are_parts_of_what_the_processor_gives(settings, mirrored):
    processor, picture = SegZooImageProcessor(**settings), noise(45, 61)
    (view,) = ViewMaker(processor, InferenceSettings())(picture)
    assert view.dtype == torch.uint8
    reader = ViewReader(processor, view, mirrored)
    if mirrored:  # mirrored after resizing and before padding
        options = {"do_resize": False, "channel_order": "rgb", "input_data_format": "channels_first"}
        expected = processor(view.flip(-1), return_tensors="pt", **options)["pixel_values"][0]
    else:
        expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    assert tuple(expected.shape[-2:]) == reader.size
    assert torch.equal(reader.whole(), expected.float())
    height, width = reader.size
    for top, left, rows, columns in [
        (0, 0, 5, 7),
        (height - 9, width - 11, 9, 11),
        (height - 1, 0, 1, width),
        (3, 2, 20, 20),
    ]:
        assert torch.equal(
            reader(top, left, rows, columns), expected.float()[:, top : top + rows, left : left + columns]
        )


def test_scales_of_the_own_size():
    """mmcv: the bounds are cut to whole pixels, the sides rounded."""
    maker = ViewMaker(SegZooImageProcessor(do_resize=False), InferenceSettings(scales=(0.5, 1.0, 1.75)))
    assert [tuple(view.shape) for view in maker(noise(45, 61))] == [(3, 22, 30), (3, 45, 61), (3, 78, 106)]


def test_short_sides_reach_the_windows_only_where_they_are_the_only_bound():
    scales = {"scales": (0.5,), "window_size": (48, 64)}
    alone = ViewMaker(SegZooImageProcessor(size={"shortest_edge": 60}), InferenceSettings(**scales))
    bounded = ViewMaker(
        SegZooImageProcessor(size={"shortest_edge": 60, "longest_edge": 900}), InferenceSettings(**scales)
    )
    assert alone(noise(60, 90))[0].shape == (3, 48, 72)
    assert bounded(noise(60, 90))[0].shape == (3, 30, 45)


def test_short_sides_of_mit():
    """int(side * scale), the longer side's bound for all of them, rounded up to multiples."""
    processor = SegZooImageProcessor(
        size={"shortest_edge": 45, "longest_edge": 100},
        rounding="down",
        size_multiple=8,
        size_multiple_mode="round_up",
        antialias=True,
    )
    sides = (30, 37, 45, 52, 60)
    views = ViewMaker(processor, InferenceSettings(short_sides=sides))(noise(40, 75))
    expected = []
    for side in sides:
        scale = min(side / 40, 100 / 75)
        expected.append((3, *(-(-int(length * scale) // 8) * 8 for length in (40, 75))))
    assert [tuple(view.shape) for view in views] == expected and expected[-1] == (3, 56, 104)


def test_short_sides_without_a_bound():
    maker = ViewMaker(SegZooImageProcessor(do_resize=False), InferenceSettings(short_sides=(20, 50)))
    assert [tuple(view.shape) for view in maker(noise(40, 60))] == [(3, 20, 30), (3, 50, 75)]


@pytest.mark.parametrize("kind", ["path", "PIL", "grey", "channels first"])
def test_what_can_be_a_picture(tmp_path, kind):
    picture = noise(20, 30)
    PIL.Image.fromarray(picture).save(tmp_path / "x.png")
    forms = {
        "path": str(tmp_path / "x.png"),
        "PIL": PIL.Image.fromarray(picture),
        "grey": PIL.Image.fromarray(picture[..., 0]),
        "channels first": torch.from_numpy(picture).permute(2, 0, 1),
    }
    expected = picture if kind != "grey" else picture[..., :1].repeat(3, axis=2)
    (view,) = ViewMaker(SegZooImageProcessor(do_resize=False), InferenceSettings())(forms[kind])
    assert np.array_equal(view.permute(1, 2, 0).numpy(), expected)


def test_more_channels_than_three():
    processor = SegZooImageProcessor(do_resize=False, num_channels=5, image_mean=[0.1] * 5, image_std=[0.2] * 5)
    (view,) = ViewMaker(processor, InferenceSettings())(noise(20, 30, 5))
    expected = processor(noise(20, 30, 5), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(ViewReader(processor, view).whole(), expected)


def test_processors_of_transformers():
    processor = SegformerImageProcessor(size={"height": 32, "width": 48})
    maker = ViewMaker(processor, InferenceSettings(scales=(0.5, 1.0)))
    small, whole = maker(noise(45, 61))
    assert small.shape == (3, 16, 24)
    assert torch.equal(whole, processor(noise(45, 61), return_tensors="pt")["pixel_values"][0])
    reader = ViewReader(processor, whole, mirrored=True)
    assert torch.equal(reader(2, 3, 10, 20), whole.flip(-1)[:, 2:12, 3:23])
    with pytest.raises(SegZooError, match="does not resize"):
        ViewMaker(SegformerImageProcessor(do_resize=False), InferenceSettings(scales=(0.5,)))(noise(45, 61))


def test_refused():
    with pytest.raises(SegZooError, match="scale 0.01 makes"):
        ViewMaker(SegZooImageProcessor(do_resize=False), InferenceSettings(scales=(0.01,)))(noise(45, 61))
    sides = InferenceSettings(short_sides=(60, 90))
    with pytest.raises(SegZooError, match="keep a picture's shape"):
        ViewMaker(SegZooImageProcessor(size={"height": 32, "width": 48}), sides)(noise(45, 61))
    with pytest.raises(SegZooError, match="bounds the longer side to 80 pixels"):
        ViewMaker(SegZooImageProcessor(size={"shortest_edge": 60, "longest_edge": 80}), sides)(noise(45, 61))


def test_it_travels_to_other_processes():
    maker = ViewMaker(SegZooImageProcessor(), InferenceSettings(scales=(0.5, 1.0), flip=True))
    copy = pickle.loads(pickle.dumps(maker))
    assert all(torch.equal(a, b) for a, b in zip(copy(noise(9, 8)), maker(noise(9, 8)), strict=True))

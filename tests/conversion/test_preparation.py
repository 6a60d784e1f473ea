"""Pipelines with several steps: done as the original does one step after the other, or refused."""

import numpy as np
import PIL.Image
import pytest
import torch
from conversion import tiny

from segzoo import SegZooImageProcessor
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.translate import translate_config
from segzoo.images.resizing import resize_bilinear

LOAD = {"type": "LoadImageFromFile"}
RESIZE = {"type": "Resize", "scale": (64, 32), "keep_ratio": True}
TO_MULTIPLE = {"type": "ResizeToMultiple", "size_divisor": 32}
NORMALISE = tiny.NORMALISE
MEAN, STD = ([127.0, 110.0, 90.0], [50.0, 60.0, 70.0])
PREPROCESSOR = {"type": "SegDataPreProcessor", "pad_val": 0, "seg_pad_val": 255}
PICTURE = np.random.default_rng(0).integers(0, 256, (61, 93, 3), dtype=np.uint8)


def translated(*steps, preprocessor=None, version=None):
    config = tiny.config(test_pipeline=[LOAD, *steps])
    if preprocessor is not None:
        config["data_preprocessor"] = PREPROCESSOR | preprocessor
    return translate_config(config, version=version)


def pixels(*steps, preprocessor=None):
    processor = SegZooImageProcessor(**translated(*steps, preprocessor=preprocessor).processor)
    return processor(PICTURE, return_tensors="pt")["pixel_values"][0]


def normalised(values, mean, std, reverse):
    """The original's normalisation of (channels, height, width)."""
    values = values.flip(0) if reverse else values
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def blue_first():
    return torch.from_numpy(PICTURE).permute(2, 0, 1).flip(0).double()


# Order


@pytest.mark.parametrize(
    "steps",
    [
        [TO_MULTIPLE],
        [{"type": "Resize", "scale_factor": 1.0}, TO_MULTIPLE],
        [
            {
                "type": "MultiScaleFlipAug",
                "img_scale": None,
                "img_ratios": [1.0],
                "flip": False,
                "transforms": [{"type": "Resize", "keep_ratio": True}, TO_MULTIPLE],
            }
        ],
    ],
    ids=["alone", "after a factor of 1", "in an augmentation of 0.x"],
)
def test_pictures_of_their_own_size_are_stretched_to_multiples(steps):
    expected = resize_bilinear(torch.from_numpy(PICTURE).permute(2, 0, 1), (64, 96)).flip(0)
    assert torch.equal(pixels(*steps), expected.float())


def test_a_resize_that_does_nothing_may_stand_anywhere():
    processor = translated(RESIZE, TO_MULTIPLE, {"type": "Resize", "scale_factor": 1.0}).processor
    assert processor["size"] == {"shortest_edge": 32, "longest_edge": 64} and processor["size_multiple"] == 32


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([RESIZE, RESIZE | {"scale": (50, 40)}], r"test_pipeline\[2\]: 'Resize' cannot follow 'Resize'"),
        ([TO_MULTIPLE, RESIZE], r"test_pipeline\[2\]: 'Resize' cannot follow 'ResizeToMultiple'"),
        ([{"type": "Pad", "size": (130, 130)}, RESIZE], r"test_pipeline\[2\]: 'Resize' cannot follow 'Pad'"),
        ([RESIZE, {"type": "Pad", "size_divisor": 16}, TO_MULTIPLE], "'ResizeToMultiple' cannot follow 'Pad'"),
        ([NORMALISE, RESIZE], "'Resize' cannot follow 'Normalize'"),
        ([RESIZE, {"type": "LoadImageFromNDArray"}], "'LoadImageFromNDArray' cannot follow 'Resize'"),
        ([TO_MULTIPLE, {"type": "Pad", "size_divisor": 64}], "'Pad' cannot follow 'ResizeToMultiple'"),
        (
            [RESIZE | {"interpolation": "bicubic"}, TO_MULTIPLE],
            "'ResizeToMultiple' cannot follow 'Resize'.*one filter",
        ),
        ([RESIZE | {"backend": "pillow"}, TO_MULTIPLE], "'ResizeToMultiple' cannot follow 'Resize'.*one filter"),
    ],
)
def test_another_order_than_the_processors_is_refused(steps, message):
    with pytest.raises(ConversionError, match=message):
        translated(*steps)


# Sizes


def test_one_number_is_both_sides():
    assert translated({"type": "Resize", "scale": 48}).processor["size"] == {"height": 48, "width": 48}
    keeping = translated({"type": "Resize", "scale": 48, "keep_ratio": True}).processor["size"]
    assert keeping == {"shortest_edge": 48, "longest_edge": 48}
    assert translated({"type": "Pad", "size": 128}).processor["pad_size"] == {"height": 128, "width": 128}


def test_several_scales_are_refused_where_no_augmentation_hands_one():
    several = {"type": "Resize", "img_scale": [(64, 32), (48, 24)], "keep_ratio": True}
    with pytest.raises(ConversionError, match="several scales"):
        translated(several)
    augmentation = {"type": "MultiScaleFlipAug", "img_scale": (64, 32), "flip": False, "transforms": [several]}
    assert translated(augmentation).processor["size"] == {"shortest_edge": 32, "longest_edge": 64}


def test_ratios_beside_a_list_of_scales_are_not_read():
    def size(scale, ratios):
        step = {
            "type": "MultiScaleFlipAug",
            "img_scale": scale,
            "img_ratios": ratios,
            "transforms": [{"type": "Resize"}],
        }
        return translated(step)

    assert size((64, 32), [0.5]).processor["size"] == {"shortest_edge": 16, "longest_edge": 32}
    one, several = size([(64, 32)], [0.5, 1.5]), size([(64, 32), (32, 16)], [0.5])
    assert one.processor["size"] == several.processor["size"] == {"shortest_edge": 32, "longest_edge": 64}
    assert [any("augmentation" in note for note in found.notes) for found in (one, several)] == [False, True]


@pytest.mark.parametrize(
    ("longest", "size"),
    [(80, (52, 79)), (128, (64, 98)), (None, (64, 98)), (50, (33, 50)), (10**9, (64, 98))],  # of mmsegmentation 1.2.2
)
def test_a_shortest_edge_is_rounded_as_the_original_rounds(longest, size):
    step = {"type": "ResizeShortestEdge", "scale": 64, "max_size": longest}
    assert tuple(pixels(step).shape[1:]) == size


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 30), (128, 100)])
def test_pillows_filters(interpolation, size):
    found = pixels({"type": "Resize", "scale": size, "interpolation": interpolation, "backend": "pillow"})
    resample = getattr(PIL.Image.Resampling, interpolation.upper())
    expected = np.array(PIL.Image.fromarray(PICTURE).resize(size, resample))[..., ::-1].astype(int)
    difference = np.abs(found.permute(1, 2, 0).numpy() - expected)  # torchvision rounds between its two passes
    assert difference.max() <= 2 and difference.mean() < 0.01


# Normalisation


@pytest.mark.parametrize("second", [{}, {"mean": MEAN, "std": STD}, {"mean": [7.0], "std": [2.0]}])
@pytest.mark.parametrize("bgr_to_rgb", [True, False])
@pytest.mark.parametrize("to_rgb", [True, False])
def test_a_step_that_normalises_and_a_preprocessor_both_act(to_rgb, bgr_to_rgb, second):
    found = pixels(NORMALISE | {"to_rgb": to_rgb}, preprocessor={"bgr_to_rgb": bgr_to_rgb, **second})
    expected = normalised(blue_first(), NORMALISE["mean"], NORMALISE["std"], to_rgb)
    expected = normalised(expected, second.get("mean", [0.0]), second.get("std", [1.0]), bgr_to_rgb)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_first", [True, False])
@pytest.mark.parametrize("preprocessor", [None, {"bgr_to_rgb": True}, {"bgr_to_rgb": True, "mean": MEAN, "std": STD}])
def test_the_colour_of_the_padding_goes_through_the_normalisations_after_it(preprocessor, pad_first):
    pad = {"type": "Pad", "size": (100, 70), "pad_val": 3}
    found = pixels(*([pad, NORMALISE] if pad_first else [NORMALISE, pad]), preprocessor=preprocessor)[:, -1:, -1:]
    expected = torch.full((3, 1, 1), 3.0, dtype=torch.float64)
    if preprocessor is None:  # mmcv 1 gives the number to the channel that is the first at this step, as OpenCV does
        expected[1:] = 0
    if pad_first:
        expected = normalised(expected, NORMALISE["mean"], NORMALISE["std"], True)
    if preprocessor:
        expected = normalised(expected, preprocessor.get("mean", [0.0]), preprocessor.get("std", [1.0]), True)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


# Padding


@pytest.mark.parametrize(
    ("step", "test_cfg"),
    [
        ({"size_divisor": 32}, {"size_divisor": 32}),
        ({"size_divisor": 32}, {"size_divisor": 16}),
        ({"size": (128, 96)}, {"size": (64, 128)}),
    ],
)
def test_padding_of_what_is_padded_already_does_nothing(step, test_cfg):
    """The size of a step is (width, height), that of the preprocessor (height, width)."""
    pad, moments = {"type": "Pad", "pad_val": 5} | step, {"mean": MEAN, "std": STD}
    alone, both = (
        translated(pad, preprocessor={**moments, "test_cfg": padding}).processor for padding in (None, test_cfg)
    )
    assert both == alone


def test_padding_to_a_size_and_then_to_a_multiple():
    pads = [{"type": "Pad", "size": (100, 40)}, {"type": "Pad", "size_divisor": 32}]
    assert pixels(*pads).shape == (3, 128, 96)
    assert pixels(TO_MULTIPLE, {"type": "Pad", "size_divisor": 16}).shape == (3, 64, 96)
    with pytest.raises(ConversionError, match="'Pad' cannot follow 'Pad'"):
        translated(*reversed(pads))
    with pytest.raises(ConversionError, match="one colour"):
        translated(pads[0], pads[1] | {"pad_val": 1})
    with pytest.raises(ConversionError, match=r"test_cfg: 'SegDataPreProcessor' cannot follow 'Pad'.*one colour"):
        translated(pads[0], preprocessor={"mean": MEAN, "std": STD, "test_cfg": {"size_divisor": 32}})


def test_padding_that_the_original_does_not_cut_off_is_noted():
    pad, text = {"type": "Pad", "size_divisor": 32}, "does not cut the padding of this step off"
    for changes in ({"preprocessor": {}}, {"version": "0.25.0+abc"}, {}):
        found = [note for note in translated(pad, **changes).notes if text in note]
        assert found and ("version of the checkpoint is not known" in found[0]) is (not changes)
    for other in (translated(pad, version="0.26.0"), translated(preprocessor={"test_cfg": {"size_divisor": 32}})):
        assert not any("padding" in note for note in other.notes)


@pytest.mark.parametrize(("flip", "is_noted"), [({}, False), ({"prob": 0.0}, False), ({"prob": 1.0}, True)])
def test_pictures_that_the_original_flips_are_noted(flip, is_noted):
    notes = translated(RESIZE, {"type": "RandomFlip", **flip}).notes
    assert any("the original flips pictures" in note for note in notes) is is_noted


def test_padding_of_one_channel_has_its_colour():
    config = tiny.config(test_pipeline=[LOAD, {"type": "Pad", "size": (64, 64), "pad_val": 3}])
    config["model"]["backbone"]["in_channels"] = 1
    assert translate_config(config).processor["pad_value"] == 3


@pytest.mark.parametrize("floats", [True, False])
def test_pictures_that_the_original_resizes_as_floats_are_noted(floats):
    config = tiny.config(test_pipeline=[LOAD | {"to_float32": floats}, RESIZE, NORMALISE])
    assert any("the original resizes floats" in note for note in translate_config(config).notes) is floats

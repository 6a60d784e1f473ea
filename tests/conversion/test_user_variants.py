"""Configs that differ from the released ones where originals have rules that are easily missed."""

import numpy as np
import pytest
import torch
from conversion import tiny

from segzoo import SegZooImageProcessor
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.translate import translate_config
from segzoo.data.transforms import JointTransform

LOAD = {"type": "LoadImageFromFile"}
NORMALIZE = {"type": "Normalize", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "to_rgb": True}


def augmented(*steps, **options):
    """A test pipeline of 0.x."""
    return [{"type": "MultiScaleFlipAug", "flip": False, "transforms": list(steps), **options}]


def processor_of(pipeline, **changes):
    config = tiny.config(**changes)
    config["test_pipeline"] = pipeline
    config["data"] = {"test": {"type": "CustomDataset", "pipeline": pipeline}}
    return SegZooImageProcessor(**translate_config(config).processor)


def size_of(processor, height, width):
    return tuple(processor(np.zeros((height, width, 3), np.uint8), return_tensors="pt")["pixel_values"].shape[-2:])


# Image size


def test_the_scale_of_the_augmentation_wins():
    resize = {"type": "Resize", "img_scale": (1024, 256), "keep_ratio": True}
    steps = [LOAD, *augmented(resize, NORMALIZE, img_scale=(2048, 512))]
    assert size_of(processor_of(steps), 600, 800) == (512, 683)
    steps = [LOAD, *augmented(resize, NORMALIZE, img_scale=None, img_ratios=[1.0])]
    assert size_of(processor_of(steps), 600, 800) == (600, 800)


def test_a_least_side_without_a_scale_is_named():
    steps = [LOAD, *augmented({"type": "Resize", "keep_ratio": True, "min_size": 640}, NORMALIZE, img_scale=None)]
    with pytest.raises(ConversionError, match=r"least short side \(640\) without a scale"):
        processor_of(steps)


def test_sizes_of_padding_begin_with_the_width_in_1x_alone():
    pad = {"type": "Pad", "size": (64, 32)}
    assert processor_of([LOAD, *augmented(NORMALIZE, pad, img_scale=None)]).pad_size == {"height": 64, "width": 32}
    preprocessor = {"type": "SegDataPreProcessor", "mean": [0.0] * 3, "std": [1.0] * 3, "bgr_to_rgb": True}
    processor = processor_of([LOAD, pad, {"type": "PackSegInputs"}], model__data_preprocessor=preprocessor)
    assert processor.pad_size == {"height": 32, "width": 64}


# Channels


def test_tifffile_keeps_the_order_of_the_file():
    for backend, order in (("tifffile", "bgr"), ("cv2", "rgb")):
        steps = [{**LOAD, "imdecode_backend": backend}, *augmented(NORMALIZE, img_scale=None)]
        assert processor_of(steps).channel_order == order


@pytest.mark.parametrize(("color_type", "expected"), [("unchanged", [30, 20, 10, 40]), (None, [10, 20, 30, 40])])
def test_a_fourth_channel_leaves_blue_first(color_type, expected):
    """OpenCV gives blue, green, red, alpha, of which no normalisation exchanges two."""
    load = LOAD if color_type is None else {**LOAD, "color_type": color_type}
    normalize = {**NORMALIZE, "mean": [0.0] * 4, "std": [1.0] * 4}
    processor = processor_of([load, *augmented(normalize, img_scale=None)], model__backbone__in_channels=4)
    image = np.array([10, 20, 30, 40], np.uint8).reshape(1, 1, 4)
    found = processor(image, return_tensors="pt")["pixel_values"].flatten()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    transform = JointTransform(
        mean=(0.0,) * 4, std=(1.0,) * 4, rescale_factor=1.0, channel_order=processor.channel_order, num_channels=4
    )
    assert transform.ordered(torch.from_numpy(image).permute(2, 0, 1)).flatten().tolist() == expected


# Classes


def classes_of(num_classes, **dataset):
    config = tiny.config(model__decode_head__num_classes=num_classes)
    config["data"] = {"test": dataset, "train": {"type": dataset["type"]}}
    return translate_config(config).classes


def test_the_data_set_decides_about_id_0_with_other_classes_too():
    assert classes_of(3, type="ADE20KDataset", classes=("a", "b", "c")).reduce_labels
    assert classes_of(151, type="ADE20KDataset").reduce_labels
    assert not classes_of(3, type="ADE20KDataset", classes=("a", "b", "c"), reduce_zero_label=False).reduce_labels
    assert not classes_of(3, type="CityscapesDataset", classes=("a", "b", "c")).reduce_labels


def test_id_0_that_is_kept_is_the_first_class():
    names = classes_of(151, type="ADE20KDataset", reduce_zero_label=False).names
    assert names[:2] == ["background", "wall"] and names[-1] == "flag" and len(names) == 151
    names = classes_of(152, type="ADE20KDataset").names
    assert names[0] == "wall" and names[-2:] == ["LABEL_150", "LABEL_151"]


def test_what_a_model_is_tested_on_is_not_what_it_was_trained_on():
    config = tiny.config(model__decode_head__num_classes=19)
    for train, expected in (("CityscapesDataset", "Cityscapes"), ("DarkZurichDataset", "Dark Zurich"), ("Own", None)):
        config["data"] = {"train": {"type": train}, "test": {"type": "DarkZurichDataset"}}
        dataset = translate_config(config).classes.dataset
        assert dataset is None if expected is None else dataset.title.startswith(expected)

"""Labels and pictures of the first batch are checked before the first step."""

import warnings

import numpy as np
import PIL.Image
import pytest
import torch
from support.checked_folder import (
    HEIGHT,
    WIDTH,
    image_file,
    label_file,
    read_label,
    write_label,
)

from segzoo.data.augmentation import Augmentation
from segzoo.data.checks.first_batch import check_first_batch, check_labels, check_rows
from segzoo.data.dataset import SegmentationDataset
from segzoo.data.loading import load_segmentation_dataset
from segzoo.data.rows import undecoded
from segzoo.data.transforms import build_train_transform
from segzoo.errors import SegZooError


def test_good_labels_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_labels(torch.tensor([[0, 1], [2, 255]]), 3)
        check_labels(np.zeros((2, 4, 4), dtype=np.uint8), 1)
        check_labels([np.array([[0, -100]])], 3, ignore_index=-100)


def test_error_names_file_ids_and_counts():
    good = np.zeros((2, 3), dtype=np.uint8)
    bad = np.array([[0, 7, 7], [9, 1, 255]], dtype=np.uint8)
    with pytest.raises(SegZooError) as error:
        check_labels([good, bad, bad], 3, names=["a.png", "b.png", "c.png"])
    text = str(error.value)
    assert text.startswith("b.png") and "7 (2 pixels)" in text and "9 (1 pixel)" in text and "1 more of 3" in text


@pytest.mark.parametrize(
    "label, kwargs, fix",
    [
        ([[0, 1, 150]], {"num_labels": 150}, "--do_reduce_labels"),
        ([[0, 255]], {"num_labels": 2, "ignore_index": -100}, "divide by 255"),
        ([[0, 1, 255]], {"num_labels": 3, "ignore_index": 0}, "ignore_index=255"),
        ([[0, -1]], {"num_labels": 3}, "ignore_index=-1"),
        ([[0.5, 1.0]], {"num_labels": 3}, "whole numbers"),
        ([list(range(100))], {"num_labels": 3}, "grey picture"),
        ([[0, 4, 5]], {"num_labels": 3}, "at least 6 classes"),
    ],
)
def test_likely_fix(label, kwargs, fix):
    with pytest.raises(SegZooError, match=fix):
        check_labels(np.array(label), **kwargs)


def test_black_and_white_masks_warn():
    with pytest.warns(UserWarning, match="divide the masks by 255"):
        check_labels(np.array([[0, 255]], dtype=np.uint8), 2)


def test_arrays_of_other_channels():
    """Pictures in memory are held against the model's channels too."""
    row = {"image": np.zeros((8, 9, 6), np.float32), "label": np.zeros((8, 9), np.uint8), "image_path": "six.npy"}
    assert check_rows([(0, row)], num_labels=2, num_channels=6) == []
    with pytest.raises(SegZooError, match="six.npy.* has 6 channels, .* expect 4; .*num_channels=6"):
        check_rows([(0, row)], num_labels=2, num_channels=4)


def test_the_first_batch_notes_equal_channels(folder, first_batch):
    write_label(folder, "b", np.stack([read_label(folder, "b")] * 3, axis=-1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (line,) = first_batch()
    assert line.startswith("note: 1 of the 3 pairs of the first batch: ") and "several equal channels" in line


@pytest.fixture
def first_batch(folder):
    def run(crop_size=(16, 16), num_labels=5, indices=(0, 1, 2), transform=None, **options):
        rows = load_segmentation_dataset(folder, strict=False)["train"]
        data = SegmentationDataset(
            rows, transform or build_train_transform(Augmentation(crop_size=crop_size)), num_labels=num_labels
        )
        return check_first_batch(data, list(indices), num_labels=num_labels, crop_size=crop_size, **options)

    return run


def test_first_batch_without_faults(first_batch):
    assert first_batch() == []


def test_first_rows_of_a_stream(folder):
    stream = load_segmentation_dataset(folder, streaming=True)["train"]
    assert check_rows(enumerate(undecoded(stream).take(2)), num_labels=5, crop_size=(16, 16)) == []
    with pytest.raises(
        SegZooError, match=r"a\.png: label ids outside 0\.\.2 \(ignored: 255\): 3 \(.*1 more of the 2 pairs"
    ):
        check_rows(enumerate(undecoded(stream).take(2)), num_labels=3)


def test_first_batch_with_bad_ids(folder, first_batch):
    for stem in "bc":
        ids = read_label(folder, stem)
        ids[-1, -3:] = 9
        write_label(folder, stem, ids)
    with pytest.raises(SegZooError) as error:
        first_batch()
    text = str(error.value)
    assert "\n" not in text and text.startswith(
        f"{label_file(folder, 'b')}: label ids outside 0..4 (ignored: 255): 9 (3 pixels)"
    )
    assert "at least 10 classes" in text and "1 more of the 3 pairs" in text and "segzoo data check" in text


@pytest.mark.parametrize(
    "fault, words",
    [
        (lambda f: write_label(f, "b", np.zeros((5, 6), np.uint8)), ["b.jpg and ", "b.png", "32x24", "6x5"]),
        (
            lambda f: write_label(f, "b", np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8)),
            ["b.png", "RGB", "colors_to_ids"],
        ),
        (lambda f: image_file(f, "b").write_bytes(b"nothing"), ["b.jpg: corrupt picture", "cannot be read"]),
    ],
)
def test_first_batch_that_cannot_be_used(folder, first_batch, fault, words):
    fault(folder)
    with pytest.raises(SegZooError) as error:
        first_batch()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_first_batch_may_hold_some_corrupt_files(folder, first_batch):
    image_file(folder, "b").write_bytes(b"nothing")
    assert first_batch(max_corrupt=1) == []
    image_file(folder, "c").write_bytes(b"nothing")
    with pytest.raises(SegZooError, match="b.jpg"):
        first_batch(max_corrupt=1)


def test_first_batch_of_small_pictures(first_batch):
    (line,) = first_batch(crop_size=(48, 64))
    assert line.startswith("warning: 3 of the 3 pairs") and "32x24" in line and "64x48" in line and "padded" in line
    enlarging = build_train_transform(Augmentation(crop_size=(48, 64), scale_size=48))
    assert first_batch(crop_size=(48, 64), transform=enlarging) == []
    shrinking = build_train_transform(Augmentation(crop_size=(16, 16), scale_size=12))
    (line,) = first_batch(transform=shrinking)
    assert "16x12, resized from 32x24" in line


def test_first_batch_of_dark_pictures_of_16_bits(folder, first_batch):
    for name in "abc":
        file = image_file(folder, name)
        file.unlink()
        PIL.Image.fromarray(np.full((HEIGHT, WIDTH), 4000, np.uint16)).save(file.with_suffix(".png"))
    (line,) = first_batch()
    assert line.startswith("warning: ") and "a.png and the rest of the first batch" in line and "at most 16" in line


def test_first_batch_of_ignored_pixels(folder, first_batch):
    nothing = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    write_label(folder, "a", nothing)
    (line,) = first_batch()
    assert "1 of the 3 pairs" in line and "ignored pixels only" in line and "a.png" in line
    write_label(folder, "b", nothing)
    write_label(folder, "c", nothing)
    (line,) = first_batch()
    assert "all labels of the first batch are ignored" in line


def test_first_batch_of_black_and_white_masks(folder, first_batch, rng):
    for stem in "abc":
        write_label(folder, stem, 255 * rng.integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8))
    lines = first_batch(num_labels=2)
    assert len(lines) == 1 and "divide by 255" in lines[0]

import warnings

import numpy as np
import pytest
import torch

from segzoo.data.checks.first_batch import check_labels, check_rows
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

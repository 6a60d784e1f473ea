import itertools
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator

from segzoo.data.augmentation import Augmentation
from segzoo.data.collate import collate_training
from segzoo.data.dataset import SegmentationDataset
from segzoo.data.levels import LevelsTransform
from segzoo.data.loader import Loader, _Parcel, _Shelf
from segzoo.data.transforms import build_train_transform
from segzoo.errors import SegZooError
from segzoo.training.batches import TrainingBatches
from segzoo.training.options import RunOptions
from segzoo.training.recipes.recipe import Recipe


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Pictures of several sizes, a grey one among them, with masks of 8 and of 16 bits."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    found = []
    for index in range(6):
        height, width = 40 + 7 * index, 50 - 3 * index
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        PIL.Image.fromarray(picture[..., 0] if index == 1 else picture).save(folder / f"{index}.jpg")
        mask = rng.integers(0, 9, (height, width)).astype(np.uint16 if index == 4 else np.uint8)
        PIL.Image.fromarray(mask).save(folder / f"{index}.png")
        found.append({"image": str(folder / f"{index}.jpg"), "label": str(folder / f"{index}.png")})
    return found


SETTINGS = [
    ({}, {}),
    ({"photometric_distortion": False, "scale_range": (1.0, 1.0)}, {"channel_order": "bgr", "reduce_labels": True}),
    ({"crop_size": (56, 30)}, {"ignore_index": -100}),
    ({"crop_size": None}, {"ignore_index": 300, "image_mean": (0.4,), "image_std": (0.2,)}),
]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("augmentation", "options"), SETTINGS)
def test_a_finished_batch_is_the_one_that_is_normalised_at_once(rows, augmentation, options, num_workers):
    joint = build_train_transform(Augmentation(**{"crop_size": (32, 32)} | augmentation), **options)
    transform = LevelsTransform(joint)
    at_once, data = (SegmentationDataset(rows, part, seed=3, num_labels=9) for part in (joint, transform))
    order = [[0, 1, 2, 3], [5, 4]]
    found = transform.finished(iter(Loader(data, order, collate=transform.collate, num_workers=num_workers)), "cpu")
    for indices, batch in zip(order, found, strict=True):
        expected = collate_training([at_once[index] for index in indices], pad_labels=joint.ignore_index)
        values = batch.pop("pixel_values")
        assert torch.equal(values, expected["pixel_values"])
        levels = [data[index]["levels"] for index in indices]
        there = transform._normalize_there(levels, torch.full_like(values, torch.nan))  # what a GPU does
        assert torch.equal(there, values)
        by_pixel = transform.finish(transform.collate([data[i] for i in indices]), memory_format=torch.channels_last)
        assert torch.equal(by_pixel["pixel_values"], values)
        assert by_pixel["pixel_values"].is_contiguous(memory_format=torch.channels_last)
        labels = batch.pop("labels")
        assert torch.equal(labels.long(), expected["labels"])
        small = joint.ignore_index in range(256) and 4 not in indices
        assert labels.dtype == (torch.uint8 if small else torch.int64)
        assert batch == {"name": expected["name"]}


def test_samples_are_checked_and_travel_as_bytes(rows):
    plain = {"photometric_distortion": False, "flip_probability": 0.0, "scale_range": (1.0, 1.0)}
    joint = build_train_transform(Augmentation(crop_size=(32, 32), **plain))
    transform = pickle.loads(pickle.dumps(LevelsTransform(joint)))
    data = SegmentationDataset(rows, transform)
    batch = transform.collate([data[0], data[1]])
    parcel = _Parcel.of(batch, _Shelf())
    assert parcel.size <= 2 * 4 * 32 * 32 + 3 * 64
    sent = parcel.unpacked()
    assert all(torch.equal(*pair) for pair in zip(sent["levels"], batch["levels"], strict=True))
    # A crop of a picture keeps the order in memory, without the gaps.
    assert (batch["levels"][0].stride(), sent["levels"][0].stride()) == ((1, 150, 3), (1, 96, 3))
    with pytest.raises(SegZooError, match="mask of row 0: label ids outside 0..2"):
        SegmentationDataset(rows, transform, num_labels=3)[0]


def test_without_masks(rows):
    transform = LevelsTransform(build_train_transform(Augmentation(crop_size=(32, 32))))
    data = SegmentationDataset([{"image": row["image"]} for row in rows], transform)
    batch = transform.collate([data[0]])
    assert set(transform.finish(batch)) == {"pixel_values", "name"}
    elsewhere = transform.finish(batch, "meta")["pixel_values"]
    assert (elsewhere.device.type, elsewhere.shape) == ("meta", (1, 3, 32, 32))


def test_trainings_finish_their_batches(rows, tmp_path):
    joint = build_train_transform(Augmentation(crop_size=(32, 32)))
    options = RunOptions(output_dir=str(tmp_path), per_device_train_batch_size=2, use_cpu=True, seed=3)
    batches = TrainingBatches(rows, joint, options, Recipe(), num_labels=9, accelerator=Accelerator(cpu=True))
    data = SegmentationDataset(rows, joint, seed=3)
    found = batches.after(1, memory_format=torch.channels_last)
    for number, batch in enumerate(itertools.islice(found, 2), start=1):
        assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
        expected = collate_training([data[index] for index in batches.order.indices(number)])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["labels"].long(), expected["labels"])

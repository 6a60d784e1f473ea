import pickle

import numpy as np
import PIL.Image
import pytest
import torch

from segzoo.data.collate import collate_evaluation, collate_training
from segzoo.data.dataset import SegmentationDataset
from segzoo.data.loading import load_segmentation_dataset
from segzoo.data.transforms import build_eval_transform, build_train_transform
from segzoo.errors import SegZooError


@pytest.fixture
def table(make_folder):
    return load_segmentation_dataset(make_folder({"train": [f"n{i}" for i in range(6)]}))["train"]


def test_augmentation_is_a_function_of_seed_epoch_and_index(table):
    transform = build_train_transform(crop_size=(16, 16))
    data = SegmentationDataset(table, transform, seed=3)
    first = data[2]
    assert first["name"].endswith("n2.jpg") and first["index"] == 2
    data[0], data[5]
    assert torch.equal(data[2]["pixel_values"], first["pixel_values"])
    assert torch.equal(data[-4]["pixel_values"], first["pixel_values"])
    data.set_epoch(1)
    assert data.epoch == 1 and not torch.equal(data[2]["pixel_values"], first["pixel_values"])
    data.set_epoch(0)
    assert torch.equal(data[2]["pixel_values"], first["pixel_values"])
    other = SegmentationDataset(table, transform, seed=4)
    assert not torch.equal(other[2]["pixel_values"], first["pixel_values"])


def test_workers_do_not_matter_and_hear_of_the_epoch(table):
    data = SegmentationDataset(table, build_train_transform(crop_size=(16, 16)))
    plain = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=collate_training)
    workers = torch.utils.data.DataLoader(
        data, batch_size=2, collate_fn=collate_training, num_workers=2, persistent_workers=True
    )
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = zip(plain, workers, strict=True)
        assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in batches)


def test_dataset_can_be_pickled(table):
    data = SegmentationDataset(table, build_train_transform(crop_size=(16, 16)))
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1]["labels"], data[1]["labels"])


def test_bad_ids_and_broken_files_are_named(table, make_folder, tmp_path):
    with pytest.raises(SegZooError, match=r"n3\.png: label ids outside"):
        SegmentationDataset(table, build_eval_transform(), num_labels=2)[3]
    path = tmp_path / "images/train/n3.jpg"
    path.write_bytes(path.read_bytes()[:300])
    data = SegmentationDataset(table, build_eval_transform())
    with pytest.raises(SegZooError, match=r"n3\.jpg"):
        data[3]
    loader = torch.utils.data.DataLoader(data, collate_fn=collate_evaluation, num_workers=1)
    with pytest.raises(SegZooError, match=r"n3\.jpg"):
        list(loader)
    PIL.Image.new("L", (3, 3)).save(tmp_path / "annotations/train/n4.png")
    with pytest.raises(SegZooError, match=r"n4\.jpg is 32x24.*n4\.png is 3x3"):
        data[4]


def test_plain_rows_and_wrong_tables(table):
    rows = [{"image": np.zeros((8, 9, 3), dtype=np.uint8), "label": np.ones((8, 9), dtype=np.uint8)}]
    item = SegmentationDataset(rows, build_eval_transform())[0]
    assert item["labels"].shape == (8, 9) and item["name"] == "image of row 0"
    unlabelled = SegmentationDataset([{"image": rows[0]["image"]}], build_eval_transform(), num_labels=2)[0]
    assert "labels" not in unlabelled
    with pytest.raises(SegZooError, match="empty"):
        SegmentationDataset([], build_eval_transform())
    with pytest.raises(SegZooError, match="no column 'image'"):
        SegmentationDataset(table.rename_column("image", "x"), build_eval_transform())


def test_collate():
    samples = [
        {
            "pixel_values": torch.ones(3, h, w),
            "labels": torch.zeros(2 * h, w, dtype=torch.long),
            "index": i,
            "name": str(i),
        }
        for i, (h, w) in enumerate([(4, 6), (5, 3)])
    ]
    with pytest.raises(SegZooError, match="different sizes"):
        collate_training(samples)
    assert collate_training(samples[:1])["labels"].shape == (1, 8, 6)
    batch = collate_evaluation(samples)
    assert batch["pixel_values"].shape == (2, 3, 5, 6) and batch["input_sizes"] == [(4, 6), (5, 3)]
    assert (
        batch["target_sizes"] == [(8, 6), (10, 3)]
        and batch["index"].tolist() == [0, 1]
        and batch["name"] == ["0", "1"]
    )
    assert batch["pixel_values"][0, :, 4:].sum() == 0 and batch["pixel_values"][1].sum() == 45

import pickle
import warnings

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import v2

from segzoo.data.augmentation import Augmentation
from segzoo.data.collate import collate_evaluation, collate_training
from segzoo.data.dataset import Draw, SegmentationDataset
from segzoo.data.decoding import CorruptImageError
from segzoo.data.joint_steps import FromTorchvision
from segzoo.data.levels import LevelsTransform
from segzoo.data.loading import load_segmentation_dataset
from segzoo.data.transforms import JointTransform, build_train_transform
from segzoo.errors import SegZooError
from segzoo.training.order import EpochBatches, training_batches


@pytest.fixture
def table(make_folder):
    return load_segmentation_dataset(make_folder({"train": [f"n{i}" for i in range(6)]}))["train"]


def test_augmentation_is_a_function_of_seed_epoch_and_index(table):
    transform = build_train_transform(Augmentation(crop_size=(16, 16)))
    data = SegmentationDataset(table, transform, seed=3)
    first = data[2]
    assert first["name"].endswith("n2.jpg") and first["index"] == 2
    data[0], data[5]
    assert torch.equal(data[2]["pixel_values"], first["pixel_values"])
    assert torch.equal(data[-4]["pixel_values"], first["pixel_values"])
    assert len(list(data)) == 6
    for outside in (6, -7):
        with pytest.raises(IndexError):
            data[outside]
    data.set_epoch(1)
    assert data.epoch == 1 and not torch.equal(data[2]["pixel_values"], first["pixel_values"])
    data.set_epoch(0)
    assert torch.equal(data[2]["pixel_values"], first["pixel_values"])
    other = SegmentationDataset(table, transform, seed=4)
    assert not torch.equal(other[2]["pixel_values"], first["pixel_values"])


@pytest.mark.parametrize("levels", [False, True])
def test_the_class_of_a_draw_reaches_the_crop(levels):
    mask = np.zeros((64, 96), np.uint8)
    mask[30:36, 50:56] = 2
    rows = [{"image": PIL.Image.new("RGB", (96, 64)), "label": PIL.Image.fromarray(mask)}] * 2
    transform = build_train_transform(Augmentation(crop_size=(16, 16), scale_range=(0.9, 1.1)))
    data = SegmentationDataset(rows, LevelsTransform(transform) if levels else transform)

    def shown(*draw):
        return sum((data[Draw(0, turn, *draw)]["labels"] == 2).any().item() for turn in range(40))

    assert shown() < 12 and shown(2) > 22
    assert torch.equal(data[Draw(1)]["labels"], data[1]["labels"])
    assert torch.equal(data[Draw(1, 3)]["labels"], data[1, 3]["labels"])


def test_workers_do_not_matter_and_hear_of_the_epoch(table):
    data = SegmentationDataset(table, build_train_transform(Augmentation(crop_size=(16, 16))))
    plain = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=collate_training)
    workers = torch.utils.data.DataLoader(
        data, batch_size=2, collate_fn=collate_training, num_workers=2, persistent_workers=True
    )
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = zip(plain, workers, strict=True)
        assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in batches)


def _every_random_step():
    """A transform whose every step draws numbers, one of them torch's own."""
    jitter = FromTorchvision(v2.RandomAffine(degrees=20))
    return build_train_transform(Augmentation(crop_size=(16, 16), scale_edges=(24, 30)), extra_steps=(jitter,))


def test_seed_epoch_and_index_alone_decide(table):
    """Whatever the number of workers and processes, two epochs are the same samples in the same batches."""
    reference = SegmentationDataset(table, _every_random_step(), seed=5)

    def epochs(num_workers, num_processes):
        rounds = []
        for process in range(num_processes):
            data = SegmentationDataset(table, _every_random_step(), seed=5)
            order = EpochBatches(6, 4 // num_processes, seed=5, process_index=process, num_processes=num_processes)
            torch.manual_seed(process)  # must not matter
            batches = training_batches(data, order, num_workers=num_workers)
            rounds.append([next(batches) for _ in range(3)])
        return [
            (torch.cat([b["pixel_values"] for b in parts]), torch.cat([b["labels"] for b in parts]))
            for parts in zip(*rounds, strict=True)
        ]

    expected = []
    for epoch in range(3):
        reference.set_epoch(epoch)
        order = EpochBatches(6, 4, seed=5)
        order.set_position(epoch)
        samples = [reference[index] for index in order.indices(0)]
        expected.append(tuple(torch.stack([s[key] for s in samples]) for key in ("pixel_values", "labels")))
    assert not torch.equal(expected[0][0], expected[1][0])
    for num_workers, num_processes in ((0, 1), (1, 1), (2, 1), (0, 2), (0, 4), (2, 2)):
        for found, wanted in zip(epochs(num_workers, num_processes), expected, strict=True):
            assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def _break(path):
    path.write_bytes(path.read_bytes()[:100])


def test_corrupt_files_raise_or_are_passed_over(table, tmp_path):
    _break(tmp_path / "images/train/n3.jpg")
    (tmp_path / "annotations/train/n4.png").unlink()
    transform = build_train_transform(Augmentation(crop_size=(16, 16)))
    with pytest.raises(CorruptImageError, match=r"n3\.jpg: the image cannot be read"):
        SegmentationDataset(table, transform)[3]
    data = SegmentationDataset(table, transform, max_corrupt=2)
    with pytest.warns(UserWarning) as caught:
        item = data[3]
    told = [str(w.message) for w in caught]
    assert len(told) == 2 and "n3.jpg" in told[0] and "n4.png" in told[1] and "2 of at most 2" in told[1]
    assert item["index"] == 3 and item["name"].endswith("n5.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each is told once
        again = data[3]
        assert torch.equal(again["pixel_values"], item["pixel_values"]) and data[4]["name"].endswith("n5.jpg")
        assert not torch.equal(data[4]["pixel_values"], item["pixel_values"])  # the place's own random numbers
    _break(tmp_path / "images/train/n0.jpg")
    assert data[5]["name"].endswith("n5.jpg")
    with pytest.raises(CorruptImageError, match=r"n0\.jpg.* 2 broken sample\(s\) were passed over before"):
        data[0]


def test_the_last_sample_is_replaced_by_the_first(table, tmp_path):
    _break(tmp_path / "images/train/n5.jpg")
    with pytest.warns(UserWarning, match="n5.jpg"):
        item = SegmentationDataset(table, JointTransform(keep_label_size=True), max_corrupt=1)[5]
    assert item["name"].endswith("n0.jpg")
    for index in range(5):
        _break(tmp_path / f"images/train/n{index}.jpg")
    with pytest.warns(UserWarning), pytest.raises(CorruptImageError, match="No picture"):
        SegmentationDataset(table, JointTransform(keep_label_size=True), max_corrupt=6)[0]


def test_workers_count_corrupt_files_together(table, tmp_path):
    for index in (1, 4):
        _break(tmp_path / f"images/train/n{index}.jpg")

    def names(max_corrupt):
        data = SegmentationDataset(
            table, build_train_transform(Augmentation(crop_size=(16, 16))), max_corrupt=max_corrupt
        )
        loader = torch.utils.data.DataLoader(data, batch_size=1, collate_fn=collate_training, num_workers=2)
        return [batch["name"][0][-6:] for batch in loader]

    assert names(2) == ["n0.jpg", "n2.jpg", "n2.jpg", "n3.jpg", "n5.jpg", "n5.jpg"]
    with pytest.raises(CorruptImageError, match=r"were passed over before"):
        names(1)


def test_rows_without_a_mask_are_corrupt(table):
    rows = [table[0], {**table[1], "label": None}]
    with pytest.raises(CorruptImageError, match=r"n1\.jpg: there is no mask"):
        SegmentationDataset(rows, JointTransform(keep_label_size=True))[1]


def test_dataset_can_be_pickled(table):
    data = SegmentationDataset(table, build_train_transform(Augmentation(crop_size=(16, 16))))
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1]["labels"], data[1]["labels"])


def test_bad_ids_and_broken_files_are_named(table, make_folder, tmp_path):
    with pytest.raises(SegZooError, match=r"n3\.png: label ids outside"):
        SegmentationDataset(table, JointTransform(keep_label_size=True), num_labels=2)[3]
    path = tmp_path / "images/train/n3.jpg"
    path.write_bytes(path.read_bytes()[:300])
    data = SegmentationDataset(table, JointTransform(keep_label_size=True))
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
    item = SegmentationDataset(rows, JointTransform(keep_label_size=True))[0]
    assert item["labels"].shape == (8, 9) and item["name"] == "image of row 0"
    unlabelled = SegmentationDataset(
        [{"image": rows[0]["image"]}], JointTransform(keep_label_size=True), num_labels=2
    )[0]
    assert "labels" not in unlabelled
    with pytest.raises(SegZooError, match="empty"):
        SegmentationDataset([], JointTransform(keep_label_size=True))
    with pytest.raises(SegZooError, match="no column 'image'"):
        SegmentationDataset(table.rename_column("image", "x"), JointTransform(keep_label_size=True))


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
    for sample in samples:
        sample["labels"] = sample["labels"][: sample["pixel_values"].shape[1]]
    batch = collate_training(samples, pad_labels=255)
    assert batch["pixel_values"].shape == (2, 3, 5, 6) and batch["labels"].shape == (2, 5, 6)
    assert batch["name"] == ["0", "1"]
    assert (batch["labels"][0, :4] == 0).all() and (batch["labels"][0, 4] == 255).all()
    assert (batch["labels"][1, :, 3:] == 255).all() and (batch["pixel_values"][1, :, :, 3:] == 0).all()


def test_collate_for_evaluation():
    samples = [
        {
            "pixel_values": torch.ones(3, h, w),
            "labels": torch.zeros(2 * h, w, dtype=torch.long),
            "index": i,
            "name": str(i),
        }
        for i, (h, w) in enumerate([(4, 6), (5, 3)])
    ]
    batch = collate_evaluation(samples)
    assert batch["pixel_values"].shape == (2, 3, 5, 6) and batch["input_sizes"] == [(4, 6), (5, 3)]
    assert (
        batch["target_sizes"] == [(8, 6), (10, 3)]
        and batch["index"].tolist() == [0, 1]
        and batch["name"] == ["0", "1"]
    )
    assert batch["pixel_values"][0, :, 4:].sum() == 0 and batch["pixel_values"][1].sum() == 45


def test_reduced_decoding_gives_the_same_crops_of_pictures_that_are_decoded_smaller(tmp_path):
    height, width = 240, 320
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x / width * 255, y / height * 255, (x + y) / (height + width) * 255], axis=-1).astype(np.uint8)
    ids = (x // 80 + 4 * (y // 80)).astype(np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored on its side
    PIL.Image.fromarray(np.ascontiguousarray(np.rot90(smooth))).save(tmp_path / "a.jpg", quality=95, exif=exif)
    PIL.Image.fromarray(smooth).save(tmp_path / "b.jpg", quality=95)
    PIL.Image.fromarray(ids).save(tmp_path / "m.png")
    rows = [
        {"image": {"path": str(tmp_path / name), "bytes": None}, "label": str(tmp_path / "m.png")}
        for name in ("a.jpg", "b.jpg")
    ]
    settings = {"crop_size": (48, 64), "scale_range": (0.2, 0.7), "photometric_distortion": False}
    whole, reduced = (
        SegmentationDataset(
            rows, build_train_transform(Augmentation(**settings, reduced_decoding=on), image_std=(1.0,) * 3), seed=1
        )
        for on in (False, True)
    )
    differ = 0
    for epoch in range(12):
        whole.set_epoch(epoch)
        reduced.set_epoch(epoch)
        for index in range(2):
            one, other, again = whole[index], reduced[index], reduced[index]
            assert one["labels"].equal(other["labels"])
            assert other["pixel_values"].equal(again["pixel_values"])
            distance = (one["pixel_values"] - other["pixel_values"]).abs() * 255
            assert distance.mean() < 3  # grey levels
            differ += not one["pixel_values"].equal(other["pixel_values"])
    assert 4 < differ < 24  # some scales, above one half, need the whole picture


def test_reduced_decoding_reads_fewer_pixels(tmp_path):
    from segzoo.images.reading import open_picture

    PIL.Image.new("RGB", (320, 240)).save(tmp_path / "a.jpg")
    PIL.Image.new("RGB", (320, 240)).save(tmp_path / "a.png")
    for wanted, expected in ((120, (120, 160)), (121, (240, 320)), (29, (30, 40))):
        picture = open_picture(tmp_path / "a.jpg", wanted=lambda size, side=wanted: (side, side * size[1] // size[0]))
        assert (picture.stored.height, picture.stored.width) == expected and picture.stored_size == (240, 320)
    assert open_picture(tmp_path / "a.png", wanted=lambda size: (1, 1)).stored.size == (320, 240)
    with pytest.raises(SegZooError, match="random scale"):
        JointTransform(reduced_decoding=True)

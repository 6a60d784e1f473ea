import io
import tarfile
import warnings
from functools import partial
from itertools import islice

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import v2

from segzoo.data.augmentation import Augmentation
from segzoo.data.collate import collate_training
from segzoo.data.decoding import CorruptImageError
from segzoo.data.joint_steps import FromTorchvision
from segzoo.data.loading import load_segmentation_dataset
from segzoo.data.streaming import SegmentationStream
from segzoo.data.transforms import JointTransform, build_train_transform
from segzoo.errors import SegZooError

COUNT = 11

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def rows(make_folder):
    root = make_folder({"train": [f"n{i:02}" for i in range(COUNT)]})
    return load_segmentation_dataset(root, streaming=True)["train"]


@pytest.fixture
def shards(tmp_path, rng):
    """The same number of samples as webdataset shards: their bytes come with the rows."""
    for shard in range(3):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as archive:
            for number in range(shard, COUNT, 3):
                for extension, mode in (("jpg", (24, 32, 3)), ("png", (24, 32))):
                    buffer = io.BytesIO()
                    picture = PIL.Image.fromarray(rng.integers(0, 5, mode, dtype=np.uint8))
                    picture.save(buffer, {"jpg": "JPEG", "png": "PNG"}[extension])
                    data = buffer.getvalue()[: 150 if (number, extension) == (4, "jpg") else None]
                    member = tarfile.TarInfo(f"n{number:02}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return load_segmentation_dataset(tmp_path, streaming=True)["train"]


def transform():
    return build_train_transform(
        Augmentation(crop_size=(16, 16)), extra_steps=(FromTorchvision(v2.RandomAffine(degrees=20)),)
    )


def take(rows, count, batch_size=2, *, first_batch=0, num_workers=0, **options):
    stream = SegmentationStream(rows, transform(), seed=3, shuffle_buffer=6, **options)
    batches = stream.batches(batch_size, first_batch=first_batch, num_workers=num_workers)
    return list(islice(batches, count))


def short(batch):
    return [name[-7:] for name in batch["name"]]


def equal(found, expected):
    return len(found) == len(expected) and all(
        a["name"] == b["name"]
        and torch.equal(a["pixel_values"], b["pixel_values"])
        and torch.equal(a["labels"], b["labels"])
        for a, b in zip(found, expected, strict=True)
    )


def test_epochs(rows):
    batches = take(rows, 15)  # three epochs of five whole batches
    epochs = [sum(map(short, batches[start : start + 5]), []) for start in (0, 5, 10)]
    for names in epochs:
        assert len(set(names)) == 10 and names != sorted(names)
    assert epochs[0] != epochs[1] != epochs[2]
    samples = {name: v for b in batches[:5] for name, v in zip(short(b), b["pixel_values"], strict=True)}
    again = {name: v for b in batches[5:10] for name, v in zip(short(b), b["pixel_values"], strict=True)}
    assert all(not torch.equal(samples[name], again[name]) for name in samples.keys() & again.keys())


def test_samples_depend_on_seed_epoch_and_position(rows):
    """Against the definition, row by row."""
    stream = SegmentationStream(rows, transform(), seed=3, shuffle_buffer=6, num_labels=5)
    order = rows.shuffle(seed=3, buffer_size=6)
    for epoch in (2, 0):
        stream.set_epoch(epoch)
        order.set_epoch(epoch)
        items = list(stream)
        assert [item["index"] for item in items] == list(range(COUNT))
        for item, row in zip(items, order, strict=True):
            rng = np.random.default_rng([3, epoch, item["index"]])
            picture, mask = np.array(row["image"]), np.array(row["label"])
            expected = transform()(picture, mask, rng)
            assert item["name"] == row["image_path"]
            assert torch.equal(item["pixel_values"], expected["pixel_values"])
            assert torch.equal(item["labels"], expected["labels"])
    plain = SegmentationStream(rows, transform(), seed=3, shuffle_buffer=0)
    assert [item["name"][-7:] for item in plain] == [f"n{i:02}.jpg" for i in range(COUNT)]


@pytest.mark.parametrize("source", ["rows", "shards"])
def test_workers_and_processes_do_not_matter(source, request):
    """Two epochs, with everything random; the broken picture in the shards included."""
    rows = request.getfixturevalue(source)
    options = {"max_corrupt": 1} if source == "shards" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = take(rows, 6, batch_size=4, **options)
        for num_workers, num_processes in ((1, 1), (2, 1), (0, 2), (2, 2), (0, 4)):
            parts = []
            for process in range(num_processes):
                torch.manual_seed(process)
                parts.append(
                    take(
                        rows,
                        6,
                        batch_size=4 // num_processes,
                        num_workers=num_workers,
                        process_index=process,
                        num_processes=num_processes,
                        **options,
                    )
                )
            together = [
                {
                    "name": sum((b["name"] for b in batch), []),
                    "pixel_values": torch.cat([b["pixel_values"] for b in batch]),
                    "labels": torch.cat([b["labels"] for b in batch]),
                }
                for batch in zip(*parts, strict=True)
            ]
            assert equal(together, expected)


@pytest.mark.parametrize("source", ["rows", "shards"])
@pytest.mark.parametrize("first", [1, 4, 5, 12])
def test_it_goes_on_where_it_stopped(source, first, request):
    rows = request.getfixturevalue(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = take(rows, 14, max_corrupt=1)
        assert equal(take(rows, 14 - first, first_batch=first, num_workers=first % 2, max_corrupt=1), whole[first:])


def test_skipped_rows_are_not_decoded(rows, tmp_path):
    whole = take(rows, 4)
    for name in (name for batch in whole[:3] for name in batch["name"]):
        with open(name, "wb"):
            pass
    assert equal(take(rows, 1, first_batch=3), whole[3:])


def test_the_main_random_numbers_are_left_alone(rows):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    take(rows, 2)
    take(rows, 2, num_workers=1)
    assert torch.equal(torch.rand(3), expected)


def test_corrupt_samples(rows):
    names = [name for batch in take(rows, 5) for name in batch["name"]]
    for name in (names[3], names[6], names[7]):
        with open(name, "r+b") as file:
            file.truncate(200)
    with pytest.raises(CorruptImageError, match=names[3]):
        take(rows, 5)
    with pytest.warns(UserWarning) as caught:
        batches = take(rows, 5, max_corrupt=3, num_workers=2)
    assert [sum(name in str(w.message) for w in caught) for name in names] == [0, 0, 0, 1, 0, 0, 1, 1, 0, 0]
    found = [name for batch in batches for name in batch["name"]]
    assert found == [names[i] for i in (0, 1, 2, 4, 4, 5, 8, 8, 8, 9)]
    assert not torch.equal(
        batches[1]["pixel_values"][1], batches[2]["pixel_values"][0]
    )  # the place's own random numbers
    with (
        pytest.warns(UserWarning),
        pytest.raises(CorruptImageError, match=r"2 broken sample\(s\) were passed over before"),
    ):
        take(rows, 5, max_corrupt=2)
    with pytest.warns(UserWarning):
        stream = SegmentationStream(rows, transform(), seed=3, shuffle_buffer=6, max_corrupt=3)
        assert len(list(stream)) == COUNT - 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once, however many epochs follow
        assert len(list(stream)) == COUNT - 3


def test_the_last_sample_is_replaced_from_the_next_epoch(rows):
    names = [name for batch in take(rows, 12, batch_size=1) for name in batch["name"]]
    with open(names[COUNT - 1], "wb"):
        pass
    with pytest.warns(UserWarning, match=names[COUNT - 1]):
        assert take(rows, COUNT, batch_size=1, max_corrupt=1)[-1]["name"] == [names[COUNT]]


def test_corrupt_members_of_shards_are_named(shards):
    with pytest.raises(CorruptImageError, match="n04.jpg"):
        take(shards, 5)
    with pytest.warns(UserWarning) as caught:
        take(shards, 15, max_corrupt=1)  # once for all epochs, though nothing but its bytes tells it
    assert len([w for w in caught if "n04.jpg" in str(w.message)]) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_labels_are_one_line(rows, num_workers):
    stream = SegmentationStream(rows, transform(), num_labels=2, max_corrupt=5)
    with pytest.raises(SegZooError, match=r"^\S+\.png: label ids outside|^\S+\.png: .*ids") as error:
        next(stream.batches(2, num_workers=num_workers))
    assert "Traceback" not in str(error.value)


def test_a_part_of_a_stream(rows):
    names = {name[-7:] for batch in take(rows.take(4), 4) for name in batch["name"]}
    assert names == {"n00.jpg", "n01.jpg", "n02.jpg", "n03.jpg"}


def test_too_few_rows_and_wrong_columns(rows):
    with pytest.raises(SegZooError, match="11 pictures, fewer than the 12"):
        take(rows, 1, batch_size=6, num_processes=2)
    with pytest.raises(SegZooError, match="no column 'image'"):
        SegmentationStream(rows.rename_column("image", "x"), transform())


def test_a_source_that_breaks_off(rows):
    def failing():
        yield from list(rows)[:3]
        raise ConnectionError("gone\nand more")

    broken = datasets.IterableDataset.from_generator(failing, features=rows.features)
    stream = SegmentationStream(broken, JointTransform(keep_label_size=True), shuffle_buffer=0)
    with pytest.raises(SegZooError, match="broke off after 3 rows of epoch 0: gone. Go on"):
        list(stream)


def test_whole_pictures_are_padded_by_the_given_collate(rows):
    stream = SegmentationStream(rows, build_train_transform(Augmentation(crop_size=None)))
    batch = next(stream.batches(3, collate=partial(collate_training, pad_labels=255)))
    assert batch["labels"].shape[1:] == batch["pixel_values"].shape[2:] and (batch["labels"] == 255).any()

import io
import json
import tarfile

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segzoo.data.decoding import decode_example
from segzoo.data.loading import load_id2label, load_segmentation_dataset
from segzoo.errors import SegZooError

pytestmark = pytest.mark.usefixtures("own_cache")


def encode(array, format="PNG"):
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, format)
    return buffer.getvalue()


def pairs(rng, count):
    """Encoded pictures and masks whose first pixel is their number."""
    masks = rng.integers(0, 5, (count, 6, 8), dtype=np.uint8)
    masks[:, 0, 0] = np.arange(count)
    return [(encode(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), "JPEG"), encode(mask)) for mask in masks]


def numbers(rows):
    return [int(decode_example(row)[1][0, 0]) for row in rows]


def write_shard(path, samples, image="jpg", label="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for key, (picture, mask) in samples:
            for extension, data in ((image, picture), (label, mask), ("json", json.dumps({"key": key}).encode())):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


def test_saved_dataset_and_its_columns(make_folder, tmp_path):
    table = load_segmentation_dataset(make_folder({"train": ["a", "b"]}))["train"]
    other = table.rename_columns({"image": "img", "label": "annotation"}).add_column("label", [3, 4])
    datasets.DatasetDict({"training": other}).save_to_disk(tmp_path / "saved")
    loaded = load_segmentation_dataset(tmp_path / "saved")["train"]
    assert isinstance(loaded.features["label"], datasets.Image) and loaded["original_label"] == [3, 4]
    image, mask = decode_example(loaded[0])
    assert image.shape[:2] == mask.shape
    stream = load_segmentation_dataset(tmp_path / "saved", streaming=True)["train"]
    assert [row["original_label"] for row in stream] == [3, 4]
    assert decode_example(next(iter(stream)))[1].shape == (24, 32)
    odd = table.rename_columns({"label": "truth"})
    odd.save_to_disk(tmp_path / "odd")
    with pytest.raises(SegZooError, match=r"truth \(Image\).*label_column"):
        load_segmentation_dataset(tmp_path / "odd")
    assert "label" in load_segmentation_dataset(tmp_path / "odd", label_column="truth")["train"].column_names
    with pytest.raises(SegZooError, match="no column 'masks'"):
        load_segmentation_dataset(tmp_path / "odd", label_column="masks")


def test_parquet_folder(make_folder, tmp_path):
    table = load_segmentation_dataset(make_folder({"train": ["a", "b"]}))["train"].select_columns(["image", "label"])
    (tmp_path / "parquet").mkdir()
    table = table.map(lambda row: row, features=table.features)
    table.to_parquet(tmp_path / "parquet" / "train.parquet")
    loaded = load_segmentation_dataset(tmp_path / "parquet", cache_dir=str(tmp_path / "cache"))
    assert decode_example(loaded["train"][0])[1].shape == (24, 32)


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_by_datasets(make_folder, tmp_path, streaming):
    table = load_segmentation_dataset(make_folder({"train": ["a", "b"]}))["train"]
    table.save_to_disk(tmp_path / "saved")
    rows = load_segmentation_dataset(tmp_path / "saved", streaming=streaming)["train"]
    assert isinstance(rows, datasets.IterableDataset) == streaming
    assert [decode_example(row)[1].shape for row in rows] == [(24, 32)] * 2
    (tmp_path / "saved" / "dataset_info.json").unlink()
    with pytest.raises(SegZooError, match="saved by `datasets` but cannot be loaded"):
        load_segmentation_dataset(tmp_path / "saved")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_parquet_of_others(tmp_path, rng, streaming, kind):
    """Without the notes of `datasets` about its columns, bytes are still pictures."""
    folder = tmp_path / "größe und form"
    folder.mkdir()
    for name, part in (
        ("train-00000-of-00002", pairs(rng, 3)),
        ("train-00001-of-00002", pairs(rng, 2)),
        ("val", pairs(rng, 1)),
    ):
        columns = zip(*part, strict=True)
        if kind == "struct":
            columns = [[{"bytes": data, "path": None} for data in column] for column in columns]
        table = pa.table(
            dict(zip(("image", "mask"), map(list, columns), strict=True)) | {"id": list(range(len(part)))}
        )
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "id2label.json").write_text('{"0": "sky"}')
    loaded = load_segmentation_dataset(folder, streaming=streaming)
    assert {split: numbers(rows) for split, rows in loaded.items()} == {"train": [0, 1, 2, 0, 1], "validation": [0]}
    assert "id" in loaded["train"].column_names
    loaded = load_segmentation_dataset(folder / "val.parquet", streaming=streaming)
    assert {split: numbers(rows) for split, rows in loaded.items()} == {"validation": [0]}
    loaded = load_segmentation_dataset(folder / "train-*.parquet", streaming=streaming)
    assert {split: numbers(rows) for split, rows in loaded.items()} == {"train": [0, 1, 2, 0, 1]}
    assert load_id2label(folder) == load_id2label(folder / "val.parquet") == load_id2label(folder / "*.parquet")


def test_a_broken_parquet_file_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nothing")
    for source in (tmp_path, tmp_path / "train.parquet"):
        with pytest.raises(SegZooError, match=str(source)):
            load_segmentation_dataset(source)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "image, label", [("jpg", "png"), ("jpg", "seg.png"), ("png", "mask.png"), ("image.jpg", "label.png")]
)
def test_webdataset(tmp_path, rng, streaming, image, label):
    part = pairs(rng, 5)
    root = tmp_path / "shards ü"
    write_shard(root / "train-000.tar", [(f"p/{i:03}", pair) for i, pair in enumerate(part[:3])], image, label)
    write_shard(root / "train-001.tar", [(f"p/{i:03}", pair) for i, pair in enumerate(part[3:], 3)], image, label)
    write_shard(root / "val-000.tar", [("q", part[4])], image, label)
    loaded = load_segmentation_dataset(root, streaming=streaming)
    assert {split: numbers(rows) for split, rows in loaded.items()} == {"train": [0, 1, 2, 3, 4], "validation": [4]}
    row = next(iter(loaded["train"].cast_column("image", datasets.Image(decode=False))))
    assert row["image"] == {"path": f"p/000.{image}", "bytes": part[0][0]}  # neither decoded nor nameless
    assert numbers(load_segmentation_dataset(root / "train-001.tar", streaming=streaming)["train"]) == [3, 4]
    assert numbers(load_segmentation_dataset(f"{root}/train-*.tar", streaming=streaming)["train"]) == [0, 1, 2, 3, 4]


def test_columns_that_cannot_be_told_apart(tmp_path, rng):
    ((picture, mask),) = pairs(rng, 1)
    write_shard(tmp_path / "train.tar", [("a", (picture, mask))], "jpg", "depth.png")
    with pytest.raises(
        SegZooError, match=r"train.tar: no column looks like the label.*depth.png \(Image\).*label_column"
    ):
        load_segmentation_dataset(tmp_path / "train.tar", streaming=True)
    rows = load_segmentation_dataset(tmp_path / "train.tar", streaming=True, label_column="depth.png")["train"]
    assert numbers(rows) == [0]
    with pytest.raises(SegZooError, match="no column 'nothing'"):
        load_segmentation_dataset(tmp_path / "train.tar", image_column="nothing")


def test_an_archive_that_is_no_webdataset(tmp_path):
    with tarfile.open(tmp_path / "VOCtrainval.tar", "w") as archive:
        archive.add(__file__, "VOCdevkit/README")
    with pytest.raises(SegZooError, match="VOCtrainval.tar cannot be read"):
        load_segmentation_dataset(tmp_path / "VOCtrainval.tar")

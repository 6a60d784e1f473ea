import json
import os
import unicodedata

import datasets
import numpy as np
import PIL.Image
import pytest

from segzoo.data.decoding import decode_example
from segzoo.data.loading import load_id2label, load_segmentation_dataset
from segzoo.errors import SegZooError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_folder_is_loaded_lazily_and_in_pairs(make_folder):
    root = make_folder({"train": ["b", "a", "ünïcödé"], "val": ["c"]})
    loaded = load_segmentation_dataset(root)
    assert {split: len(table) for split, table in loaded.items()} == {"train": 3, "validation": 1}
    assert loaded["train"].column_names == ["image", "label", "image_path", "label_path"]
    assert isinstance(loaded["train"].features["label"], datasets.Image)
    for row in loaded["train"]:
        stems = [os.path.splitext(os.path.basename(row[key]))[0] for key in ("image_path", "label_path")]
        assert stems[0] == stems[1]
        image, mask = decode_example(row)
        assert image.shape == (24, 32, 3) and mask.shape == (24, 32)
        assert (mask == np.asarray(PIL.Image.open(row["label_path"]))).all()
    (root / "images" / "train" / "a.jpg").write_bytes(b"")  # nothing was read at loading
    assert len(load_segmentation_dataset(root)["train"]) == 3


@pytest.mark.parametrize(
    "names, expected",
    [
        (("training", "validation"), ["train", "validation"]),
        (("Train", "VAL", "testing"), ["train", "validation", "test"]),
    ],
)
def test_split_names(make_folder, names, expected):
    root = make_folder({name: ["a"] for name in names}, images="Images", annotations="masks", extension=".JPEG")
    assert list(load_segmentation_dataset(root)) == expected


def test_folder_without_splits_is_train(make_folder):
    assert len(load_segmentation_dataset(make_folder({".": ["a", "b"]}))["train"]) == 2


def test_nested_folders_and_suffixes(make_folder, tmp_path):
    make_folder({"train": ["ulm/u1_leftImg8bit", "bonn/u1_leftImg8bit"]}, extension=".png")
    for city in ("ulm", "bonn"):
        folder = tmp_path / "annotations" / "train" / city
        (folder / "u1_leftImg8bit.png").rename(folder / "u1_gtFine_labelTrainIds.png")
        PIL.Image.new("L", (2, 2)).save(folder / "u1_gtFine_color.png")
    loaded = load_segmentation_dataset(tmp_path, image_suffix="_leftImg8bit", label_suffix="_gtFine_labelTrainIds")
    assert len(loaded["train"]) == 2


def test_composed_and_decomposed_names_pair(make_folder, tmp_path):
    make_folder({"train": ["plain"]})
    (tmp_path / "images/train/plain.jpg").rename(tmp_path / "images/train" / unicodedata.normalize("NFD", "Bäume.jpg"))
    (tmp_path / "annotations/train/plain.png").rename(
        tmp_path / "annotations/train" / unicodedata.normalize("NFC", "Bäume.png")
    )
    assert len(load_segmentation_dataset(tmp_path)["train"]) == 1


@pytest.mark.parametrize("inside", [True, False])
def test_ade20k_tree(make_folder, tmp_path, inside):
    make_folder(
        {"training": ["ADE_train_1"], "validation": ["ADE_val_1"]},
        images="ADEChallengeData2016/images",
        annotations="ADEChallengeData2016/annotations",
    )
    root = tmp_path / "ADEChallengeData2016" if inside else tmp_path
    assert list(load_segmentation_dataset(root)) == ["train", "validation"]
    assert load_id2label(root)[149] == "flag"


def test_unpaired_files_are_named(make_folder, tmp_path):
    make_folder({"train": [f"n{i}" for i in range(9)], "val": ["v"]})
    for i in range(7):
        (tmp_path / f"annotations/train/n{i}.png").unlink()
    (tmp_path / "images/train/n8.jpg").unlink()
    with pytest.raises(SegZooError) as error:
        load_segmentation_dataset(tmp_path)
    text = str(error.value)
    assert "7 picture(s) without mask" in text and "n0.jpg" in text and "and 2 more" in text
    assert "1 mask(s) without picture" in text and "n8.png" in text and "strict=False" in text
    with pytest.warns(UserWarning, match="n8.png"):
        loaded = load_segmentation_dataset(tmp_path, strict=False)
    assert len(loaded["train"]) == 1


def test_duplicate_stems_are_named(make_folder, tmp_path):
    make_folder({"train": ["a", "b"]})
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "images/train/a.png")
    with pytest.raises(SegZooError, match=r"1 name\(s\) with several files: a.jpg and a.png"):
        load_segmentation_dataset(tmp_path)
    with pytest.warns(UserWarning):
        assert len(load_segmentation_dataset(tmp_path, strict=False)["train"]) == 1


def test_faults_of_folders(make_folder, tmp_path):
    make_folder({"train": ["a"], "val": ["b"]})
    (tmp_path / "images/train/.DS_Store").write_bytes(b"x")
    (tmp_path / "images/train/notes.txt").write_text("x")
    assert len(load_segmentation_dataset(tmp_path)["train"]) == 1
    (tmp_path / "images/train/a.jpg").unlink()
    with pytest.raises(SegZooError, match="1 mask.*without picture: a.png; train: the split is empty"):
        load_segmentation_dataset(tmp_path)
    PIL.Image.new("L", (4, 4)).save(tmp_path / "images/train/a.jpg")
    PIL.Image.new("L", (4, 4)).save(tmp_path / "annotations/train/a.jpg")
    (tmp_path / "annotations/train/a.png").unlink()
    with pytest.raises(SegZooError, match="JPEG"):
        load_segmentation_dataset(tmp_path)


def test_missing_folders(make_folder, tmp_path):
    with pytest.raises(SegZooError, match="no folder"):
        load_segmentation_dataset(tmp_path / "nowhere")
    make_folder({"train": ["a"], "val": ["b"]})
    with pytest.raises(SegZooError, match="is a file"):
        load_segmentation_dataset(tmp_path / "images/train/a.jpg")
    for file in (tmp_path / "annotations/val").iterdir():
        file.unlink()
    (tmp_path / "annotations/val").rmdir()
    with pytest.raises(SegZooError, match="validation: there are pictures but no masks for .*val"):
        load_segmentation_dataset(tmp_path)
    (tmp_path / "annotations").rename(tmp_path / "elsewhere")
    with pytest.raises(SegZooError, match="no annotations/"):
        load_segmentation_dataset(tmp_path)


def test_test_split_without_masks_is_left_out(make_folder, tmp_path):
    make_folder({"train": ["a"]})
    (tmp_path / "images/test").mkdir()
    with pytest.warns(UserWarning, match="test split is left out"):
        assert list(load_segmentation_dataset(tmp_path)) == ["train"]


def test_hub_names_go_to_datasets(monkeypatch, make_folder):
    table = load_segmentation_dataset(make_folder({"train": ["a"]}))["train"].rename_column("label", "annotation")
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        if args[0] == "nobody/nothing":
            raise FileNotFoundError("no such data set\nand more")
        return datasets.DatasetDict({"train": table, "val": table})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_segmentation_dataset("merve/scene_parse_150", "small", revision="v1", token="t")
    assert list(loaded) == ["train", "validation"] and "label" in loaded["validation"].column_names
    assert asked[0] == (
        ("merve/scene_parse_150", "small"),
        {"cache_dir": None, "revision": "v1", "token": "t", "streaming": False},
    )
    with pytest.raises(SegZooError, match="'nobody/nothing'.*failed: no such data set$"):
        load_segmentation_dataset("nobody/nothing")


def test_id2label(tmp_path):
    assert load_id2label(tmp_path) is None
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "sky", "1": "road"}))
    assert load_id2label(tmp_path) == {0: "sky", 1: "road"}
    (tmp_path / "id2label.json").write_text("[1]")
    with pytest.raises(SegZooError, match="JSON object"):
        load_id2label(tmp_path)


def test_problems_are_handed_over(make_folder, tmp_path):
    make_folder({"train": [f"n{i}" for i in range(9)], "val": ["v"], "test": ["t"]})
    for i in range(7):
        (tmp_path / f"annotations/train/n{i}.png").unlink()
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "images/train/n8.png")
    (tmp_path / "annotations/val").rename(tmp_path / "annotations/extra")
    PIL.Image.new("L", (4, 4)).save(tmp_path / "annotations/test/t.jpg")
    (tmp_path / "annotations/test/t.png").unlink()
    problems = []
    loaded = load_segmentation_dataset(tmp_path, on_problem=problems.append)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 1, "test": 1}
    found = [(p.kind, p.split, sorted(os.path.basename(f) for f in p.files)) for p in problems]
    assert [files for kind, split, files in found if kind == "image_without_mask" and split == "train"] == [
        [f"n{i}.jpg"] for i in range(7)
    ]
    assert ("duplicate_stem", "train", ["n8.jpg", "n8.png"]) in found
    assert ("split_without_masks", "validation", ["val"]) in found
    (tmp_path / "annotations/train/n7.png").unlink()
    problems.clear()
    load_segmentation_dataset(tmp_path, on_problem=problems.append)
    assert any(p.kind == "empty_split" and p.split == "train" for p in problems)


def test_splits_outside(tmp_path, rng):
    for split in ("train", "valid"):
        for kind, name, size in (("images", "ä b.jpg", (8, 9, 3)), ("masks", "ä b.png", (8, 9))):
            path = tmp_path / "my data" / split / kind / name
            path.parent.mkdir(parents=True)
            PIL.Image.fromarray(rng.integers(0, 5, size, dtype=np.uint8)).save(path)
    loaded = load_segmentation_dataset(tmp_path / "my data")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 1, "validation": 1}
    assert len(load_segmentation_dataset(tmp_path)["train"]) == 1  # the only folder inside


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SegZooError, match=r"Looked for images/\{split\}.*Cityscapes.*found pictures/, notes.txt"):
        load_segmentation_dataset(tmp_path)
    for name in ("a.zip", "b.odgt", "c.parquet", "shards-*.tar"):
        with pytest.raises(SegZooError, match="There is no f"):
            load_segmentation_dataset(tmp_path / name)
    (tmp_path / "half.zip").write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(SegZooError, match="half.zip cannot be read as a zip"):
        load_segmentation_dataset(tmp_path / "half.zip")


def test_links_that_lead_back_end(make_folder, tmp_path):
    make_folder({"train": ["a"]})
    (tmp_path / "images/train/again").symlink_to(tmp_path / "images", target_is_directory=True)
    assert len(load_segmentation_dataset(tmp_path)["train"]) == 1


def test_streams_of_folders(make_folder):
    root = make_folder({"train": ["a", "b", "c"], "val": ["d"]})
    loaded = load_segmentation_dataset(root, streaming=True)
    assert isinstance(loaded, datasets.IterableDatasetDict) and list(loaded) == ["train", "validation"]
    rows = list(loaded["train"])
    assert [os.path.basename(row["image_path"]) for row in rows] == ["a.jpg", "b.jpg", "c.jpg"]
    assert decode_example(rows[0])[1].shape == (24, 32)

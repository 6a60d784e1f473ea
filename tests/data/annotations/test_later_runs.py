"""A later run into the same folder draws anew what was changed since, and removes what is no longer there."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.annotation_exports import (
    labelme_shape,
    make_masks,
    save_picture,
    square,
    write_labelme,
    write_yolo,
    written,
    yolo_line,
)

from segzoo.data import load_segmentation_dataset

OUTLINE = [labelme_shape("roof", [[1, 1], [4, 1], [4, 4], [1, 4]])]


def values(target, path="train/a"):
    return sorted(np.unique(PIL.Image.open(target / "annotations" / f"{path}.png")).tolist())


def files(target):
    """All but the manifest, the lock and its like."""
    found = (path for path in target.rglob("*") if path.is_file() and path.parent != target)
    return {str(path.relative_to(target)): path.read_bytes() for path in found}


@pytest.mark.parametrize("packed", [False, True])
def test_a_source_that_is_named_otherwise_is_the_same(export, target, capsys, monkeypatch, packed):
    for folder in ("1/images", "2/images", "3/images"):
        save_picture(export / folder / "a.jpg")
        write_labelme(export / folder / "a.json", "a.jpg", OUTLINE)
    save_picture(export / "1" / "a.jpg")
    write_labelme(export / "1" / "a.json", "a.jpg", OUTLINE)
    source = Path(shutil.make_archive(str(export), "zip", export)) if packed else export
    assert make_masks(source, target) == 0
    assert written(target) == ["train/1/a", "train/1_images_a", "train/2/a", "train/3/a"]
    monkeypatch.chdir(source.parent)
    capsys.readouterr()
    assert make_masks(source.name, target) == 0 and "train 4 (4 done before)" in capsys.readouterr().out


def test_a_palette_that_was_corrected(export, target, tmp_path, capsys):
    save_picture(export / "images" / "train" / "a.png")
    mask = np.zeros((10, 12, 3), dtype=np.uint8)
    mask[:, :6], mask[:, 6:] = (255, 0, 0), (0, 255, 0)
    (export / "annotations" / "train").mkdir(parents=True)
    PIL.Image.fromarray(mask).save(export / "annotations" / "train" / "a.png")
    palette = tmp_path / "colours.csv"
    for text, left in (("road,0,255,0\nroof,255,0,0\n", 1), ("road,255,0,0\nroof,0,255,0\n", 0)):
        palette.write_text(text)
        assert make_masks(export, target, "--palette", palette) == 0
        assert (
            np.asarray(PIL.Image.open(target / "annotations/train/a.png"))[0].tolist() == [left] * 6 + [1 - left] * 6
        )
    capsys.readouterr()
    assert make_masks(export, target, "--palette", palette) == 0 and "1 done before" in capsys.readouterr().out


def test_names_whose_order_was_corrected(export, target):
    write_yolo(export, lines=[yolo_line(0, square(1, 1, 5, 5))])
    for order, label in (("road, roof", 1), ("roof, road", 2)):
        (export / "data.yaml").write_text(f"names: [{order}]\n")
        assert make_masks(export, target, "--classes", "road", "roof") == 0
        assert values(target) == [0, label]


def test_pictures_that_moved_are_replaced_or_gone(export, target, capsys):
    (export / "val").mkdir()
    for name in "abcd":
        save_picture(export / f"{name}.jpg")
        write_labelme(export / f"{name}.json", f"{name}.jpg", OUTLINE)
    save_picture(export / "val" / "e.jpg")
    write_labelme(export / "val" / "e.json", "e.jpg", OUTLINE)
    assert make_masks(export, target) == 0
    own = target / "images" / "train" / "own.txt"
    own.write_text("a user's")

    for name in ("b.jpg", "b.json"):
        (export / name).rename(export / "val" / name)
    for name in ("val/e.jpg", "val/e.json"):
        (export / name).unlink()
    save_picture(export / "a.jpg", seed=1)
    (export / "c.jpg").unlink()
    save_picture(export / "c.png")
    write_labelme(export / "c.json", "c.png", OUTLINE)
    (export / "d.json").write_text((export / "d.json").read_text().replace('"roof"', "null, "))
    capsys.readouterr()
    assert make_masks(export, target) == 1
    assert "train 2, validation 1;" in capsys.readouterr().out
    assert written(target) == ["train/a", "train/c", "train/own", "validation/b"]
    assert written(target, "annotations") == ["train/a", "train/c", "validation/b"]
    assert (target / "images/train/a.jpg").read_bytes() == (export / "a.jpg").read_bytes()

    for name in ("b.jpg", "b.json"):
        (export / "val" / name).rename(export / name)
    assert make_masks(export, target) == 1
    own.unlink()
    assert not (target / "images" / "validation").exists() and set(load_segmentation_dataset(target)) == {"train"}


def test_a_picture_that_can_no_longer_be_drawn_leaves_nothing(export, target):
    for name in "ab":
        save_picture(export / f"{name}.jpg")
        write_labelme(export / f"{name}.json", f"{name}.jpg", OUTLINE)
    assert make_masks(export, target) == 0
    save_picture(export / "b.jpg", size=(5, 5))
    assert make_masks(export, target) == 1
    assert written(target) == written(target, "annotations") == ["train/a"]


def test_another_archive_of_the_same_name(export, target):
    archive = export.with_suffix(".zip")
    for seed in (0, 1):
        save_picture(export / "a.jpg", seed=seed)
        write_labelme(export / "a.json", "a.jpg", OUTLINE)
        with zipfile.ZipFile(archive, "w") as file:
            for name in ("a.jpg", "a.json"):
                file.write(export / name, name)
        if seed:  # in this process, the table of contents is read once
            from segzoo.images import archives

            archives._open_archives.clear()
        assert make_masks(archive, target) == 0
        assert (target / "images/train/a.jpg").read_bytes() == (export / "a.jpg").read_bytes()


def test_a_folder_of_an_earlier_version_is_drawn_anew(export, target, capsys):
    """Its digests say less; so are lines that lack something."""
    for name in "abc":
        save_picture(export / f"{name}.jpg")
        write_labelme(export / f"{name}.json", f"{name}.jpg", OUTLINE)
    assert make_masks(export, target) == 0
    before = files(target)
    manifest = target / "masks.jsonl"
    first, *lines = map(json.loads, manifest.read_text().splitlines())
    older = [{**lines[0], "annotations": "0" * 16}, {**lines[1], "annotations": "0" * 16}, {"picture": "train/c"}]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in (first, *older)))
    for path in (target / "annotations").rglob("*.png"):
        path.write_bytes(b"as drawn before")
    capsys.readouterr()
    assert make_masks(export, target) == 0 and "train 3;" in capsys.readouterr().out
    assert files(target) == before


@pytest.mark.parametrize("text", ["[1]\n", "no JSON\n", '{"format": "labelme"}\n', ""])
def test_a_manifest_that_is_none(export, target, text, capsys):
    save_picture(export / "a.jpg")
    write_labelme(export / "a.json", "a.jpg", OUTLINE)
    target.mkdir()
    (target / "masks.jsonl").write_text(text)
    assert make_masks(export, target) == 1
    told = capsys.readouterr().err
    assert "choose another folder" in told and told.count("\n") == 1

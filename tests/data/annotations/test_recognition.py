"""Data that has no masks yet is named with the command that makes them: by the check, and where a training loads it."""

import json

import numpy as np
import PIL.Image
import pytest
from support.annotation_exports import (
    SIZE,
    coco_object,
    labelme_shape,
    make_masks,
    save_picture,
    square,
    write_coco,
    write_labelme,
    write_yolo,
    written,
)

from segzoo.commands.cli import main
from segzoo.data import load_segmentation_dataset
from segzoo.data.annotations.recognition import recognise_path
from segzoo.errors import SegZooError

CVAT = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n'
LABEL_STUDIO = [{"id": 1, "annotations": [{"id": 1, "completed_by": 1}], "data": {"image": "/data/a.jpg"}}]


def official_coco(root):
    save_picture(root / "train2017" / "a.jpg")
    objects = [coco_object(1, 1, 1, [square(1, 1, 4, 4)])]
    write_coco(root / "annotations" / "instances_train2017.json", [(1, "a.jpg", SIZE)], [(1, "road")], objects)


def cvat_coco(root):
    save_picture(root / "images" / "a.jpg")
    write_coco(root / "annotations" / "instances_default.json", [(1, "a.jpg", SIZE)], [(1, "road")], [])


def roboflow_yolo(root):
    write_yolo(root / "train", lines=["0 0 0 0.5 0 0.5 0.5"])


def ultralytics_yolo(root):
    write_yolo(root, lines=["0 0 0 0.5 0 0.5 0.5"])


def labelme_beside(root):
    save_picture(root / "a.jpg")
    write_labelme(root / "a.json", "a.jpg", [labelme_shape("road", [[0, 0], [3, 0], [3, 3]] * 90)])


def labelme_in_splits(root):
    save_picture(root / "images" / "train" / "a.jpg")
    write_labelme(root / "images" / "train" / "a.json", "a.jpg", [])


def cvat_xml(root):
    save_picture(root / "images" / "train" / "a.jpg")
    (root / "annotations.xml").write_text(CVAT)


def label_studio(root):
    save_picture(root / "a.jpg")
    (root / "project-1.json").write_text(json.dumps(LABEL_STUDIO))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (official_coco, "outlines in COCO's JSON (annotations/instances_train2017.json)"),
        (cvat_coco, "outlines in COCO's JSON"),
        (roboflow_yolo, "outlines in YOLO's text files (train/data.yaml)"),
        (ultralytics_yolo, "outlines in YOLO's text files"),
        (labelme_beside, "outlines of LabelMe (a.json)"),
        (labelme_in_splits, "outlines of LabelMe"),
        (cvat_xml, "annotations in CVAT's own XML (annotations.xml)"),
        (label_studio, "annotations in Label Studio's own JSON"),
    ],
)
def test_annotations_are_named_with_the_command(tmp_path, own_cache, capsys, write, words):
    write(tmp_path)
    command = f"segzoo data masks {tmp_path} TARGET"
    assert main(["data", "check", str(tmp_path), "--num_workers", "0"]) == 1
    captured = capsys.readouterr()
    told = " ".join((captured.out + captured.err).split())
    assert words in told and command in told, told
    with pytest.raises(SegZooError) as caught:
        load_segmentation_dataset(tmp_path)
    assert words in str(caught.value) and command in str(caught.value)


def test_other_files_are_no_annotations(tmp_path, make_folder):
    folder = make_folder({"train": ["a"]})
    (folder / "id2label.json").write_text('{"0": "images"}')
    (folder / "annotations" / "notes.json").write_text('{"objects": []}')
    (folder / "readme.txt").write_text("3 0.1 0.2 0.3 0.4\n")
    (folder / "config.yaml").write_text("names: [a, b]\n")
    (folder / "licence.xml").write_text("<annotations/>")
    assert recognise_path(folder) is None and recognise_path(folder / "gone") is None
    assert recognise_path(folder / "readme.txt") is None
    PIL.Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(folder / "images" / "train" / "b.png")
    with pytest.raises(SegZooError, match="picture.s. without mask: b.png"):
        load_segmentation_dataset(folder)


def rewritten(path, *, first=None, bom=False, **changes):
    """The same JSON file with another key at its beginning, or a byte order mark."""
    content = {**(first or {}), **json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content), encoding="utf-8-sig" if bom else "utf-8")


@pytest.mark.parametrize("options", [(), ("--format", "coco")])
@pytest.mark.parametrize(
    "changes", [{"bom": True}, {"first": {"type": "instances"}}, {"first": {"info2": "x" * 9000}}, {}]
)
def test_coco_in_whatever_order(tmp_path, options, changes):
    official_coco(tmp_path / "data")
    rewritten(tmp_path / "data" / "annotations" / "instances_train2017.json", **changes)
    assert make_masks(tmp_path / "data", tmp_path / "target", *options) == 0
    assert written(tmp_path / "target") == ["train/a"]


@pytest.mark.parametrize("options", [(), ("--format", "labelme")])
def test_labelme_in_the_order_of_the_alphabet(tmp_path, options):
    labelme_beside(tmp_path / "data")
    file = tmp_path / "data" / "a.json"
    file.write_text(json.dumps(json.loads(file.read_text()), sort_keys=True))
    assert make_masks(tmp_path / "data", tmp_path / "target", *options) == 0
    assert written(tmp_path / "target") == ["train/a"]


def test_no_json_is_left_out_in_silence(tmp_path, capsys):
    data, target = tmp_path / "data", tmp_path / "target"
    official_coco(data)
    save_picture(data / "val2017" / "b.jpg")
    objects = [coco_object(1, 1, 1, [square(1, 1, 4, 4)])]
    validation = data / "annotations" / "instances_val2017.json"
    write_coco(validation, [(1, "b.jpg", SIZE)], [(1, "road")], objects)
    rewritten(validation, first={"type": "instances"})
    (data / "notes.json").write_text('{"objects": []}')
    assert make_masks(data, target) == 0
    assert written(target) == ["train/a", "validation/b"]
    assert "note: 1 x JSON file of something else: notes.json" in capsys.readouterr().err
    validation.write_text(validation.read_text()[:-9])
    assert make_masks(data, target) == 1
    told = capsys.readouterr().err
    assert "file of annotations that cannot be read: annotations/instances_val2017.json: JSONDecodeError" in told

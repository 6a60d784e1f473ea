"""Pictures of one stem: each has its own annotations and its own mask under a name of its own."""

import numpy as np
import PIL.Image
from support.annotation_exports import (
    SIZE,
    coco_object,
    make_masks,
    save_picture,
    square,
    write_coco,
    write_yolo,
    written,
    yolo_line,
)

from segzoo.data import load_segmentation_dataset


def test_pictures_of_yolo_share_the_file_of_their_stem(tmp_path, capsys):
    export, target = tmp_path / "export", tmp_path / "target"
    write_yolo(export, lines=[yolo_line(0, square(1, 1, 5, 5))])
    save_picture(export / "images" / "train" / "a.png", seed=1)
    assert make_masks(export, target) == 0
    assert written(target) == written(target, "annotations") == ["train/a", "train/images_train_a"]
    for name in ("a", "images_train_a"):
        assert np.asarray(PIL.Image.open(target / f"annotations/train/{name}.png")).any()
    assert "without a picture" not in capsys.readouterr().err


def test_every_picture_of_coco_has_its_own_mask(tmp_path):
    """Whatever the names of the others: also those that a picture of another folder or extension would be given."""
    export, target = tmp_path / "export", tmp_path / "target"
    names = ["a.jpg", "a.png", "a.bmp", "train/a.tif", "train_a.jpg", "train/A.png", "a_png.jpg", "a.gif"]
    for number, name in enumerate(names):
        save_picture(export / name, seed=number)
    images = [(number, name, SIZE) for number, name in enumerate(names)]
    objects = [coco_object(n, n, 1, [[0, 0, 0, n + 1, n + 1, n + 1, n + 1, 0]]) for n, _ in enumerate(names)]
    write_coco(export / "train.json", images, [(1, "road")], objects)
    assert make_masks(export, target) == 0
    rows = load_segmentation_dataset(target)["train"]
    assert len(rows) == len(names)
    areas = sorted(int(np.asarray(row["label"]).sum()) for row in rows)
    assert len(set(areas)) == len(names)
    sources = {(export / name).read_bytes() for name in names}
    assert {path.read_bytes() for path in (target / "images").rglob("*.*")} == sources

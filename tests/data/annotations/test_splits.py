"""Which split an annotated picture goes to: its folder, a COCO file's name and YOLO's data.yaml decide, never its own name."""

import PIL.Image
import pytest
import yaml
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
    yolo_line,
)

LINE = yolo_line(0, square(1, 1, 5, 5))


def labelled(root, *names):
    """Pictures in images/ and their labels in labels/."""
    for name in names:
        save_picture(root / "images" / f"{name}.jpg")
        label = root / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{LINE}\n")


def describe(path, /, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"names": ["road", "roof"], **content}))


def test_names_of_pictures_say_nothing(export, target):
    for split, name in (("train", "val_street"), ("val", "train_station")):
        write_yolo(export, split, name, lines=[LINE])
    (export / "data.yaml").write_text("names: [road, roof]\n")
    assert make_masks(export, target) == 0
    assert written(target) == ["train/val_street", "validation/train_station"]


def test_names_of_pictures_of_labelme_say_nothing(export, target):
    for folder, name in (("", "crash_test"), ("val", "crash_test"), ("val", "a")):
        save_picture(export / folder / f"{name}.jpg")
        shapes = [labelme_shape("road", [[1, 1], [4, 1], [4, 4]])]
        write_labelme(export / folder / f"{name}.json", f"{name}.jpg", shapes)
    assert make_masks(export, target) == 0
    assert written(target) == ["train/crash_test", "validation/a", "validation/crash_test"]


@pytest.mark.parametrize(
    ("file", "splits"),
    [("instances_train", ["train", "train"]), ("instances_default", ["train", "validation"])],
)
def test_a_coco_file_says_which_split_it_is(export, target, file, splits):
    names = ("COCO_val2014_1.jpg", "val/a.jpg")
    for name in names:
        save_picture(export / "images" / name)
    images = [(number, name, SIZE) for number, name in enumerate(names)]
    objects = [coco_object(number, number, 1, [square(1, 1, 4, 4)]) for number, _ in enumerate(names)]
    write_coco(export / "annotations" / f"{file}.json", images, [(1, "road")], objects)
    assert make_masks(export, target) == 0
    assert written(target) == sorted(
        f"{split}/{name}" for split, name in zip(splits, ("COCO_val2014_1", "a"), strict=True)
    )


def test_data_yaml_lists_the_pictures(export, target, capsys):
    """Folders, several of them, and texts; what is not listed is no picture of the data."""
    labelled(export, "set1/a", "holdout/b", "more/c", "extra/d", "extra/e", "extra/g")
    save_picture(export / "masks" / "set1.png")
    save_picture(export / "labels.jpg")
    (export / "extra.txt").write_text("\ufeff./images/extra/d.jpg\n\n/data/images/extra/gone.jpg\n", encoding="utf-8")
    describe(export / "data.yaml", train=["images/set1", "images/more"], val="images/holdout", test="extra.txt")
    assert make_masks(export, target) == 1
    assert written(target) == ["test/extra/d", "train/more/c", "train/set1/a", "validation/holdout/b"]
    told = capsys.readouterr().err
    assert "2 x annotated picture that data.yaml does not list: images/extra/e.jpg, images/extra/g.jpg" in told
    assert (
        "1 x picture that the annotations name, but that is not there: extra.txt, /data/images/extra/gone.jpg" in told
    )


@pytest.mark.parametrize(
    ("root", "train", "val"),
    [
        (".", "../images/set1", "../images/holdout"),
        ("/content/ds", "images/set1", "images/holdout"),
        ("../datasets/ds/images", "set1", "holdout"),
        (None, "/content/ds/images/set1", "D:\\ds\\images\\holdout\\"),
        (None, "{export}/images/set1", "{export}/images/holdout"),
        (None, "images/set1", ["images/holdout", "images/set1"]),
    ],
)
def test_places_of_data_yaml_that_moved(export, target, root, train, val):
    labelled(export, "set1/a", "holdout/b")
    places = {"train": train.format(export=export), "val": val if isinstance(val, list) else val.format(export=export)}
    describe(export / "data.yaml", **places, **({} if root is None else {"path": root}))
    assert make_masks(export, target) == 0
    assert written(target) == ["train/set1/a", "validation/holdout/b"]


def test_places_of_data_yaml_that_are_not_here(export, target):
    """A split of none goes by the names of folders; a name alone, such as images, is no place."""
    labelled(export, "set1/a", "test/b")
    describe(export / "ds" / "data.yaml", train="images/set1", val=None, test="../test/images")
    assert make_masks(export, target) == 0
    assert written(target) == ["test/b", "train/set1/a"]


def test_two_files_data_yaml(export, target):
    labelled(export / "north", "set1/a", "holdout/b")
    labelled(export / "south", "set1/a")
    describe(export / "north" / "data.yaml", train="images/set1", val="images/holdout")
    describe(export / "south" / "data.yaml", train="images", val="images")
    assert make_masks(export, target) == 0
    assert written(target) == ["train/north/set1/a", "train/south/set1/a", "validation/north/holdout/b"]
    with PIL.Image.open(target / "annotations/train/south/set1/a.png") as mask:
        assert mask.getextrema() == (0, 1)

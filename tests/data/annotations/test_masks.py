"""Exports of annotation tools become masks, pixel by pixel; what cannot be drawn is counted and named."""

import json
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import PIL.Image
import pytest
from support.annotation_exports import (
    SIZE,
    block,
    coco_object,
    labelme_shape,
    save_picture,
    square,
    write_coco,
    write_labelme,
    write_yolo,
    yolo_line,
)

from segzoo.commands.cli import main
from segzoo.data import load_segmentation_dataset
from segzoo.data.annotations import masks as writer
from segzoo.data.loading import load_id2label

CATEGORIES = [(1, "road"), (3, "roof")]


def masks(*arguments):
    return main(["data", "masks", *map(str, arguments)])


def read(target, split="train", name="a"):
    return np.asarray(PIL.Image.open(target / "annotations" / split / f"{name}.png"))


def area(*rectangles, size=SIZE, fill=0):
    """An array (height, width), with rectangles (x, y, width, height, value) painted on it."""
    array = np.full(size[::-1], fill, dtype=np.uint8)
    for x, y, width, height, value in rectangles:
        array[y : y + height, x : x + width] = value
    return array


def runs(mask):
    """COCO's runs of a boolean mask: lengths of background and object in turn, column by column."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return {"counts": counts, "size": list(mask.shape)}


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_coco_of_cvat(export, target, capsys):
    """Objects of several parts and of runs; the later object is on top, and a crowd is below them all."""
    save_picture(export / "images" / "a.jpg")
    save_picture(export / "images" / "sub" / "b.jpg")
    crowd = area((0, 0, 12, 3, 1)).astype(bool)
    objects = [
        coco_object(1, 1, 1, [block(1, 1, 5, 4), block(8, 1, 3, 3)]),
        coco_object(2, 1, 3, [block(4, 3, 4, 4)]),
        coco_object(3, 1, 3, runs(crowd), iscrowd=1),
    ]
    images = [(1, "a.jpg", SIZE), (2, "sub/b.jpg", SIZE)]
    write_coco(export / "annotations" / "instances_default.json", images, CATEGORIES, objects)
    before = tree(export)
    assert masks(export, target) == 0
    expected = area((0, 0, 12, 3, 2), (1, 1, 5, 4, 1), (8, 1, 3, 3, 1), (4, 3, 4, 4, 2))
    np.testing.assert_array_equal(read(target), expected)
    assert not read(target, name="sub/b").any()
    assert load_id2label(target) == {0: "background", 1: "road", 2: "roof"}
    assert (target / "images/train/a.jpg").read_bytes() == (export / "images/a.jpg").read_bytes()
    captured = capsys.readouterr()
    assert "train 2; 3 classes" in captured.out and f"{(expected == 2).mean() / 2:.2%}" in captured.out
    assert "1 x picture without any object" in captured.err and "objects of two classes share pixels" in captured.err
    assert tree(export) == before
    rows = load_segmentation_dataset(target)["train"]
    assert len(rows) == 2


def test_every_fault_of_coco_is_counted_and_named(export, target, capsys):
    save_picture(export / "train" / "a.jpg")
    save_picture(export / "train" / "b.jpg", size=(5, 5))
    save_picture(export / "train" / "e.jpg").write_bytes(b"no picture")
    objects = [
        coco_object(11, 1, 1, [block(2, 2, 3, 3)]),
        coco_object(12, 1, 1, [[1, 1, 5, 5]]),
        coco_object(13, 1, 1, [block(40, 2, 3, 3)]),
        coco_object(14, 1, 7, [block(2, 2, 3, 3)]),
        coco_object(15, 1, 1, []),
        coco_object(16, 1, 3, {"counts": [3, 4], "size": [10, 12]}),
        coco_object(17, 1, 3, [block(9, 8, 9, 9)]),
        coco_object(18, 1, 3, [[1, 1, 5]]),
        coco_object(19, 99, 3, [block(1, 1, 3, 3)]),
    ]
    images = [(1, "a.jpg", SIZE), (2, "b.jpg", SIZE), (3, "gone.jpg", SIZE), (4, "a.jpg", SIZE), (5, "e.jpg", SIZE)]
    write_coco(export / "train" / "_annotations.coco.json", images, CATEGORIES, objects)
    assert masks(export, target, "--list", 9) == 1
    np.testing.assert_array_equal(read(target), area((2, 2, 3, 3, 1), (9, 8, 3, 2, 2)))
    assert sorted(os.listdir(target / "annotations/train")) == ["a.png"]
    told = capsys.readouterr().err
    for words, case in (
        ("fewer than 3 points", "object 12"),
        ("outside the picture altogether", "object 13"),
        ("class that is not in the list", "object 14: category_id 7"),
        ("without an outline", "object 15"),
        ("cannot be drawn", "object 16"),
        ("reaches beyond the picture", "object 17"),
        ("cannot be drawn", "object 18"),
        ("picture that the annotations name, but that is not there", "image_id 99 of 1 object(s)"),
        ("picture that the annotations name, but that is not there", "gone.jpg"),
        ("of another size than its annotations say", "b.jpg: 12x10, the picture 5x5"),
        ("annotated twice", "a.jpg"),
        ("picture that cannot be read", "1 x"),  # its name may stand where long messages are cut
    ):
        line = next(line for line in told.splitlines() if words in line)
        assert case in line, line
    assert "left out: 2 x outline that cannot be drawn" in told


def test_coco_of_several_splits_with_chosen_classes(export, target):
    """The official layout, Label Studio's ids from 0, and names that say nothing: ids are those of --classes."""
    for split, name in (("train2017", "a.jpg"), ("val2017", "a.jpg")):
        save_picture(export / split / name, seed=len(split))
    objects = [coco_object(1, 1, 0, [block(1, 1, 4, 4)]), coco_object(2, 1, 5, [block(6, 1, 4, 4)])]
    for split in ("train2017", "val2017"):
        images, categories = [(1, "../media/a.jpg", SIZE)], [(0, "car"), (5, "dog"), (6, "cat")]
        write_coco(export / "annotations" / f"instances_{split}.json", images, categories, objects)
    assert masks(export, target, "--classes", "dog", "car", "--unlabelled", "ignore") == 0
    expected = area((1, 1, 4, 4, 1), (6, 1, 4, 4, 0), fill=255)
    for split in ("train", "validation"):
        np.testing.assert_array_equal(read(target, split), expected)
        original = export / {"train": "train2017", "validation": "val2017"}[split] / "a.jpg"
        assert (target / "images" / split / "a.jpg").read_bytes() == original.read_bytes()
    assert load_id2label(target) == {0: "dog", 1: "car"}


def test_yolo(export, target, capsys):
    lines = [yolo_line(0, square(1, 1, 5, 5)), yolo_line(1, square(3, 3, 5, 5)), "0 0.5 0.5 0.1", "4 " + "0.5 " * 6]
    write_yolo(export, lines=[*lines, yolo_line(0, square(30, 1, 5, 5))])
    write_yolo(export, split="val", name="empty")
    (export / "labels" / "train" / "orphan.txt").write_text(lines[0])
    assert masks(export, target, "--background", "other") == 1
    np.testing.assert_array_equal(read(target), area((1, 1, 5, 5, 1), (3, 3, 5, 5, 2)))
    assert not read(target, "validation", "empty").any()
    assert load_id2label(target) == {0: "other", 1: "road", 2: "roof"}
    told = capsys.readouterr().err
    assert "line 3" in told and "id 4 of 2 classes" in told and "labels/train/orphan.txt" in told and "line 5" in told


def test_yolo_of_boxes_is_no_segmentation(export, target, capsys):
    write_yolo(export, lines=["0 0.5 0.5 0.2 0.2"])
    assert masks(export, target) == 1
    assert "1 x object without an outline (a box" in capsys.readouterr().err and not read(target).any()


def test_labelme(export, target, capsys):
    """Polygons and rectangles in order, several letters for one picture's path, and shapes that are no areas."""
    save_picture(export / "flight 1" / "a.jpg")
    shapes = [
        labelme_shape("roof", [[1.0, 1.0], [5.2, 1.0], [5.0, 4.0], [1.0, 4.1]]),
        labelme_shape("car", [[4.0, 3.0], [7.0, 6.0]], "rectangle"),
        labelme_shape("tree", [[4.0, 3.0]], "point"),
        labelme_shape("roof", [[4.0, 3.0], [2.0, 2.0]]),
        labelme_shape("__ignore__", [[9, 0], [11, 0], [11, 2], [9, 2]]),
    ]
    write_labelme(export / "flight 1" / "a.json", "..\\pictures\\a.jpg", shapes)
    assert masks(export, target, "--classes", "roof", "car") == 1
    expected = area((1, 1, 5, 4, 1), (4, 3, 4, 4, 2), (9, 0, 3, 3, 255))
    np.testing.assert_array_equal(read(target, name="flight 1/a"), expected)
    told = capsys.readouterr().err
    assert "shape 2 (tree): a point" in told and "shape 3 (roof)" in told
    assert load_id2label(target) == {0: "background", 1: "roof", 2: "car"}


@pytest.fixture
def coloured(export):
    """CVAT's 'Segmentation mask 1.1', whose colours have no order."""
    mask = area((1, 1, 4, 4, 1), (6, 6, 3, 3, 2))
    colours = np.array([(0, 0, 0), (250, 50, 83), (61, 245, 61)], dtype=np.uint8)
    for name in ("a", "b"):
        save_picture(export / "JPEGImages" / f"{name}.jpg")
        painted = colours[mask]
        if name == "b":
            painted[0, :3] = 7, 8, 9
        (export / "SegmentationClass").mkdir(exist_ok=True)
        PIL.Image.fromarray(painted).save(export / "SegmentationClass" / f"{name}.png")
    (export / "ImageSets" / "Segmentation").mkdir(parents=True)
    (export / "ImageSets" / "Segmentation" / "default.txt").write_text("a\nb\n")
    (export / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:250,50,83::\nroof:61,245,61::\n"
    )
    return export, mask


def test_colours_of_cvat(coloured, target, capsys):
    """Its own labelmap.txt names the colours; a colour that it does not name is counted and named with its file."""
    export, mask = coloured
    assert masks(export, target) == 1
    np.testing.assert_array_equal(read(target), mask)
    assert os.listdir(target / "annotations/train") == ["a.png"]
    told = capsys.readouterr().err
    assert "b.png" in told and "(7, 8, 9) x 3" in told
    assert load_id2label(target) == {0: "background", 1: "road", 2: "roof"}


def test_colours_with_a_palette_in_a_zip(coloured, target, tmp_path):
    """A user's folders, as they come out of an archive: what the palette does not name is ignored."""
    export, mask = coloured
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(export / "JPEGImages" / "a.jpg", "images/train/a.jpg")
        file.write(export / "SegmentationClass" / "a.png", "masks/train/a.png")
    palette = tmp_path / "colours.csv"
    palette.write_text("name,r,g,b\nroof,61,245,61\nroad,250,50,83\n")
    assert masks(archive, target, "--palette", palette, "--ignored", "road") == 0
    np.testing.assert_array_equal(read(target), np.where(mask == 2, 0, 255))
    assert load_id2label(target) == {0: "roof"}


def test_a_killed_run_goes_on(export, target, monkeypatch, capsys):
    """What is done is not done again, a torn line is forgotten, changed outlines are drawn anew, all counts stay."""
    for name in "abcd":
        save_picture(export / f"{name}.jpg")
        write_labelme(
            export / f"{name}.json", f"{name}.jpg", [labelme_shape("roof", [[1, 1], [4, 1], [4, 4], [1, 4]])]
        )
    write = writer.write_whole

    def stop_at_c(path, content):
        if path.name == "c.png":
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(writer, "write_whole", stop_at_c)
    assert masks(export, target) == 130
    monkeypatch.setattr(writer, "write_whole", write)
    with (target / writer.MANIFEST).open("a") as file:
        file.write('{"picture": "train/c", "fi')
    write_labelme(export / "b.json", "b.jpg", [labelme_shape("roof", [[0, 0], [9, 0], [9, 9], [0, 9]])])
    stamp = (target / "annotations/train/a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert masks(export, target) == 0
    assert (target / "annotations/train/a.png").stat().st_mtime_ns == stamp
    assert read(target, name="b").sum() == 100 and read(target, name="d").sum() == 16
    out = capsys.readouterr().out
    assert "train 4 (1 done before)" in out and f"{(100 + 3 * 16) / 480:.2%}" in out
    assert masks(export, target) == 0 and "train 4 (4 done before)" in capsys.readouterr().out
    assert masks(export, target, "--background", "rest") == 1
    assert "begun with other settings (names, background)" in capsys.readouterr().err


def test_a_run_that_is_killed_in_the_midst_goes_on(export, target, tmp_path):
    outline = [labelme_shape("roof", [[1, 1], [4, 1], [4, 4], [1, 4]])]
    for number in range(50):
        save_picture(export / f"{number:03}.jpg")
        write_labelme(export / f"{number:03}.json", f"{number:03}.jpg", outline)
    whole = tmp_path / "whole"
    assert masks(export, whole) == 0
    code = "import sys; from segzoo.commands.cli import main; sys.exit(main(['data', 'masks', *sys.argv[1:]]))"
    process = subprocess.Popen([sys.executable, "-c", code, export, target], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((target / "annotations" / "train").glob("*.png"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert len(list((target / "annotations" / "train").glob("*.png"))) < 50
    assert masks(export, target) == 0
    manifest = {json.loads(line).get("picture") for line in (target / writer.MANIFEST).read_text().splitlines()[1:]}
    assert len(manifest) == 50
    kept, expected = ({k: v for k, v in tree(f).items() if k != writer.MANIFEST} for f in (target, whole))
    assert {name for name in kept if not name.startswith(".")} == set(expected)
    assert all(kept[name] == content for name, content in expected.items())


def test_links_and_a_full_disk(export, target, monkeypatch, capsys):
    write_yolo(export, lines=[yolo_line(0, square(1, 1, 5, 5))])
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage)
    assert masks(export, target) == 1 and "0 MiB are free; make room" in capsys.readouterr().err
    monkeypatch.undo()
    assert masks(export, target, "--link") == 1 and "other settings (link)" in capsys.readouterr().err
    assert masks(export, target.with_name("other"), "--link") == 0
    assert (target.with_name("other") / "images/train/a.jpg").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{export}", "{export}/inside"), "lie in each other"),
        (("{export}/gone", "{target}"), "no such folder or zip archive"),
        (("{export}", "{target}"), "holds no annotations of COCO, YOLO or LabelMe"),
        (("{export}", "{target}", "--format", "coco"), "holds no COCO file"),
        (("{export}", "{target}", "--format", "labelme"), "holds no file of LabelMe"),
        (("{export}", "{target}", "--format", "yolo"), "no data.yaml and no classes.txt"),
        (("{export}", "{target}", "--format", "colours"), "need --palette FILE"),
    ],
)
def test_refusals(export, target, arguments, words, capsys):
    save_picture(export / "a.jpg")
    if "inside" in arguments[1]:
        write_yolo(export, lines=["0 0 0 0.5 0 0.5 0.5"])
    assert masks(*(text.format(export=export, target=target) for text in arguments)) == 1
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and not target.exists()


def test_classes_that_are_not_there(export, target, capsys):
    write_yolo(export, lines=["0 0 0 0.5 0 0.5 0.5"])
    assert masks(export, target, "--classes", "Road") == 1
    assert (
        "none of the classes background, Road is in the annotations, which have road, roof" in capsys.readouterr().err
    )
    assert masks(export, target, "--ignored", "dog") == 1 and "no such class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("library", "form"), [("supervision", "yolo"), ("supervision", "coco"), ("pycocotools", "coco")]
)
def test_a_library_is_missing(export, target, capsys, monkeypatch, library, form):
    monkeypatch.setitem(sys.modules, library, None)
    assert masks(export, target, "--format", form) == 1
    told = capsys.readouterr().err
    assert f"the {library} library" in told and 'pip install "segzoo[formats]"' in told and told.count("\n") == 1


def test_formats_that_are_exported_once_more(export, target, capsys):
    (export / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n  </meta>\n</annotations>'
    )
    assert masks(export, target) == 1 and "export the task from CVAT as 'COCO 1.0'" in capsys.readouterr().err
    (export / "annotations.xml").unlink()
    task = {"id": 1, "annotations": [{"id": 1, "completed_by": 1, "result": []}], "data": {"image": "/data/a.jpg"}}
    (export / "project.json").write_text(json.dumps([task]))
    assert masks(export, target) == 1 and "from Label Studio as COCO" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["{road: 0, roof: 1}", "{0: road, 2: roof}", "{0: road, null: roof}", "2", "null"])
def test_names_of_yolo_that_are_none(export, target, capsys, names):
    write_yolo(export, lines=["0 0 0 0.5 0 0.5 0.5"])
    (export / "data.yaml").write_text(f"names: {names}\n")
    assert masks(export, target) == 1
    told = capsys.readouterr().err
    assert "names should be a list, or an object of the ids 0 to n - 1" in told and told.count("\n") == 1


@pytest.mark.parametrize("annotations", [None, {}, [1]])
def test_objects_of_coco_that_are_none(export, target, capsys, annotations):
    for split in ("train", "val"):
        save_picture(export / split / f"{split}.jpg")
        objects = [coco_object(1, 1, 1, [block(1, 1, 4, 4)])] if split == "train" else annotations
        write_coco(export / f"{split}.json", [(1, f"{split}.jpg", SIZE)], CATEGORIES, objects)
    assert masks(export, target) == 1
    assert "val.json: TypeError: images and annotations should be lists" in capsys.readouterr().err
    assert os.listdir(target / "annotations") == ["train"]

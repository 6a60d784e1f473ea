"""Every fault that a data set can have is found and named, and a clean data set raises no alarm."""

import json
import warnings
import zipfile
from dataclasses import replace

import datasets
import numpy as np
import PIL.Image
import pytest
import tifffile

from segzoo.data.augmentation import Augmentation
from segzoo.data.checks.findings import ERROR, KINDS, NOTE, SEVERITIES, WARNING
from segzoo.data.checks.first_batch import check_first_batch, check_rows
from segzoo.data.checks.inspection import inspect_dataset, spread
from segzoo.data.checks.inspection_text import report_text
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.checks.probing import probe_pair
from segzoo.data.classes import ClassFacts
from segzoo.data.dataset import SegmentationDataset
from segzoo.data.label_encodings import CAMVID_COLORS
from segzoo.data.loading import DataSource, load_segmentation_dataset
from segzoo.data.rows import undecoded
from segzoo.data.transforms import build_train_transform
from segzoo.errors import SegZooError
from segzoo.files import json_text
from segzoo.images.reading import read_bytes
from segzoo.images.values import EIGHT_BITS, FLOATS, SIXTEEN_BITS

NAMES = ("sky", "road", "car", "tree", "person")
PALETTE = ((1, 2, 3), (40, 50, 60), (200, 0, 0), (0, 200, 0), (0, 0, 200))
FIVE = ClassFacts(dict(enumerate(NAMES)), [list(color) for color in PALETTE])
TWO = ClassFacts({0: "no", 1: "yes"}, [])
HEIGHT, WIDTH = 24, 32


@pytest.fixture
def folder(make_folder):
    """Four pairs of noise that nothing is wrong with; every class is in every mask."""
    return make_folder({"train": ["a", "b", "c"], "val": ["v"]})


@pytest.fixture
def inspect(folder):
    def run(**options):
        return inspect_dataset(folder, **{"classes": FIVE, **options})

    return run


def image_file(folder, stem, split="train"):
    return folder / "images" / split / f"{stem}.jpg"


def label_file(folder, stem, split="train"):
    return folder / "annotations" / split / f"{stem}.png"


def write_label(folder, stem, array, split="train", mode=None):
    image = PIL.Image.fromarray(np.asarray(array))
    (image if mode is None else image.convert(mode)).save(label_file(folder, stem, split))


def read_label(folder, stem, split="train"):
    return np.array(PIL.Image.open(label_file(folder, stem, split)))


def rotate(path, orientation, size=None):
    """Gives a picture file an EXIF orientation, and another stored (width, height)."""
    image = PIL.Image.open(path)
    image = image.resize(size) if size else image.copy()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def found(report):
    return {finding.kind: finding for finding in report.findings}


def only_case(report, kind, *paths):
    """The one case of the one finding, which is about these files."""
    assert [finding.kind for finding in report.findings] == [kind], report_text(report)
    (finding,) = report.findings
    assert finding.count == 1 and finding.severity == KINDS[kind].severity
    (case,) = finding.cases
    assert [str(name) for name in case.files] == [str(path) for path in paths]
    assert report.clean == (finding.severity == NOTE)
    return case


# Nothing wrong


def test_a_clean_folder_has_no_finding(inspect):
    report = inspect(crop_size=(HEIGHT, WIDTH))
    assert report.findings == [] and report.clean
    assert report.pairs == report.checked == {"train": 3, "validation": 1}
    assert report_text(report).endswith("all 4 pairs checked: nothing is wrong")


def test_synthetic_scenes_are_clean(tmp_path):
    from segzoo.data import DATASETS, write_scenes

    root = write_scenes(tmp_path / "scenes", num_train=24, num_validation=16, size=(48, 64))
    report = inspect_dataset(root, classes=ClassFacts(DATASETS["scenes"].id2label, []))
    assert report.clean, report_text(report)


def test_frequencies_and_weights_are_exact(folder, inspect):
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    ids[:, :8] = 1
    ids[0] = 255
    write_label(folder, "a", ids)
    ids = np.full((HEIGHT, WIDTH), 2, dtype=np.uint8)
    ids[:6] = 0
    write_label(folder, "b", ids)
    write_label(folder, "c", np.full((HEIGHT, WIDTH), 2, dtype=np.uint8))
    report = inspect(splits=["train"])
    counts = report.counts["train"]
    assert counts.pixels.tolist() == [23 * 24 + 6 * 32, 23 * 8, 18 * 32 + 24 * 32, 0, 0]
    assert counts.images.tolist() == [2, 1, 2, 0, 0]
    assert (counts.ignored, counts.ignored_images, counts.num_images) == (32, 1, 3)
    assert counts.pixels_beside.tolist() == [23 * 32 + 24 * 32, 23 * 32, 48 * 32, 0, 0]
    assert counts.share.sum() == pytest.approx(1)
    frequency = np.array([744 / 1504, 184 / 736, 1344 / 1536])
    weights = report.class_weights()
    assert weights[:3] == pytest.approx(np.median(frequency) / frequency) and np.isnan(weights[3:]).all()
    only_case(report, "class_absent")
    assert "--class_weights 1 1.98 0.565 1 1" in report_text(report)


def test_report_as_json(folder, inspect):
    label_file(folder, "a").unlink()
    report = inspect(crop_size=(30, 32))
    values = json.loads(json_text(report.to_dict()))
    assert set(values) == {
        "format", "source", "clean", "num_errors", "num_warnings", "num_notes", "settings", "splits", "findings",
        "classes", "class_weights", "values",
    }  # fmt: skip
    assert (values["clean"], values["num_errors"], values["num_warnings"], values["num_notes"]) == (False, 1, 3, 0)
    assert values["settings"] == {
        "num_labels": 5, "classes": "", "ignore_index": 255, "do_reduce_labels": False, "crop_size": [30, 32],
        "num_channels": None,
    }  # fmt: skip
    assert values["splits"]["train"] == {"pairs": 2, "checked": 2, "counted": 2, "ignored_pixels": 0}
    first, second = values["findings"]
    assert first["kind"] == "image_without_mask" and first["severity"] == "error" and first["count"] == 1
    (case,) = first["cases"]
    assert case.pop("fix") == first["fix"] == KINDS["image_without_mask"].fix
    assert case == {"split": "train", "files": [str(image_file(folder, "a"))], "text": "", "details": {}}
    assert second["kind"] == "smaller_than_crop" and second["count"] == 3 and second["cases_left_out"] == 0
    assert second["cases"][0]["details"] == {"height": 24, "width": 32, "crop_height": 30, "crop_width": 32}
    assert [entry["name"] for entry in values["classes"]] == list(NAMES)
    entry = values["classes"][2]
    expected = sum(int((read_label(folder, stem) == 2).sum()) for stem in "bc")
    assert entry["splits"]["train"]["pixels"] == expected and entry["splits"]["train"]["images"] == 2
    assert entry["weight"] == pytest.approx(float(report.class_weights()[2]))
    assert values["class_weights"] == {"method": "median-frequency balancing", "split": "train"}


# Files that do not pair up


def test_image_without_mask(folder, inspect):
    label_file(folder, "b").unlink()
    only_case(inspect(), "image_without_mask", image_file(folder, "b"))


def test_mask_without_image(folder, inspect):
    image_file(folder, "b").unlink()
    only_case(inspect(), "mask_without_image", label_file(folder, "b"))


def test_duplicate_stem(folder, inspect):
    PIL.Image.open(image_file(folder, "a")).save(folder / "images/train/a.png")
    case = only_case(inspect(), "duplicate_stem", image_file(folder, "a"), folder / "images/train/a.png")
    assert case.split == "train"


def test_all_unpaired_files_are_listed(make_folder):
    root = make_folder({"train": [f"n{i}" for i in range(12)]})
    for i in range(10):
        label_file(root, f"n{i}").unlink()
    report = inspect_dataset(root, classes=FIVE)
    (finding,) = report.findings
    assert (finding.kind, finding.count, len(finding.cases)) == ("image_without_mask", 10, 10)
    assert "... and 5 more" in report_text(report) and "n9.jpg" in report_text(report, most_cases=10)
    few = inspect_dataset(root, classes=FIVE, keep_cases=3).to_dict()["findings"][0]
    assert (few["count"], len(few["cases"]), few["cases_left_out"]) == (10, 3, 7)


def test_empty_split(folder, inspect):
    image_file(folder, "v", "val").unlink()
    label_file(folder, "v", "val").unlink()
    report = inspect()
    assert [finding.kind for finding in report.findings] == ["empty_split"] and not report.clean
    assert report.findings[0].cases[0].split == "validation"


def test_split_without_masks(folder, inspect):
    label_file(folder, "v", "val").unlink()
    label_file(folder, "v", "val").parent.rmdir()
    case = only_case(inspect(), "split_without_masks", folder / "images/val")
    assert case.split == "validation"


def test_nothing_pairs_up(make_folder):
    root = make_folder({"train": ["a", "b"]})
    for stem in "ab":
        label_file(root, stem).rename(root / "annotations/train" / f"{stem}_mask.png")
    report = inspect_dataset(root, classes=FIVE)
    assert {f.kind: f.count for f in report.findings} == {
        "image_without_mask": 2,
        "mask_without_image": 2,
        "empty_split": 1,
    }
    assert report.counts == {} and report.class_weights() is None
    json.loads(json_text(report.to_dict()))
    assert "0 pairs" in report_text(report)
    assert inspect_dataset(DataSource(root, label_suffix="_mask"), classes=FIVE).clean


# Files that cannot be used


@pytest.mark.parametrize("content", ["truncated", "text", "empty"])
@pytest.mark.parametrize("which", ["image", "mask"])
def test_corrupt_file(folder, inspect, which, content):
    path = image_file(folder, "b") if which == "image" else label_file(folder, "b")
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"<html>not found</html>", "empty": b""}[content])
    report = inspect()
    case = only_case(report, f"unreadable_{which}", path)
    assert "cannot be read (" in case.text and str(path) not in case.text
    assert report.checked["train"] == 3 and report.counts["train"].num_images == 2, "the check goes on"


def test_sizes_differ(folder, inspect):
    write_label(folder, "b", read_label(folder, "b").repeat(2, axis=0))
    case = only_case(inspect(), "sizes_differ", image_file(folder, "b"), label_file(folder, "b"))
    assert "32x24" in case.text and "32x48" in case.text
    assert case.details == {"image_height": 24, "image_width": 32, "mask_height": 48, "mask_width": 32}


def test_mask_of_colours(folder, inspect):
    ids = read_label(folder, "b")
    write_label(folder, "b", np.array(PALETTE, dtype=np.uint8)[ids])
    case = only_case(inspect(), "color_mask", label_file(folder, "b"))
    assert case.text.startswith("RGB with 5 colours") and "the classes' own colours" in case.text
    assert case.details["num_colors"] == 5
    assert sorted(case.details["colors"]) == sorted([*PALETTE[i], int((ids == i).sum())] for i in range(5))
    assert "colors_to_ids" in KINDS["color_mask"].fix
    assert (
        "own colours"
        not in found(inspect(classes=replace(FIVE, palette=FIVE.palette[:4])))["color_mask"].cases[0].text
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_mask_of_equal_channels(folder, inspect, mode):
    path = label_file(folder, "b")
    mask = PIL.Image.open(path).convert(mode)
    mask.save(path)
    report = inspect()
    assert only_case(report, "equal_channels", path).text == mode
    assert report.clean and report.counts["train"].num_images == 3
    if mode != "RGB":
        mask.putpixel((0, 0), (*mask.getpixel((0, 0))[:-1], 7))
        mask.save(path)
        assert "alpha channel that varies" in only_case(inspect(), "unusable_mask", path).text


@pytest.mark.parametrize("value", [1.5, np.nan])
def test_float_mask(folder, inspect, value):
    """Whole numbers are ids, whatever their type; others are named as what they are."""
    path = label_file(folder, "b")
    ids = read_label(folder, "b").astype(np.float32)
    PIL.Image.fromarray(ids).save(path, format="TIFF")
    report = inspect()
    assert "F" in only_case(report, "wide_mask", path).text and report.counts["train"].num_images == 3
    ids[3, 4] = value
    PIL.Image.fromarray(ids).save(path, format="TIFF")
    case = only_case(inspect(), "unusable_mask", path)
    assert f"1 of these floats are not (the first is {value:g})" in case.text and "ignore index" in case.fix


def test_picture_without_a_rule(folder, inspect):
    path = folder / "images/train/b.tif"
    image_file(folder, "b").unlink()
    PIL.Image.fromarray(np.full((HEIGHT, WIDTH), 300, np.float32)).save(path)
    report = inspect()
    kinds = found(report)
    assert set(kinds) == {"unusable_image"} and report.count(ERROR) == 1
    (case,) = kinds["unusable_image"].cases
    assert case.files == (str(path),) and "float values from 300 to 300" in case.text and "divide them" in case.fix


def test_mask_that_is_a_photograph(folder, inspect, rng):
    write_label(folder, "b", rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    assert "colours" in only_case(inspect(), "color_mask", label_file(folder, "b")).text


def test_jpeg_mask(folder, inspect):
    path = folder / "annotations/train/b.jpg"
    PIL.Image.fromarray(read_label(folder, "b")).save(path)
    label_file(folder, "b").unlink()
    only_case(inspect(), "lossy_mask", path)


def test_jpeg_mask_with_another_name(folder, inspect):
    PIL.Image.fromarray(read_label(folder, "b")).save(label_file(folder, "b"), format="JPEG")
    only_case(inspect(), "lossy_mask", label_file(folder, "b"))


# Labels


def test_ids_out_of_range(folder, inspect):
    ids = read_label(folder, "b")
    ids[0, :7], ids[1, 0] = 77, 9
    write_label(folder, "b", ids)
    report = inspect()
    case = only_case(report, "ids_out_of_range", label_file(folder, "b"))
    assert case.text == "9 (1 pixel), 77 (7 pixels)" and case.details == {"ids": {"9": 1, "77": 7}}
    assert report.findings[0].title == "label ids outside 0..4 (ignored: 255)"
    assert "at least 78 classes" in report.findings[0].fix
    assert report.counts["train"].pixels.sum() == 3 * HEIGHT * WIDTH - 8, "the other pixels are counted"


def test_ids_that_are_off_by_one(folder, inspect):
    for split, stems in (("train", "abc"), ("val", "v")):
        for stem in stems:
            ids = read_label(folder, stem, split) + 1
            ids[0, 0] = 0
            write_label(folder, stem, ids, split)
    report = inspect()
    assert [(f.kind, f.count) for f in report.findings] == [("ids_out_of_range", 4)]
    assert "--do_reduce_labels" in report.findings[0].fix
    report = inspect(rule=LabelRule(reduce_labels=True))
    assert report.clean and report.counts["train"].ignored == 3
    write_label(folder, "a", np.full((HEIGHT, WIDTH), 6, dtype=np.uint8))
    (finding,) = inspect(rule=LabelRule(reduce_labels=True)).findings
    assert finding.title == "label ids outside 1..5 (ignored: 0 and 255)" and "6 (768 pixels)" in finding.cases[0].text


def test_ids_that_begin_at_one(folder, inspect):
    for split, stems in (("train", "abc"), ("val", "v")):
        for stem in stems:
            write_label(folder, stem, np.maximum(read_label(folder, stem, split), 1), split)
    report = inspect()
    assert set(found(report)) == {"labels_start_at_one", "class_absent", "class_absent_here"}
    assert "--do_reduce_labels" in found(report)["labels_start_at_one"].fix


def test_label_rule_that_takes_a_class_away(inspect):
    report = inspect(rule=LabelRule(reduce_labels=True))
    assert {"labels_start_at_zero", "class_absent"} <= set(found(report))
    assert "'person'" in found(report)["labels_start_at_zero"].cases[0].text


def test_black_and_white_masks(folder, rng):
    for split, stems in (("train", "abc"), ("val", "v")):
        for stem in stems:
            write_label(folder, stem, 255 * rng.integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8), split)
    report = inspect_dataset(folder, classes=TWO)
    assert set(found(report)) == {"black_and_white", "class_absent", "class_absent_here"}
    assert "divide by 255" in found(report)["black_and_white"].fix and not report.clean
    report = inspect_dataset(folder, rule=LabelRule(ignore_index=254), classes=TWO)
    assert report.findings[0].kind == "ids_out_of_range" and "divide by 255" in report.findings[0].fix


def test_masks_made_for_looking_at(folder, inspect):
    for split, stems in (("train", "abc"), ("val", "v")):
        for stem in stems:
            write_label(folder, stem, 50 * read_label(folder, stem, split), split)
    assert "divide the masks by 50" in found(inspect())["ids_out_of_range"].fix


def test_only_ignored_pixels(folder, inspect):
    write_label(folder, "b", np.full((HEIGHT, WIDTH), 255, dtype=np.uint8))
    case = only_case(inspect(), "only_ignored", label_file(folder, "b"))
    assert "255 (768 pixels)" in case.text


def test_classes_that_never_appear(folder, inspect):
    for stem in "abc":
        write_label(folder, stem, np.minimum(read_label(folder, stem), 2))
    report = inspect()
    (finding,) = report.findings
    assert finding.kind == "class_absent" and finding.severity == WARNING
    assert finding.cases[0].text == "train: 2 of 5 classes: tree, person" and finding.cases[0].details == {
        "classes": [3, 4]
    }
    assert found(inspect(max_samples=1))["class_absent_here"].severity == NOTE, "a sample proves nothing"


def test_unknown_classes(folder):
    report = inspect_dataset(folder)
    case = only_case(report, "classes_unknown")
    assert case.text == "the masks hold the ids 0-4" and list(report.names) == [f"class {i}" for i in range(5)]
    assert report.counts["train"].pixels.sum() == 3 * HEIGHT * WIDTH


# Pictures


def test_same_picture_in_two_splits(folder, inspect):
    image_file(folder, "v", "val").write_bytes(image_file(folder, "b").read_bytes())
    case = only_case(inspect(), "leakage", image_file(folder, "b"), image_file(folder, "v", "val"))
    assert case.text == "train and validation"


def test_same_picture_twice(folder, inspect):
    image_file(folder, "c").write_bytes(image_file(folder, "b").read_bytes())
    only_case(inspect(), "duplicate_picture", image_file(folder, "b"), image_file(folder, "c"))


def test_equal_broken_files_are_no_twins(folder, inspect):
    for path in (image_file(folder, "b"), image_file(folder, "v", "val")):
        path.write_bytes(b"")
    assert set(found(inspect())) == {"unreadable_image"}


def test_smaller_than_the_crop(folder, inspect):
    report = inspect(crop_size=(25, 10))
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.count) == ("smaller_than_crop", WARNING, 4)
    assert "32x24" in finding.cases[0].text and "10x25" in finding.cases[0].text


@pytest.mark.parametrize(
    "orientation, size, kind, words",
    [
        (6, (WIDTH, HEIGHT), "exif_rotation", "turned with the picture"),
        (8, (HEIGHT, WIDTH), "exif_rotation", "upright already"),
        (3, (WIDTH, HEIGHT), "exif_ambiguous", "fits either way"),
    ],
)
def test_rotated_picture(folder, inspect, orientation, size, kind, words):
    """`size`: of the picture as it is stored; the mask is 32x24."""
    rotate(image_file(folder, "b"), orientation, size)
    case = only_case(inspect(), kind, image_file(folder, "b"), label_file(folder, "b"))
    assert words in case.text
    assert case.details == {"image_orientation": orientation, "mask_orientation": 1}


def test_rotated_mask(folder, inspect):
    rotate(label_file(folder, "b"), 3)
    case = only_case(inspect(), "exif_differs", image_file(folder, "b"), label_file(folder, "b"))
    assert "the picture none" in case.text
    rotate(image_file(folder, "b"), 3)
    assert (
        "both are turned"
        in only_case(inspect(), "exif_rotation", image_file(folder, "b"), label_file(folder, "b")).text
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_pictures_that_are_converted(folder, inspect, mode):
    image_file(folder, "b").unlink()
    noise = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(noise)
    image = PIL.Image.fromarray(noise[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    path = folder / "images/train" / ("b.tif" if mode == "CMYK" else "b.png")
    image.save(path)
    case = only_case(inspect(), "picture_mode", path)
    rule = SIXTEEN_BITS if mode == "I;16" else EIGHT_BITS
    assert case.text.startswith(mode) and rule.words in case.text
    assert case.details == {"mode": mode, "rule": rule.name}


@pytest.mark.parametrize("bands", [3, 5])
def test_tiff_pictures_that_take_a_library(folder, inspect, bands):
    image_file(folder, "b").unlink()
    path = folder / "images/train/b.tif"
    tifffile.imwrite(
        path, np.zeros((HEIGHT, WIDTH, bands), np.float32), photometric="minisblack", planarconfig="contig"
    )
    text = only_case(inspect(), "picture_mode", path).text
    assert text.startswith(f"{bands} x float32") and FLOATS.words in text
    assert ("num_channels=5" in text) is (bands == 5)


def test_the_value_rules_of_all_pictures(folder, inspect):
    assert f"values   {EIGHT_BITS.words}\n" in report_text(inspect())
    image_file(folder, "b").unlink()
    PIL.Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(folder / "images/train/b.png")
    report = inspect()
    count = sum(report.checked.values())
    assert report.value_rules == {EIGHT_BITS: count - 1, SIXTEEN_BITS: 1}
    assert f"values   {count - 1} pictures: {EIGHT_BITS.words}; 1 picture: {SIXTEEN_BITS.words}\n" in report_text(
        report
    )
    assert report.to_dict()["values"][1] == {"type": "16 bits", "rule": SIXTEEN_BITS.words, "pictures": 1}


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_pictures_held_against_a_model(folder, inspect, channels, mode):
    """What the model takes as it is, is no news; what is converted is a note, and what cannot be is an error."""
    image_file(folder, "b").unlink()
    PIL.Image.new(mode, (WIDTH, HEIGHT)).save(folder / "images/train/b.png")
    report = inspect(num_channels=channels)
    assert f"channels {channels}, as the model has\n" in report_text(report)
    (finding,) = report.findings
    others = sum(report.checked.values()) - 1
    assert finding.count == others and all("b.png" not in case.files[0] for case in finding.cases)
    if channels == 1:
        assert (finding.kind, finding.title) == (
            "picture_mode", "picture that is not of 8 bits and 1 channel: it is converted",
        )  # fmt: skip
    else:
        assert finding.kind == "unusable_image" and finding.cases[0].text.startswith("has 3 channels, the model")


@pytest.mark.parametrize("kind", ["palette_mask", "wide_mask"])
def test_masks_whose_ids_are_taken(folder, inspect, kind):
    ids = read_label(folder, "b")
    if kind == "palette_mask":
        image = PIL.Image.fromarray(ids)
        image.putpalette([value for color in PALETTE for value in color])
        image.save(label_file(folder, "b"))
    else:
        write_label(folder, "b", ids.astype(np.uint16))
    report = inspect()
    only_case(report, kind, label_file(folder, "b"))
    assert report.counts["train"].num_images == 3
    if kind == "wide_mask":
        write_label(folder, "b", ids.astype(np.uint16) + 300)
        case = found(inspect())["ids_out_of_range"].cases[0]
        assert case.details["ids"]["304"] == int((ids == 4).sum())


# All at once, and other sources


def test_many_faults_at_once(folder, inspect):
    image_file(folder, "a").write_bytes(b"no picture")
    write_label(folder, "a", np.full((HEIGHT, WIDTH), 200, dtype=np.uint8))
    label_file(folder, "b").unlink()
    report = inspect(crop_size=(64, 64))
    kinds = [finding.kind for finding in report.findings]
    assert kinds == ["image_without_mask", "unreadable_image", "ids_out_of_range", "smaller_than_crop"]
    order = [SEVERITIES.index(finding.severity) for finding in report.findings]
    assert order == sorted(order) and report.count(ERROR) == 3
    text = report_text(report)
    assert text.splitlines()[-1] == "all 3 pairs checked: 3 errors, 2 warnings"
    assert "annotations/train/a.png: 200 (768 pixels)" in text and str(folder / "annotations") not in text


def test_processes_make_no_difference(make_folder):
    root = make_folder({"train": [f"n{i:02d}" for i in range(70)]}, size=(6, 8))
    image_file(root, "n10").write_bytes(b"broken")
    write_label(root, "n50", np.full((6, 8), 9, dtype=np.uint8))
    seen = []

    def progress(count):
        seen.append(count)
        return lambda: seen.append(1)

    reports = [inspect_dataset(root, classes=FIVE, num_workers=n, progress=progress).to_dict() for n in (0, 2)]
    assert reports[0] == reports[1] and seen == [70, *[1] * 70] * 2
    assert [f["kind"] for f in reports[0]["findings"]] == ["unreadable_image", "ids_out_of_range"]


def test_splits_and_samples(folder, inspect):
    assert inspect(splits=["val"]).pairs == {"validation": 1}
    with pytest.raises(SegZooError, match="no split 'test'; it has train, validation"):
        inspect(splits=["test"])
    report = inspect(max_samples=2)
    assert report.checked == {"train": 2, "validation": 1} and "3 of 4 pairs checked" in report_text(report)
    assert spread(10, 3) == [0, 4, 9] and spread(3, 9) == [0, 1, 2] and spread(5, 1) == [0]
    with pytest.raises(SegZooError, match="no folder"):
        inspect_dataset(folder / "nowhere")


def test_table_with_its_files_inside(folder, tmp_path):
    """Parquet and Hub tables hold the bytes; rows stand for files."""
    rows = load_segmentation_dataset(folder)["train"].select_columns(["image", "label"])
    cast = rows.cast_column("image", datasets.Image(decode=False)).cast_column("label", datasets.Image(decode=False))
    values = [
        {column: {"path": None, "bytes": read_bytes(row[column])} for column in ("image", "label")} for row in cast
    ]
    values[1]["image"]["bytes"] = values[1]["image"]["bytes"][:200]
    table = datasets.Dataset.from_list(values, features=rows.features)
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "saved")
    report = inspect_dataset(tmp_path / "saved", classes=FIVE)
    case = only_case(report, "unreadable_image", "image of row 1")
    assert case.split == "train" and report.counts["train"].num_images == 2


def test_zip_archive(folder, tmp_path):
    (label_file(folder, "b")).unlink()
    image_file(folder, "c").write_bytes(b"broken")
    archive = tmp_path / "elsewhere" / "data.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*.*")):
            if archive.parent not in path.parents:
                packed.write(path, path.relative_to(folder))
    report = inspect_dataset(archive, classes=FIVE)
    assert [(f.kind, f.count) for f in report.findings] == [("image_without_mask", 1), ("unreadable_image", 1)]
    assert (
        "\n  images/train/c.jpg: the image cannot be read (it is no picture, but seems to be text)\n"
        in report_text(report)
    )


def test_masks_that_are_written_otherwise():
    """Where the source says how, colours are ids; where a colour is none of them, it is told."""
    image = PIL.Image.new("RGB", (4, 3))
    colors = np.zeros((3, 4, 3), dtype=np.uint8)
    colors[0] = (128, 0, 0)

    def probe():
        label = PIL.Image.fromarray(colors)
        names = {"image_name": "a.jpg", "label_name": "a.png"}
        return probe_pair(image, label, LabelRule(11), encoding=CAMVID_COLORS.name, **names)

    facts = probe()
    assert facts.cases == [] and facts.ids == {1: 4, 255: 8} and facts.usable
    colors[2, 3] = (1, 2, 3)
    (case,) = probe().cases
    assert case.kind == "color_mask" and "(1, 2, 3) x 1" in case.text


# Before the first step


def test_the_first_batch_notes_equal_channels(folder, first_batch):
    write_label(folder, "b", np.stack([read_label(folder, "b")] * 3, axis=-1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (line,) = first_batch()
    assert line.startswith("note: 1 of the 3 pairs of the first batch: ") and "several equal channels" in line


@pytest.fixture
def first_batch(folder):
    def run(crop_size=(16, 16), num_labels=5, indices=(0, 1, 2), transform=None, **options):
        rows = load_segmentation_dataset(folder, strict=False)["train"]
        data = SegmentationDataset(
            rows, transform or build_train_transform(Augmentation(crop_size=crop_size)), num_labels=num_labels
        )
        return check_first_batch(data, list(indices), num_labels=num_labels, crop_size=crop_size, **options)

    return run


def test_first_batch_without_faults(first_batch):
    assert first_batch() == []


def test_first_rows_of_a_stream(folder):
    stream = load_segmentation_dataset(folder, streaming=True)["train"]
    assert check_rows(enumerate(undecoded(stream).take(2)), num_labels=5, crop_size=(16, 16)) == []
    with pytest.raises(
        SegZooError, match=r"a\.png: label ids outside 0\.\.2 \(ignored: 255\): 3 \(.*1 more of the 2 pairs"
    ):
        check_rows(enumerate(undecoded(stream).take(2)), num_labels=3)


def test_first_batch_with_bad_ids(folder, first_batch):
    for stem in "bc":
        ids = read_label(folder, stem)
        ids[-1, -3:] = 9
        write_label(folder, stem, ids)
    with pytest.raises(SegZooError) as error:
        first_batch()
    text = str(error.value)
    assert "\n" not in text and text.startswith(
        f"{label_file(folder, 'b')}: label ids outside 0..4 (ignored: 255): 9 (3 pixels)"
    )
    assert "at least 10 classes" in text and "1 more of the 3 pairs" in text and "segzoo data check" in text


@pytest.mark.parametrize(
    "fault, words",
    [
        (lambda f: write_label(f, "b", np.zeros((5, 6), np.uint8)), ["b.jpg and ", "b.png", "32x24", "6x5"]),
        (
            lambda f: write_label(f, "b", np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8)),
            ["b.png", "RGB", "colors_to_ids"],
        ),
        (lambda f: image_file(f, "b").write_bytes(b"nothing"), ["b.jpg: corrupt picture", "cannot be read"]),
    ],
)
def test_first_batch_that_cannot_be_used(folder, first_batch, fault, words):
    fault(folder)
    with pytest.raises(SegZooError) as error:
        first_batch()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_first_batch_may_hold_some_corrupt_files(folder, first_batch):
    image_file(folder, "b").write_bytes(b"nothing")
    assert first_batch(max_corrupt=1) == []
    image_file(folder, "c").write_bytes(b"nothing")
    with pytest.raises(SegZooError, match="b.jpg"):
        first_batch(max_corrupt=1)


def test_first_batch_of_small_pictures(first_batch):
    (line,) = first_batch(crop_size=(48, 64))
    assert line.startswith("warning: 3 of the 3 pairs") and "32x24" in line and "64x48" in line and "padded" in line
    enlarging = build_train_transform(Augmentation(crop_size=(48, 64), scale_size=48))
    assert first_batch(crop_size=(48, 64), transform=enlarging) == []
    shrinking = build_train_transform(Augmentation(crop_size=(16, 16), scale_size=12))
    (line,) = first_batch(transform=shrinking)
    assert "16x12, resized from 32x24" in line


def test_first_batch_of_ignored_pixels(folder, first_batch):
    nothing = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    write_label(folder, "a", nothing)
    (line,) = first_batch()
    assert "1 of the 3 pairs" in line and "ignored pixels only" in line and "a.png" in line
    write_label(folder, "b", nothing)
    write_label(folder, "c", nothing)
    (line,) = first_batch()
    assert "all labels of the first batch are ignored" in line


def test_first_batch_of_black_and_white_masks(folder, first_batch, rng):
    for stem in "abc":
        write_label(folder, stem, 255 * rng.integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8))
    lines = first_batch(num_labels=2)
    assert len(lines) == 1 and "divide by 255" in lines[0]

"""Every fault that the files of a data set can have is found and named."""

import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import tifffile
from support.checked_folder import (
    FIVE,
    HEIGHT,
    PALETTE,
    WIDTH,
    found,
    image_file,
    label_file,
    only_case,
    read_label,
    rotate,
    write_label,
)

from segzoo.data.checks.findings import ERROR, KINDS, WARNING
from segzoo.data.checks.inspection import inspect_dataset
from segzoo.data.checks.inspection_text import report_text
from segzoo.data.loading import DataSource
from segzoo.files import json_text
from segzoo.images.values import EIGHT_BITS, FLOATS, SIXTEEN_BITS

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


@pytest.mark.parametrize(
    ("largest", "levels", "factor"), [(255, 1, 256), (4095, 16, 16), (16383, 64, 4), (16384, None, None)]
)
def test_pictures_of_16_bits_that_use_few_of_them(folder, inspect, largest, levels, factor):
    """Twelve bits are the usual ones of sensors; the brightest picture decides."""
    for name, value in (("a", largest), ("b", 0)):
        image_file(folder, name).unlink()
        PIL.Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint16)).save(folder / f"images/train/{name}.png")
    finding = found(inspect()).get("few_grey_levels")
    assert (finding is None) == (levels is None)
    if finding is not None:
        (case,) = finding.cases
        assert finding.severity == WARNING and case.details == {"levels": levels, "factor": factor}
        assert f"below {levels * 256} of 65536" in case.text and f"at most {factor}" in case.fix


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

"""Faults of labels and of several files are found and named, and a clean data set raises no alarm."""

import json
import zipfile

import datasets
import numpy as np
import PIL.Image
import pytest
from support.checked_folder import (
    FIVE,
    HEIGHT,
    NAMES,
    TWO,
    WIDTH,
    found,
    image_file,
    label_file,
    only_case,
    read_label,
    write_label,
)

from segzoo.data.checks.findings import ERROR, KINDS, NOTE, SEVERITIES, WARNING
from segzoo.data.checks.inspection import inspect_dataset, spread
from segzoo.data.checks.inspection_text import report_text
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.checks.probing import probe_pair
from segzoo.data.classes import ClassFacts
from segzoo.data.label_encodings import CAMVID_COLORS
from segzoo.data.loading import load_segmentation_dataset
from segzoo.errors import SegZooError
from segzoo.files import json_text
from segzoo.images.reading import read_bytes

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

"""Results in files are read back and compared."""

import csv
import json

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from PIL import Image

from segzoo.evaluation import pictures
from segzoo.evaluation.pictures import WorstPredictions, WrongPicture, draw_worst, error_picture, titled, worst_rows
from segzoo.evaluation.report import EvaluationReport
from segzoo.evaluation.score_log import ImageRow

CONFUSION = np.array([[50, 3, 0], [10, 37, 0], [0, 0, 0]])
ROWS = (
    ImageRow(0, "a/x, y.jpg", 0.25, 0.5, 60),
    ImageRow(1, "b.jpg", float("nan"), float("nan"), 0),
    ImageRow(2, "c.jpg", 0.125, 0.9, 40),
)


def report(**changes):
    values = {
        "confusion": CONFUSION,
        "names": ["sky, high", "Straße", "car"],
        "images": ROWS,
        "num_images": 3,
        "model": "models/tiny",
        "data": "data/x",
        "dataset": "My Data",
        "split": "validation",
        "protocol": "whole image; scored at original size",
        "variant": "whole",
        "settings": {"flip": False},
        "run": {"date": "2026-11-21T08:00:00+00:00", "seconds": 1.5},
    }
    return EvaluationReport(**values | changes)


def test_results(tmp_path):
    files = report().write(tmp_path)
    assert all(file.is_file() for file in files) and len(set(files)) == 8
    assert not list(tmp_path.rglob("*.partial"))

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert results["metrics"]["mean_iou"] == pytest.approx((50 / 63 + 37 / 50) / 2)
    assert results["metrics"]["overall_accuracy"] == pytest.approx(87 / 100)
    assert results["classes"][2] == {
        "id": 2, "name": "car", "iou": None, "accuracy": None, "dice": None, "precision": None, "recall": None, "f_score": None,
        "pixels": 0, "predicted_pixels": 0,
    }  # fmt: skip
    sky = results["classes"][0]
    assert (sky["pixels"], sky["predicted_pixels"], sky["recall"]) == (53, 60, pytest.approx(50 / 53))
    assert sky["precision"] == pytest.approx(50 / 60) and sky["dice"] == pytest.approx(100 / 113) == sky["f_score"]
    assert (results["num_pixels"], results["protocol"]) == (100, "whole image; scored at original size")

    text = (tmp_path / "results.txt").read_text()
    assert "protocol: whole image" in text and "Straße" in text and "pixel accuracy 87.00" in text
    np.testing.assert_array_equal(np.load(tmp_path / "confusion_matrix.npy"), CONFUSION)
    rows = list(csv.reader((tmp_path / "confusion_matrix.csv").open(encoding="utf-8")))
    assert rows[0][1:] == ["sky, high", "Straße", "car"] == [row[0] for row in rows[1:]]
    np.testing.assert_array_equal([[int(n) for n in row[1:]] for row in rows[1:]], CONFUSION)
    images = list(csv.DictReader((tmp_path / "images.csv").open(encoding="utf-8")))
    assert [row["name"] for row in images] == ["a/x, y.jpg", "b.jpg", "c.jpg"]
    assert images[0]["mean_iou"] == "0.25" and images[1]["mean_iou"] == "nan"
    index = yaml.safe_load((tmp_path / "model-index.yaml").read_text())["model-index"][0]
    assert index["name"] == "tiny" and len(index["results"][0]["metrics"]) == 3
    picture = Image.open(tmp_path / "confusion_matrix.png")
    picture.load()
    assert picture.height > 200


def test_the_hub_reads_the_results(tmp_path):
    path = report(dataset_id="me/my-data", task_id="roads").write_eval_results(tmp_path)
    assert path == tmp_path / ".eval_results" / "me-my-data_validation_whole.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.date) == ("me/my-data", "roads", "2026-11-21T08:00:00+00:00")
    assert entry.value == report().metrics["mean_iou"]
    assert "validation, 3 images; whole image" in entry.notes and "overall accuracy 0.8700" in entry.notes
    report(variant="whole_flip", dataset_id="me/my-data").write_eval_results(tmp_path)
    report(confusion=np.eye(3, dtype=int), dataset_id="me/my-data").write_eval_results(tmp_path)
    values = {file.name: yaml.safe_load(file.read_text())[0]["value"] for file in path.parent.iterdir()}
    assert values == {"me-my-data_validation_whole.yaml": 1.0, "me-my-data_validation_whole_flip.yaml": entry.value}
    assert report().write_eval_results(tmp_path).name == "my-data_validation_whole.yaml"


def test_dice_as_the_main_score(tmp_path):
    main = report(metric="mean_dice", mean_over="sky and road", dataset_id="me/x")
    dice = (100 / 113 + 74 / 87) / 2
    assert main.table().splitlines()[:-1] == report().table().splitlines()
    assert main.table().endswith(f"\nmDice {100 * dice:.2f}, the metric of My Data: the mean over sky and road")
    assert main.to_dict()["metric"] == "mean_dice" and report().to_dict()["metric"] == "mean_iou"
    names = ["mean_dice", "mean_iou", "mean_accuracy", "overall_accuracy"]
    assert [measured.metric for measured in main.measurements()] == names
    assert [measured.metric for measured in report().measurements()] == names[1:]
    (entry,) = parse_eval_result_entries(yaml.safe_load(main.write_eval_results(tmp_path).read_text()))
    assert entry.value == pytest.approx(dice) and entry.notes.startswith("mean dice, 0 to 1;")
    assert "mean iou 0." in entry.notes and "mean dice 0." not in entry.notes


def test_outputs_that_are_no_classes(tmp_path):
    """The third output is no class: its pixels are wrong, and it has no score of its own."""
    counts = np.array([[50, 3, 7], [10, 37, 3], [0, 0, 0]])
    of_two = report(confusion=counts, names=["sky", "road"])
    assert of_two.metrics["mean_iou"] == pytest.approx((50 / 70 + 37 / 53) / 2)
    assert of_two.metrics["overall_accuracy"] == pytest.approx(87 / 110)
    of_two.write(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["name"] for row in results["classes"]] == ["sky", "road"] and results["num_pixels"] == 110
    assert len((tmp_path / "confusion_matrix.csv").read_text().splitlines()) == 3


def test_nothing_to_count(tmp_path):
    empty = report(confusion=np.zeros((3, 3), dtype=int))
    assert empty.measurements() == []
    empty.write(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["metrics"]["mean_iou"] is None


def test_the_worst_images():
    assert [row.index for row in worst_rows(ROWS, 5)] == [2, 0]
    assert [row.index for row in worst_rows(ROWS, 1)] == [2]
    tied = [ImageRow(i, "", 0.5, accuracy, 1) for i, accuracy in enumerate((0.7, 0.6, 0.6))]
    assert [row.index for row in worst_rows(tied, 3)] == [1, 2, 0]


def test_label_maps_of_the_worst_images_are_kept(monkeypatch):
    scores = [0.5, 0.1, 0.9, 0.3, 0.1, 0.7]
    rows = [ImageRow(index, f"{index}.jpg", score, score, 60) for index, score in enumerate(scores)]
    rows.append(ImageRow(6, "nothing counts.jpg", float("nan"), float("nan"), 0))
    maps = [np.full((3, 4), row.index, np.uint8) for row in rows]

    def kept(count):
        worst = WorstPredictions(count)
        for row, label_map in zip(rows, maps, strict=True):
            worst.add(row, label_map)
        assert all(found is None or found is maps[row.index] for row in rows if [found := worst.get(row)])
        return {row.index for row in rows if worst.get(row) is not None}

    for count in (0, 1, 3, 100):
        assert kept(count) == {row.index for row in worst_rows(rows, count)}
    monkeypatch.setattr(pictures, "_KEPT_BYTES", 2 * maps[0].nbytes)
    assert kept(5) == {1, 4}


def test_error_picture():
    picture = np.full((2, 2, 3), 200, dtype=np.uint8)
    truth, prediction = np.array([[0, 1], [255, 255]]), np.array([[0, 0], [0, 1]])
    shown = np.asarray(error_picture(picture, truth, prediction, 255)).astype(int)
    assert shown[0, 1, 0] > shown[0, 1, 1] + 50, "wrong is red"
    assert shown[0, 0, 1] > shown[0, 0, 0], "right is greenish"
    assert (shown[1] == 50).all(), "what does not count is dark"
    assert (np.asarray(error_picture(picture, truth, prediction, None))[1, 0] == shown[0, 1]).all()


def test_sheets(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [
        WrongPicture(
            ImageRow(i, f"dir/Überweg {i}.png", 0.1 * i, 0.5, 9),
            rng.integers(0, 256, (30, 40, 3), dtype=np.uint8),
            rng.integers(0, 3, (30, 40)),
            rng.integers(0, 3, (30, 40)),
        )
        for i in range(3)
    ]
    options = {
        "palette": [[0, 0, 0], [255, 0, 0], [0, 0, 255]],
        "names": list("abc"),
        "ignore_index": 255,
        "title": "how " * 200,
    }
    files = draw_worst(pictures, tmp_path, **options)
    assert [file.name for file in files] == ["worst.png", "01_berweg-0.png", "02_berweg-1.png", "03_berweg-2.png"]
    sheet = Image.open(files[0])
    assert sheet.height > 3 * Image.open(files[1]).height / 2
    draw_worst(pictures[:1], tmp_path, **options)
    assert len(list((tmp_path / "worst").iterdir())) == 1
    assert draw_worst([], tmp_path, **options) == [] and not (tmp_path / "worst.png").exists()


def test_a_title_is_broken_into_lines():
    picture = Image.new("RGB", (300, 50))
    one, many = titled(picture, "short"), titled(picture, "word " * 60)
    assert one.width == many.width == 300 and many.height > one.height > 50
    assert np.asarray(many.crop((0, many.height - 50, 300, many.height))).max() == 0

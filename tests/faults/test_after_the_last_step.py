"""Whatever fails after the last step, the trained weights are in the output folder, and the error says so."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from segzoo.data.scenes import SCENES
from segzoo.training.checkpoints import list_checkpoints, read_record


def truncate_the_last_picture(data):
    picture = sorted((data / "images" / "validation").iterdir())[-1]
    picture.write_bytes(picture.read_bytes()[:300])
    return picture.name


def wrong_pixel_in_the_last_mask(data):
    file = sorted((data / "annotations" / "validation").iterdir())[-1]
    mask = Image.open(file)
    mask.putpixel((3, 2), 200)
    mask.save(file)
    return file.name


def weights(folder):
    """The weights of a folder that loads as a model and an image processor."""
    AutoModelForSemanticSegmentation.from_pretrained(folder)
    AutoImageProcessor.from_pretrained(folder)
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        (truncate_the_last_picture, {}),
        (wrong_pixel_in_the_last_mask, {"ema_decay": 0.5, "load_best_model_at_end": True}),
    ],
    ids=["plain", "average"],
)
def test_a_validation_picture_that_cannot_be_scored(start, scenes, tmp_path, fault, options):
    """It breaks during the training, after the look at all pictures before the first step."""
    data, options = shutil.copytree(scenes, tmp_path / "data"), {"max_train_steps": 20, **options}
    run = start(dataset_name=data, **options).until_step(1)
    name = fault(data)
    assert run.wait() == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1 and name in run.stderr
    assert run.stderr.endswith(f"the trained model, after step 20, is whole in {tmp_path / 'out'}\n")
    assert [read_record(folder)["step"] for folder in list_checkpoints(tmp_path / "out")] == [20]
    whole = start(output_dir=tmp_path / "undisturbed", **options)
    assert whole.wait() == 0, whole.stderr
    assert same(weights(tmp_path / "out"), weights(tmp_path / "undisturbed"))
    assert not (tmp_path / "out" / "all_results.json").exists()


def test_figures_that_cannot_be_written(start, tmp_path):
    run = start(max_train_steps=60).until_step(1)
    (tmp_path / "out" / "figures").write_text("in the way")
    assert run.wait() == 1
    assert run.stderr.startswith("error: ") and "figures" in run.stderr
    assert run.stderr.endswith(f"the trained model, after step 60, is whole in {tmp_path / 'out'}\n")
    weights(tmp_path / "out")
    assert "eval_mean_iou" in json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert (tmp_path / "out" / "README.md").is_file()


def test_the_best_model_replaces_that_of_the_last_step(start, tmp_path):
    """A rate that ruins the model at the first step: of equal scores the first is the best."""
    options = {"eval_steps": 1, "learning_rate": 0.3, "optimizer": "sgd", "ema_decay": 0.5}
    run = start(**options, load_best_model_at_end=True)
    assert run.wait() == 0, run.stderr
    history = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").open()]
    scores = {entry["step"]: entry["eval_mean_iou"] for entry in history if "eval_mean_iou" in entry}
    best = max(scores, key=scores.get)
    assert best < 4, "the case that is to be tested"
    last = start(**options, output_dir=tmp_path / "last")
    assert last.wait() == 0, last.stderr
    assert not same(weights(tmp_path / "out"), weights(tmp_path / "last"))
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_mean_iou"] == scores[best]


def test_a_class_name_that_the_terminal_cannot_show(scenes, tiny, tmp_path):
    names = [*SCENES.id2label.values()][:-1] + ["道路"]
    (tmp_path / "classes.json").write_text(json.dumps(dict(enumerate(names))))
    command = [sys.executable, "-m", "segzoo", "train", "--dataset_name", scenes, "--model_name_or_path", tiny]
    command += ["--classes", tmp_path / "classes.json", "--output_dir", tmp_path / "out", "--crop_size", 32]
    command += ["--per_device_train_batch_size", 4, "--max_train_steps", 1, "--dataloader_num_workers", 0]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"??" in done.stdout
    assert "eval_iou_道路" in json.loads((tmp_path / "out" / "all_results.json").read_text("utf-8"))


def test_broken_validation_pictures_may_be_left_out(start, scenes, tmp_path):
    """The last one and one that is drawn."""
    data = shutil.copytree(scenes, tmp_path / "data")
    pictures = sorted((data / "images" / "validation").iterdir())
    truncate_the_last_picture(data)
    pictures[0].write_bytes(b"no picture")
    run = start(dataset_name=data, max_corrupt=2)
    assert run.wait() == 0, run.stderr
    assert run.stderr.count("It is left out of the scores") == 2
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "2 of 5 validation pictures could not be read" in report
    pixels = json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_pixels"]
    assert 0 < pixels <= 3 * 48 * 64

import json
import re
import shutil
import sys

import numpy as np
import PIL.Image
import pytest
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from segzoo.data import load_segmentation_dataset
from segzoo.metrics import ConfusionMatrix


def losses(output_dir):
    entries = [json.loads(line) for line in (output_dir / "training_log.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def error_line(result):
    """The one line that a user sees."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


LONG_RUN = {
    "--crop_size": (32, 48),
    "--per_device_train_batch_size": 3,
    "--gradient_accumulation_steps": 2,
    "--max_train_steps": 6,
    "--eval_steps": 3,
    "--checkpointing_steps": 2,
    "--logging_steps": 3,
    "--max_grad_norm": 1,
    "--adam_beta1": 0.8,
    "--adam_beta2": 0.99,
    "--adam_epsilon": 1e-7,
    "--head_lr_multiplier": 2,
    "--mixed_precision": "bf16",
}


@pytest.fixture(scope="module")
def finished(run_script, tmp_path_factory):
    """An uninterrupted training with checkpoints, evaluations and a loading process; its folder and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    result = run_script(folder, {**LONG_RUN, "--dataloader_num_workers": 1}, ["--memory_format", "channels_last"])
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_what_is_printed_and_written(finished):
    folder, printed = finished
    assert re.search(r"step 6/6  loss \d\.\d{4}  lr \d\.\d\de-\d\d  \d+\.\d images/s  0s left", printed)
    assert re.search(r"evaluation after step 3: mIoU +\d+\.\d\d %", printed)
    assert re.search(r"^all classes +\d", printed, re.M) and re.search(r"^sky +\d", printed, re.M)
    results = json.loads((folder / "all_results.json").read_text())
    assert 0 <= results["eval_mean_iou"] <= 1 and results["train_steps"] == 6 and "eval_iou_sky" in results
    for name in ("curves.png", "samples.png", "overlay_1.png"):
        assert PIL.Image.open(folder / "figures" / name).width > 300
    card = (folder / "README.md").read_text()
    assert f"{100 * results['eval_mean_iou']:.2f}" in card and "Synthetic data" in card and "learning_rate" in card
    assert str(folder.parent) not in card


def test_the_saved_model_has_the_score_that_was_reported(finished, scenes):
    folder, _ = finished
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    confusion = ConfusionMatrix(model.config.num_labels)
    for row in load_segmentation_dataset(scenes)["validation"]:
        label = np.asarray(row["label"])
        outputs = model(**processor(images=row["image"], return_tensors="pt"))
        confusion.update(processor.post_process_semantic_segmentation(outputs, target_sizes=[label.shape])[0], label)
    reported = json.loads((folder / "all_results.json").read_text())["eval_overall_accuracy"]
    assert confusion.compute()["overall_accuracy"] == pytest.approx(reported, abs=0.02)  # fp32 here, bf16 there
    assert len(pipeline("image-segmentation", model=str(folder))(row["image"])) >= 1


@pytest.mark.parametrize("last_whole", [2, 4])
def test_a_resumed_training_has_the_same_losses(finished, run_script, tmp_path, last_whole):
    """To the last bit; with the newest checkpoint damaged, from the one before."""
    folder, _ = finished
    output = tmp_path / "out"
    output.mkdir()
    for step in (2, 4):
        shutil.copytree(folder / f"step_{step}", output / f"step_{step}")
    if last_whole == 2:
        (output / "step_4" / "optimizer.bin").write_bytes(b"half")
    options = {**LONG_RUN, "--resume_from_checkpoint": "latest", "--save_total_limit": 1}
    result = run_script(output, options, ["--memory_format", "channels_last"])
    assert result.returncode == 0, result.stderr
    assert f"after step {last_whole}." in result.stdout
    assert losses(output) == losses(folder)
    results = [json.loads((path / "all_results.json").read_text()) for path in (output, folder)]
    assert results[0]["eval_mean_iou"] == results[1]["eval_mean_iou"]
    assert [path.name for path in output.glob("step_*")] == ["step_6"]


@pytest.mark.slow
def test_two_processes_count_every_image_once(run_script, scenes, tmp_path):
    launcher = (sys.executable, "-m", "accelerate.commands.launch")
    launcher += (
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    )
    options = {"--per_device_train_batch_size": 2, "--max_train_steps": 2, "--checkpointing_steps": 1}
    result = run_script(
        tmp_path / "out", {**options, "--mixed_precision": "no"}, ["--sync_batch_norm"], launcher=launcher
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 x cpu" in result.stdout and "5 images" in result.stdout
    assert result.stdout.count("on CPUs batch norms are not synchronised") == 1
    assert result.stdout.count("step 2/2") == 1
    assert len(list((tmp_path / "out" / "step_2").glob("random_states_*"))) == 2
    labels = [np.asarray(row["label"]) for row in load_segmentation_dataset(scenes)["validation"]]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_pixels"] == sum(int((label != 255).sum()) for label in labels)


def test_a_new_model_without_a_validation_split_and_other_options(run_script, scenes, tmp_path):
    for kind in ("images", "annotations"):
        shutil.copytree(scenes / kind / "train", tmp_path / "data" / kind)
    options = {
        "--dataset_name": tmp_path / "data",
        "--model_name_or_path": None,
        "--backbone": "resnet18",
        "--head": "fcn",
        "--head_channels": 8,
        "--classes": "scenes",
        "--max_train_samples": 6,
        "--train_fraction": 0.9,
        "--train_val_split": 0.3,
        "--scale_size": (40, 80),
        "--optimizer": "sgd",
        "--lr_scheduler_type": "cosine",
        "--num_warmup_steps": 1,
        "--max_train_steps": None,
        "--num_train_epochs": 2,
        "--eval_steps": "epoch",
    }
    result = run_script(
        tmp_path / "out", options, ["--random_backbone", "--gradient_checkpointing", "--no_photometric_distortion"]
    )
    assert result.returncode == 0, result.stderr
    assert "6 pictures to train on, 3 to evaluate; 2 steps of 4" in result.stdout
    names = (tmp_path / "out" / "train_files.txt").read_text().splitlines()
    assert len(names) == len(set(names)) == 6 and all(name.endswith(".jpg") for name in names)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert dict(processor.size) == {"shortest_edge": 40, "longest_edge": 80}


def test_bad_label_ids_are_found_before_the_first_step(run_script, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    for file in (tmp_path / "data" / "annotations" / "train").glob("*.png"):
        mask = np.array(PIL.Image.open(file))
        mask[:] = 9
        PIL.Image.fromarray(mask).save(file)
    result = run_script(tmp_path / "out", {"--dataset_name": tmp_path / "data"})
    line = error_line(result)
    assert re.search(r"scene_\d+\.png: label ids outside 0\.\.8 \(ignored: 255\): 9 \(\d+ pixels\)", line)
    assert "--do_reduce_labels" in line and "step 1" not in result.stdout


def test_bad_label_ids_found_in_a_loading_process_are_one_line_too(run_script, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "validation" / "scene_00003.png"
    PIL.Image.fromarray(np.full((48, 64), 77, dtype=np.uint8)).save(file)
    options = {"--dataset_name": tmp_path / "data", "--max_train_steps": 1, "--dataloader_num_workers": 1}
    line = error_line(run_script(tmp_path / "out", options))
    assert "scene_00003.png: label ids outside" in line and "77 (3072 pixels)" in line


def test_an_output_folder_that_is_not_empty_stays_as_it_is(run_script, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    assert "is not empty" in error_line(run_script(tmp_path))
    assert (tmp_path / "config.json").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1

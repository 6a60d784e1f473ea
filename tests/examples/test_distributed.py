"""Several processes on one machine, over gloo, train and score like one, and print everything once."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.script_process import SCRIPT, ScriptRun, words
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.data import load_segmentation_dataset
from segzoo.data.scenes import SCENES
from segzoo.heads import FCNHeadConfig
from segzoo.metrics import ConfusionMatrix

TRAINING = {
    "crop_size": 32,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "max_train_samples": 8,  # an epoch is two steps of 4, however they are divided
    "max_train_steps": 6,
    "max_grad_norm": 1,
    "logging_steps": 1,
    "eval_steps": 2,
    "dataloader_num_workers": 0,
}


@pytest.fixture(scope="module")
def start(scenes, tmp_path_factory):
    """Starts the script on a model without dropout, whose losses depend on the pictures alone."""
    config = SegZooConfig.tiny().to_dict() | {"id2label": SCENES.id2label, "palette": None}
    for head in config["decode_head_configs"] + config["auxiliary_head_configs"]:
        head["dropout"] = 0.0
    model = tmp_path_factory.mktemp("model") / "no-dropout"
    torch.manual_seed(0)
    SegZooForSemanticSegmentation(SegZooConfig(**config)).save_pretrained(model)
    SegZooImageProcessor(do_resize=False).save_pretrained(model)

    def start(processes=1, **options):
        folder = tmp_path_factory.mktemp("run")
        options = {"dataset_name": scenes, "model_name_or_path": model, **TRAINING, **options}
        run = ScriptRun({**options, "output_dir": folder / "out"}, folder / "logs", processes=processes)
        run.output = folder / "out"
        return run

    return start


def losses(output):
    entries = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def results(output):
    return json.loads((output / "all_results.json").read_text())


@pytest.fixture(scope="module")
def one_process(start):
    run = start(per_device_train_batch_size=4, freeze_norms=True)
    assert run.wait() == 0, run.stderr
    return run.output


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {"per_device_train_batch_size": 2}),
        (1, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
        pytest.param(2, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
    ],
)
def test_parts_of_the_batch_follow_the_whole(start, one_process, processes, options):
    """To float noise; evaluations in between do not thaw the norms."""
    run = start(processes, freeze_norms=True, **options)
    assert run.wait() in (0, [0, 0]), run.stderr
    expected = losses(one_process)
    assert len(expected) == 6 and expected[1] != expected[6]
    assert losses(run.output) == pytest.approx(expected, rel=1e-5)
    weights, wanted = (load_file(path / "model.safetensors") for path in (run.output, one_process))
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def half_labelled(scenes, tmp_path_factory):
    """The scenes, with masks of which more and more is ignored, the last one as a whole."""
    folder = shutil.copytree(scenes, tmp_path_factory.mktemp("half") / "scenes")
    masks = sorted((folder / "annotations" / "train").iterdir())
    for number, path in enumerate(masks, start=1):
        mask = np.array(Image.open(path))
        mask[:, : mask.shape[1] * number // len(masks)] = 255
        Image.fromarray(mask).save(path)
    return folder


def test_parts_of_the_batch_follow_the_whole_with_the_loss_of_transformers(start, half_labelled, tmp_path):
    """The mean over the pixels that count, which are unevenly distributed; some parts have none."""
    torch.manual_seed(0)
    segformer = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
    config = SegformerConfig(
        **segformer, decoder_hidden_size=8, drop_path_rate=0.0, classifier_dropout_prob=0.0, id2label=SCENES.id2label
    )
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    SegZooImageProcessor(do_resize=False).save_pretrained(tmp_path)
    options = {"dataset_name": half_labelled, "model_name_or_path": tmp_path, "freeze_norms": True, "eval_steps": 0}
    whole = start(per_device_train_batch_size=4, **options)
    assert whole.wait() == 0, whole.stderr
    parts = start(2, per_device_train_batch_size=1, gradient_accumulation_steps=2, **options)
    assert parts.wait() == [0, 0], parts.stderr
    expected = losses(whole.output)
    assert len(expected) == 6 and expected[1] != expected[6]
    assert losses(parts.output) == pytest.approx(expected, rel=1e-5)
    weights, wanted = (load_file(run.output / "model.safetensors") for run in (parts, whole))
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_head_that_leaves_out_the_last_stages(start, tmp_path):
    config = SegZooConfig.from_backbone(
        ResNetConfig.tiny(), FCNHeadConfig(in_index=[1], channels=8), id2label=SCENES.id2label
    )
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path)
    SegZooImageProcessor(do_resize=False).save_pretrained(tmp_path)
    run = start(2, model_name_or_path=tmp_path, per_device_train_batch_size=2, max_train_steps=3, eval_steps=0)
    assert run.wait() == [0, 0], run.stderr
    assert (run.stdout + run.stderr).count("because no head reads them") == 1


@pytest.mark.parametrize("images", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_image_counts_once(start, scenes, images):
    """Two processes, an odd number of images, or fewer images than processes: each once, and in the model that is saved.

    The norms are not frozen, so that each process has moved its own running statistics.
    """
    run = start(2, per_device_train_batch_size=2, max_eval_samples=images, eval_steps=0)
    assert run.wait() == [0, 0], run.stderr
    model = AutoModelForSemanticSegmentation.from_pretrained(run.output).eval()
    processor = AutoImageProcessor.from_pretrained(run.output)
    rows = load_segmentation_dataset(scenes)["validation"]
    if images < len(rows):
        rows = rows.shuffle(seed=42).select(range(images))
    confusion = ConfusionMatrix(model.config.num_labels)
    for row in rows:
        label = torch.from_numpy(np.array(row["label"]))
        with torch.no_grad():
            outputs = model(**processor(images=row["image"], return_tensors="pt"))
        prediction = processor.post_process_semantic_segmentation(outputs, target_sizes=[tuple(label.shape)])[0]
        confusion.update(prediction, label)
    scores, expected = results(run.output), confusion.compute()
    assert scores["eval_pixels"] == int(confusion.matrix.sum())
    assert scores["eval_mean_iou"] == pytest.approx(float(expected["mean_iou"]), abs=1e-6)
    assert scores["eval_overall_accuracy"] == pytest.approx(float(expected["overall_accuracy"]), abs=1e-6)
    assert (run.stdout + run.stderr).count("each process normalises its own") == 1


def error_line(run):
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), run.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_name": "/no/such/data"}, "/no/such/data"),
        ({"per_device_train_batch_size": 6}, "fewer than one batch of 6 in 2 processes"),
        ({"resume_from_checkpoint": "step_7"}, "there is no checkpoint step_7"),
        ({"learning_rate": -1}, "learning_rate"),
    ],
)
def test_an_error_of_all_processes_is_said_once(start, options, message):
    run = start(2, **{"per_device_train_batch_size": 2, **options})
    assert run.wait() == [1, 1], run.stderr
    assert message in error_line(run)


def test_an_error_of_the_main_process_alone_keeps_nobody_waiting(tmp_path):
    (tmp_path / "file").touch()
    run = ScriptRun({"dataset_name": tmp_path, "output_dir": tmp_path / "file"}, tmp_path / "logs", processes=2)
    assert run.wait(60) == [1, 1], run.stderr
    assert "is a file" in error_line(run)


def test_an_error_of_one_process_ends_all_and_is_said_once(start, scenes, tmp_path):
    """A picture that only one of them meets is broken."""
    data = shutil.copytree(scenes, tmp_path / "data")
    broken = sorted((data / "images" / "train").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    run = start(2, dataset_name=data, per_device_train_batch_size=1, max_train_steps=20, eval_steps=0)
    assert run.wait(60) == [1, 1], run.stderr
    assert broken.name in error_line(run)


def test_a_killed_process_ends_the_other_without_a_traceback(start):
    run = start(2, per_device_train_batch_size=2, max_train_steps=500, eval_steps=0).until_step(3)
    run.processes[1].kill()
    first, second = run.wait(60)
    assert first == 1 and second == -9 and "Traceback" not in run.stderr, run.stderr
    assert run.stderr.startswith("error: ") and "another process" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "program"),
    [("torch.distributed.run", ("-m", "segzoo", "train")), ("accelerate.commands.launch", (SCRIPT,))],
)
def test_the_usual_launchers(scenes, tiny, tmp_path, module, program):
    """In `test_run_semantic_segmentation.py`, accelerate launches the command."""
    options = {"dataset_name": scenes, "model_name_or_path": tiny, **TRAINING, "per_device_train_batch_size": 2}
    flags = {
        "torch.distributed.run": ["--standalone", "--nproc_per_node", "2"],
        "accelerate.commands.launch": ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
        + ["--dynamo_backend", "no", "--mixed_precision", "no", "--main_process_port", "0"],
    }[module]

    def launch(**changes):
        return subprocess.run(
            [
                sys.executable,
                "-m",
                module,
                *flags,
                *program,
                *words(options | {"output_dir": tmp_path / "out"} | changes),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )

    result = launch()
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 x cpu" in result.stdout and result.stdout.count("step 6/6") == 1
    failed = launch(dataset_name="/no/such/data", overwrite_output_dir=True)
    assert failed.returncode == 1
    assert len([line for line in failed.stderr.splitlines() if line.startswith("error: ")]) == 1, failed.stderr
    assert "terminate called" not in failed.stderr

"""Mistakes that end with one line before training (in this process), and faults in the middle of it (in others)."""

import os
import re
import shutil
import signal
import subprocess

import pytest
from support.script_process import ScriptRun
from transformers import AutoModelForSemanticSegmentation


@pytest.fixture
def fail(script, scenes, tiny, tmp_path, capsys):
    """Runs with the options given and returns the one line on stderr."""

    def run(**options):
        words = {"dataset_name": scenes, "model_name_or_path": tiny, "output_dir": tmp_path / "out", **options}
        argv = ["--dataloader_num_workers", "0", "--crop_size", "32"]
        for name, value in words.items():
            if value is not None:
                argv += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        assert script.main(argv) == 1
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
        return error

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": (32, 0)}, "crop_size is 0; it must be at least 1"),
        ({"crop_size": (1, 2, 3)}, "crop_size has 3 values; it takes 2"),
        ({"scale_range": (2.0, 0.5)}, "scale_range is 2 to 0.5"),
        ({"scale_size": (512, 256)}, "scale_size is (512, 256)"),
        ({"train_val_split": 1.5}, "between 0 and 1"),
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size is 0; it must be above 0"),
        ({"weight_decay": -1}, "weight_decay is -1; it must be at least 0"),
        ({"eval_steps": "often"}, "a number of steps or 'epoch'"),
        ({"head_lr_multiplier": 0}, "head_lr_multiplier is 0; it must be above 0"),
        ({"max_train_steps": 3, "num_warmup_steps": 3}, "num_warmup_steps 3 does not fit"),
        ({"per_device_train_batch_size": 11}, "10 pictures, fewer than one batch of 11"),
        ({"class_weights": (1.0, 2.0)}, "2 numbers for 9 classes"),
        ({"backbone": "resnet18"}, "either --backbone"),
        ({"model_name_or_path": "/no/such/model"}, "cannot load /no/such/model"),
        ({"dataset_name": "/no/such/data"}, "There is no folder or file /no/such/data"),
        ({"resume_from_checkpoint": "step_7"}, "there is no checkpoint step_7"),
        ({"image_processor_name": "/no/such/processor"}, "cannot load an image processor"),
    ],
)
def test_settings_that_make_no_sense(fail, options, message):
    assert message in fail(**options)


def test_a_tracker_that_is_not_installed(script, scenes, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    argv = [
        f"--{n}={v}" for n, v in {"dataset_name": scenes, "model_name_or_path": tiny, "output_dir": tmp_path}.items()
    ]
    assert script.main([*argv, "--with_tracking", "--report_to", "wandb"]) == 1
    assert "--report_to wandb: this tracker is not installed; installed: none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_empty_split(fail, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    for file in (tmp_path / "data" / "images" / "validation").iterdir():
        file.unlink()
    assert "split is empty" in fail(dataset_name=tmp_path / "data")


def test_only_a_validation_split(fail, scenes, tmp_path):
    for kind in ("images", "annotations"):
        shutil.copytree(scenes / kind / "validation", tmp_path / "data" / kind / "val")
    assert "has no train split" in fail(dataset_name=tmp_path / "data", classes="scenes")


def test_a_batch_of_one_that_batch_norm_cannot_train_on(fail):
    error = fail(per_device_train_batch_size=1, max_train_steps=1, eval_steps=0)
    assert "batch normalisation cannot train on one image" in error and "batch of at least 2" in error


def test_a_loss_that_is_no_number(fail):
    error = fail(per_device_train_batch_size=4, learning_rate=1e30, max_train_steps=6, logging_steps=3, eval_steps=0)
    assert (
        re.search(r"the loss is nan in steps \d to \d\. The pictures of these steps: .*\.jpg", error)
        and "Lower --learning_rate" in error
    )


# In the middle of a training


@pytest.fixture
def start(scenes, tiny, tmp_path):
    """Starts a training long enough to be disturbed."""

    def start(**options):
        words = {"dataset_name": scenes, "model_name_or_path": tiny, "crop_size": 32, "per_device_train_batch_size": 4}
        words |= {"max_train_steps": 300, "logging_steps": 1, "eval_steps": 0, "dataloader_num_workers": 1}
        return ScriptRun({**words, "output_dir": tmp_path / "out", **options}, tmp_path / "logs")

    return start


def one_line(run, code=1):
    assert run.wait() == code, run.stderr
    lines = run.stderr.splitlines()
    assert len(lines) == 1, run.stderr
    return lines[0]


def test_the_output_folder_vanishes_and_the_model_is_saved_all_the_same(start, tmp_path):
    run = start(max_train_steps=40).until_step(5)
    shutil.rmtree(tmp_path / "out")
    assert run.wait() == 0, run.stderr
    AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "training_log.jsonl").read_text().count("loss") >= 40


def test_a_loading_process_is_killed(start):
    """As the kernel does when memory runs out."""
    run = start().until_step(3)
    children = subprocess.run(
        ["pgrep", "-P", str(run.processes[0].pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    line = one_line(run)
    assert line.startswith("error: a process that loads data") and "--dataloader_num_workers" in line


def test_a_picture_that_is_broken_is_named(start, scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    broken = sorted((data / "images" / "train").iterdir())[-1]
    broken.write_bytes(broken.read_bytes()[:300])
    line = one_line(start(dataset_name=data))
    assert line.startswith(f"error: {broken}: ") and "cannot be read" in line


def test_ctrl_c_ends_with_a_line_of_its_own(start):
    run = start().until_step(3).signal(signal.SIGINT, with_children=True)
    assert run.wait() == 130
    # A loading process may add that its connection broke off in the middle of a batch; the training's own line comes first.
    assert run.stderr.startswith("interrupted; go on with --resume_from_checkpoint latest\n")

"""Trainings whose labels are ignored: many steps in a row from which nothing can be learned are an error."""

import shutil

import numpy as np
import pytest
from PIL import Image
from support.script_process import ScriptRun


@pytest.fixture
def ignored(scenes, tmp_path):
    """The scenes with masks of nothing but 255."""
    data = shutil.copytree(scenes, tmp_path / "data")
    for mask in (data / "annotations" / "train").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(mask)
    return data


def test_no_pixel_counts(start, ignored, tmp_path):
    run = start(dataset_name=ignored, max_empty_steps=3, max_train_steps=9, gradient_accumulation_steps=2)
    assert run.wait() == 1
    assert "step 2/9" in run.stdout and "step 3/9" not in run.stdout
    last = run.stderr.splitlines()[-1]
    assert (
        last.startswith("error: no pixel of any label counts in steps 1 to 3: all are 255")
        and "--max_empty_steps" in last
    )
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_pixels_of_any_process_count(scenes, ignored, tiny, tmp_path):
    """Both processes take four of eight pictures, of which one has labels: each step one process has nothing."""
    for kind in ("images", "annotations"):
        for path in sorted((ignored / kind / "train").iterdir())[8:]:
            path.unlink()
    labelled = sorted((ignored / "annotations" / "train").iterdir())[0]
    shutil.copy(scenes / "annotations" / "train" / labelled.name, labelled)
    options = {"dataset_name": ignored, "model_name_or_path": tiny, "crop_size": 32, "per_device_train_batch_size": 4}
    options |= {"max_train_steps": 3, "max_empty_steps": 1, "no_do_eval": True, "dataloader_num_workers": 0}
    run = ScriptRun({**options, "logging_steps": 1, "output_dir": tmp_path / "out"}, tmp_path / "logs", processes=2)
    assert run.wait() == [0, 0], run.stderr

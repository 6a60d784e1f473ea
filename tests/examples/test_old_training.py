"""A training that an earlier version started resumes; `tests/old_folders/make.py` tells how its models were made."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file
from support.versions import TORCH

OLD = Path(__file__).parents[1] / "old_folders"


@pytest.fixture
def old_training(tmp_path):
    """A folder of a training that stopped after step 2 of 4, with its checkpoint."""
    folder = tmp_path / "training"
    folder.mkdir()
    shutil.copytree(OLD / "training" / "step_2", folder / "step_2")
    shutil.copy(OLD / "training" / "recipe.json", folder)
    return folder


def test_an_old_training_goes_on_from_its_checkpoint(old_training, run_script):
    done = run_script(
        old_training,
        {
            "--model_name_or_path": OLD / "training" / "tiny",
            "--checkpointing_steps": 2,
            "--resume_from_checkpoint": "latest",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [
        {
            row["step"]: row["loss"]
            for row in map(json.loads, folder.joinpath("training_log.jsonl").open())
            if "loss" in row
        }
        for folder in (OLD / "training", old_training)
    ]
    assert losses[1].keys() == {1, 2, 3, 4}
    # The record is of torch 2.15; before, resized pictures are rounded otherwise.
    exact = Version("2.15") <= TORCH
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if exact else 1e-2)
    expected = load_file(OLD / "training" / "after_step_4.safetensors")
    reached = load_file(old_training / "model.safetensors")
    assert reached.keys() == expected.keys()
    for name, tensor in expected.items() if exact else ():
        torch.testing.assert_close(reached[name], tensor, rtol=1e-3, atol=1e-4, msg=name)

"""Too little room for the model and the checkpoints is refused before the first step."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.script_process import words
from support.small_disk import can_mount, in_child, mount_small_disk


@pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
def test_a_disk_that_cannot_take_model_and_checkpoints(scenes, tiny, tmp_path):
    options = {"dataset_name": scenes, "model_name_or_path": tiny, "crop_size": 32, "per_device_train_batch_size": 4}
    options |= {"dataloader_num_workers": 0, "max_train_steps": 2, "eval_steps": 0, "use_cpu": True}
    options |= {"output_dir": "disk/../disk/out"}
    (tmp_path / "disk").mkdir()

    def attempt(**more):
        # A program of its own, which sees the disk too: a forked process cannot train where autograd has had threads.
        command = [sys.executable, "-m", "segzoo", "train", *words({**options, **more})]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def attempts():
        mount_small_disk(tmp_path / "disk", "3m")
        os.chdir(tmp_path)
        refused = attempt(checkpointing_steps=1)
        free = shutil.disk_usage("disk").free
        fewer = attempt(checkpointing_steps=0, overwrite_output_dir=True)
        return refused, free, fewer, sorted(path.name for path in Path("disk/out").iterdir())

    (code, out, err), free, fewer, left = in_child(attempts)
    assert code == 1 and "step 1/" not in out and err.count("\n") == 1
    found = re.match(
        r"error: --output_dir disk/\.\./disk/out: the training needs (\d+) bytes .* (\d+) bytes .* are free", err
    )
    assert found, err
    assert int(found[1]) > int(found[2]) and abs(int(found[2]) - free) < 100_000
    assert "--checkpointing_steps 0" in err
    assert fewer[0] == 0, fewer
    assert "config.json" in left and not [name for name in left if name.startswith("step_")]

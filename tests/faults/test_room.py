"""Too little room for the model and the checkpoints is refused before the first step."""

import json
import re

import pytest
from support.script_process import ScriptRun, words
from support.small_disk import can_mount

# Two trainings whose output is on a disk of 3 MB, with and without checkpoints.
PROGRAM = """
import contextlib, io, json, os, shutil
from pathlib import Path
from segzoo.commands import cli
from support.small_disk import mount_small_disk

def attempt(argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["train", *argv])
    return code, out.getvalue(), err.getvalue()

def main(argv):
    folder, results, *argv = argv
    mount_small_disk(Path(folder, "disk"), "3m")
    os.chdir(folder)
    refused = attempt([*argv, "--checkpointing_steps", "1"])
    free = shutil.disk_usage("disk").free
    fewer = attempt([*argv, "--checkpointing_steps", "0", "--overwrite_output_dir"])
    left = sorted(path.name for path in Path("disk/out").iterdir())
    Path(results).write_text(json.dumps([refused, free, fewer, left]))
    return 0
"""


@pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
def test_a_disk_that_cannot_take_model_and_checkpoints(scenes, tiny, tmp_path):
    options = {"dataset_name": scenes, "model_name_or_path": tiny, "crop_size": 32, "per_device_train_batch_size": 4}
    options |= {"dataloader_num_workers": 0, "max_train_steps": 2, "eval_steps": 0, "use_cpu": True}
    options |= {"output_dir": "disk/../disk/out"}
    (tmp_path / "disk").mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    argv = [tmp_path, tmp_path / "results.json", *words(options)]
    run = ScriptRun(argv, tmp_path / "logs", script=tmp_path / "program.py")
    assert run.wait() == 0, run.stderr
    (code, out, err), free, fewer, left = json.loads((tmp_path / "results.json").read_text())
    assert code == 1 and "step 1/" not in out and err.count("\n") == 1
    found = re.match(
        r"error: --output_dir disk/\.\./disk/out: the training needs (\d+) bytes .* (\d+) bytes .* are free", err
    )
    assert found, err
    assert int(found[1]) > int(found[2]) and abs(int(found[2]) - free) < 100_000
    assert "--checkpointing_steps 0" in err
    assert fewer[0] == 0, fewer
    assert "config.json" in left and not [name for name in left if name.startswith("step_")]

"""A launcher is killed alone, or with everything that it started: the training saves and ends, and no process is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import launched
from support.process_groups import wait_for_end
from support.script_process import ScriptRun, words

from segzoo.training.checkpoints import list_checkpoints, read_record


@pytest.fixture
def launch(scenes, tiny, tmp_path):
    """Starts a training through a process that waits for it."""

    def launch(variable, **options):
        options = {"dataset_name": scenes, "model_name_or_path": tiny, "crop_size": 32, "logging_steps": 1, **options}
        options |= {"per_device_train_batch_size": 4, "eval_steps": 0, "output_dir": tmp_path / "out"}
        return ScriptRun([variable, *words(options)], tmp_path / "logs", script=Path(launched.__file__))

    return launch


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_the_launcher_of_one_process_is_signalled_alone(launch, tmp_path, name):
    run = launch("ACCELERATE_DYNAMO_MODE", max_train_steps=2000, dataloader_num_workers=1).until_step(3)
    assert run.signal(getattr(signal, name)).wait() == -getattr(signal, name)
    wait_for_end(run.processes[0].pid)
    assert run.stderr.startswith("the launcher has ended: stopped after step "), run.stderr
    assert run.stderr.endswith("; go on with --resume_from_checkpoint latest\n") and run.stderr.count("\n") == 1
    (checkpoint,) = list_checkpoints(tmp_path / "out")
    assert 3 <= read_record(checkpoint)["step"] < 2000


@pytest.mark.slow
def test_the_shell_that_started_a_training_ends(launch, tmp_path):
    """As after ``nohup segzoo train &`` and a logout."""
    run = launch("shell", max_train_steps=20, dataloader_num_workers=0).until_step(3)
    run.signal(signal.SIGKILL).wait()
    wait_for_end(run.processes[0].pid)
    assert run.stderr == "" and "step 20/20" in run.stdout
    assert (tmp_path / "out" / "all_results.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["launcher killed", "launcher", "everyone"])
def test_two_processes_of_torchrun(scenes, tiny, tmp_path, who):
    options = {"dataset_name": scenes, "model_name_or_path": tiny, "crop_size": 32, "per_device_train_batch_size": 2}
    options |= {"max_train_steps": 5000, "logging_steps": 1, "eval_steps": 0, "dataloader_num_workers": 1}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "segzoo", "train", *words({**options, "output_dir": tmp_path / "out"})]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    log = (tmp_path / "log").open("w+")
    launcher = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True, text=True
    )
    ranks = []
    try:
        wait_for_line(tmp_path / "log", "step 3/", launcher)
        ranks = psutil.Process(launcher.pid).children()
        assert len(ranks) == 2
        everyone = [launcher.pid, *(child.pid for child in psutil.Process(launcher.pid).children(recursive=True))]
        for number in everyone if who == "everyone" else [launcher.pid]:
            os.kill(number, signal.SIGKILL if who == "launcher killed" else signal.SIGTERM)
        launcher.wait(120)
        wait_for_end(launcher.pid, *(rank.pid for rank in ranks), timeout=120)
    finally:
        for process in (launcher, *ranks):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    (checkpoint,) = list_checkpoints(tmp_path / "out")
    assert 3 <= read_record(checkpoint)["step"] < 5000
    text = (tmp_path / "log").read_text()
    reason = "the launcher has ended" if who == "launcher killed" else "SIGTERM"
    assert text.count(f"{reason}: stopped after step") == 1, text
    own = [line for line in text.splitlines() if "Traceback" in line]
    assert len(own) <= (0 if who == "launcher killed" else 1), text  # torchrun's own


def wait_for_line(log, words, process):
    deadline = time.monotonic() + 240
    while words not in log.read_text():
        assert time.monotonic() < deadline and process.poll() is None, log.read_text()
        time.sleep(0.02)

"""A training that is told to stop saves first, whoever tells it."""

import os
import signal

import pytest

from segzoo.training.checkpoints import list_checkpoints, read_record


@pytest.fixture
def long(start):
    """Starts a training long enough to be stopped in the middle."""
    return lambda **options: start(max_train_steps=300, **options)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("SIGHUP", 75, "SIGHUP: stopped after step"),
        ("SIGINT", 130, "interrupted; go on with --resume_from_checkpoint latest"),
    ],
)
def test_a_signal_to_every_process_of_the_job(long, tmp_path, name, code, line, workers):
    run = long(dataloader_num_workers=workers).until_step(3).signal(getattr(signal, name), with_children=True)
    assert run.wait() == code, run.stderr
    assert run.stderr.startswith(line) and run.stderr.count("\n") == 1, run.stderr
    (checkpoint,) = list_checkpoints(tmp_path / "out")
    assert read_record(checkpoint)["step"] >= 3
    with pytest.raises(ProcessLookupError):  # no process that loads data is left
        os.killpg(run.processes[0].pid, 0)


def test_ctrl_c_before_there_is_anything_to_save(start, tmp_path):
    """The folder is claimed first; data and model are still to be read then."""
    run = start().until((tmp_path / "out" / ".lock").exists).signal(signal.SIGINT)
    assert run.wait() == 130
    assert run.stderr == "interrupted; nothing has been saved yet\n"

import pytest
from support.script_process import ScriptRun

from segzoo import SegZooError
from segzoo.training.processes import report_error, report_lost_process, run_together

SCRIPT = """
import os, signal, sys, torch
from accelerate import Accelerator
from segzoo.errors import SegZooError
from segzoo.training.processes import report_error, report_lost_process, run_together

def attempt(accelerator, action, **options):
    try:
        said = run_together(accelerator, action, **options)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(accelerator.process_index, said, flush=True)

def fail_in(accelerator, index, error):
    if accelerator.process_index == index:
        raise error

def main(argv):
    accelerator = Accelerator()
    me = accelerator.process_index
    if argv == ["killed"]:
        accelerator.wait_for_everyone()
        if me == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            accelerator.wait_for_everyone()
            accelerator.reduce(torch.zeros(1))
        except RuntimeError as error:
            return 7 if report_lost_process(error) else 8
    attempt(accelerator, lambda: f"from {me}")
    attempt(accelerator, lambda: f"alone {me}", main_only=True)
    attempt(accelerator, lambda: fail_in(accelerator, 1, SegZooError("no room")))
    attempt(accelerator, lambda: fail_in(accelerator, 0, KeyError("a bug")))
    attempt(accelerator, lambda: f"and on {me}")
    accelerator.wait_for_everyone()
    report_error("the same")
    report_error(f"of {me}")
    report_error("the same")
    accelerator.end_training()
    return 0
"""


@pytest.fixture
def run(tmp_path):
    def run(*argv):
        (tmp_path / "script.py").write_text(SCRIPT)
        return ScriptRun(argv, tmp_path / "logs", processes=2, script=tmp_path / "script.py")

    return run


def test_two_processes_succeed_and_fail_together(run):
    started = run()
    assert started.wait(60) == [0, 0], started.stderr
    assert sorted(started.stdout.splitlines()) == sorted(
        [
            "0 from 0",
            "1 from 0",
            "0 alone 0",
            "1 alone 0",
            "0 SegZooError: no room",
            "1 SegZooError: no room",
            "0 KeyError: 'a bug'",
            "1 SegZooError: 'a bug'",
            "0 and on 0",
            "1 and on 0",
        ]
    )
    assert sorted(started.stderr.splitlines()) == ["error: of 0", "error: of 1", "error: the same"]


def test_a_killed_process_is_reported_by_the_other(run):
    started = run("killed")
    assert started.wait(60) == [7, -9], started.stderr
    assert started.stderr.startswith("error: another process of the training has ended without a word")
    assert started.stderr.count("\n") == 1


class Alone:
    num_processes = 1


def test_one_process_just_runs(capsys):
    assert run_together(Alone(), lambda: 3, main_only=True) == 3
    with pytest.raises(SegZooError, match="no room"):
        run_together(Alone(), lambda: (_ for _ in ()).throw(SegZooError("no room")))
    report_error("twice")
    report_error("twice")
    assert capsys.readouterr().err == "error: twice\n" * 2
    assert not report_lost_process(RuntimeError("Connection closed by peer"))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("DataLoader worker (pid 4369) is killed by signal: Killed. ", "is killed by signal: Killed; if memory"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...", "signal: Bus error; if"),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "a process that loads data exited unexpectedly; if"),
    ],
)
def test_a_lost_loading_process_is_one_line(capsys, message, said):
    """These are torch's words; the script's own test kills a real one."""
    assert report_lost_process(RuntimeError(message))
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and "--dataloader_num_workers" in line


def test_other_errors_are_not_taken_for_a_lost_process(capsys):
    for error in (RuntimeError("shapes do not fit"), ValueError("DataLoader worker (pid 7) exited unexpectedly")):
        assert not report_lost_process(error)
    assert capsys.readouterr().err == ""

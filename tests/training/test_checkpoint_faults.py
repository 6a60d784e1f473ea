"""Checkpoints on real disks that fail, and in real processes that are killed."""

import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from support.small_disk import can_mount, in_child, mount_small_disk, remount_read_only
from support.tiny_training import make, names, train
from torch import nn

from segzoo import SegZooError
from segzoo.files import remove_abandoned
from segzoo.training import find_checkpoint, load_checkpoint, remove_old_checkpoints, save_checkpoint
from segzoo.training.checkpoints import (
    read_record,
    resume_checkpoint,
)

resource = pytest.importorskip("resource")  # not on Windows, which cannot fork either
small_disk = pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
MEMORY = {"note": "late", "nested": {"loss": [0.1, 1e-300]}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints of one training, and how it went on after the second."""
    directory = tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    accelerator, *parts = make()
    train(*parts, 2)
    save_checkpoint(accelerator, directory, 2, {"note": "early"})
    train(*parts, 2)
    save_checkpoint(accelerator, directory, 10, MEMORY)
    return directory, train(*parts, 3)


@pytest.fixture
def two_checkpoints(written, tmp_path):
    return shutil.copytree(written[0], tmp_path, dirs_exist_ok=True), written[1]


def attempt(accelerator, directory, step):
    try:
        save_checkpoint(accelerator, directory, step, {})
    except SegZooError as error:
        return str(error)
    return None


def whole(directory):
    """Whole checkpoints, and that there is nothing else."""
    left = [path.name for path in directory.iterdir() if path.name.startswith((".", "step"))]
    for name in left:
        read_record(directory / name)
    return sorted(left)


@small_disk
@pytest.mark.parametrize(
    ("room", "folder"), [(0, "out"), (3_000, "out"), (400_000, "out"), (810_000, "out"), (1_000_000, "außen")]
)
def test_a_full_disk_leaves_the_earlier_checkpoint_whole(tmp_path, room, folder):
    """Wherever the space ends: in the weights, in the optimizer, in the small files between and at the end."""
    tmp_path = tmp_path / folder  # torch writes differently where a path is not ASCII
    tmp_path.mkdir()

    def scenario():
        mount_small_disk(tmp_path, "8m")
        accelerator = Accelerator(cpu=True)
        accelerator.free_memory()
        model = nn.Linear(50_000, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model, optimizer = accelerator.prepare(model, optimizer)  # a checkpoint is twice 0.8 MB
        model(torch.rand(1, 50_000)).sum().backward()
        optimizer.step()
        first = attempt(accelerator, tmp_path, 1)
        free = shutil.disk_usage(tmp_path).free
        (tmp_path / "filler").write_bytes(bytes(max(0, free - room)))
        second = attempt(accelerator, tmp_path, 2)
        again = attempt(accelerator, tmp_path, 1)  # the same step must not lose what it replaces either
        left = whole(tmp_path)
        (tmp_path / "filler").unlink()
        return first, second, again, left, attempt(accelerator, tmp_path, 2), whole(tmp_path)

    first, second, again, left, third, at_last = in_child(scenario)
    assert first is None and left == ["step_1"]
    for line, step in ((second, 2), (again, 1)):
        assert f"step_{step}: could not be written (" in line and "No space left on device" in line
        assert "--resume_from_checkpoint latest" in line and "\n" not in line
    assert third is None and at_last == ["step_1", "step_2"]


def test_a_limit_on_file_sizes_leaves_the_earlier_checkpoint_whole(tmp_path):
    """What a quota does, where nothing can be mounted."""

    def scenario():
        accelerator, *_ = make()
        first = attempt(accelerator, tmp_path, 1)
        accelerator.free_memory()
        accelerator.prepare(torch.nn.Linear(50_000, 4))
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        return first, attempt(accelerator, tmp_path, 2), whole(tmp_path)

    first, second, left = in_child(scenario)
    assert first is None and left == ["step_1"]
    assert "File too large" in second and "\n" not in second


@small_disk
def test_a_disk_that_turns_read_only(tmp_path):
    def scenario():
        mount_small_disk(tmp_path, "8m")
        accelerator, *_ = make()
        messages = [attempt(accelerator, tmp_path, 1)]
        remount_read_only(tmp_path)
        messages += [attempt(accelerator, tmp_path, 2), attempt(accelerator, tmp_path, 1)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            shutil.rmtree(tmp_path / "no such folder", ignore_errors=True)
            remove_old_checkpoints(tmp_path, 1)
        return messages, whole(tmp_path), [str(warning.message) for warning in caught]

    messages, left, caught = in_child(scenario)
    assert messages[0] is None and left == ["step_1"] and caught == []
    assert all("could not be written (Read-only file system)" in message for message in messages[1:])


@small_disk
def test_old_checkpoints_that_cannot_be_removed_are_a_warning(tmp_path):
    def scenario():
        mount_small_disk(tmp_path, "8m")
        accelerator, *_ = make()
        for step in (1, 2):
            save_checkpoint(accelerator, tmp_path, step, {})
        remount_read_only(tmp_path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            remove_old_checkpoints(tmp_path, 1)
        return whole(tmp_path), [str(warning.message) for warning in caught]

    left, caught = in_child(scenario)
    assert left == ["step_1", "step_2"] and len(caught) == 1
    assert "step_1: the old checkpoint could not be removed (Read-only file system)" in caught[0]


def test_a_folder_that_nobody_may_write(tmp_path):
    """Root may write everywhere, so the child becomes nobody."""

    def scenario():
        accelerator, *_ = make()
        save_checkpoint(accelerator, tmp_path / "out", 1, {})
        for folder in (tmp_path, tmp_path / "out"):
            folder.chmod(0o755)
        (tmp_path / "out").chmod(0o555)
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return attempt(accelerator, tmp_path / "out", 2), attempt(accelerator, tmp_path / "out", 1)

    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/") and "pytest" in str(parent):
            parent.chmod(0o755)
    for line in in_child(scenario):
        assert "could not be written (Permission denied)" in line and "\n" not in line
    assert whole(tmp_path / "out") == ["step_1"]


def test_a_folder_that_vanishes_between_checkpoints_is_made_anew(tmp_path):
    accelerator, *_ = make()
    save_checkpoint(accelerator, tmp_path / "out", 1, {})
    shutil.rmtree(tmp_path / "out")
    save_checkpoint(accelerator, tmp_path / "out", 2, {})
    assert whole(tmp_path / "out") == ["step_2"]
    remove_old_checkpoints(tmp_path / "elsewhere", 1)


def test_a_folder_that_vanishes_while_it_is_written(tmp_path):
    accelerator, *_ = make(on_save=lambda: shutil.rmtree(tmp_path / "out"))
    message = attempt(accelerator, tmp_path / "out", 1)
    assert "step_1: could not be written (" in message and "No such file or directory" in message
    assert not (tmp_path / "out").exists()


def test_any_other_error_while_writing_is_not_hidden_and_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("a bug")

    accelerator, *_ = make(on_save=fail)
    with pytest.raises(RuntimeError, match="a bug"):
        save_checkpoint(accelerator, tmp_path, 1, {})
    assert names(tmp_path) == []


# Killed with -9


def killed_while(action, moment, timeout=120):
    """Fork, run the action, and kill it with -9 as soon as ``moment()`` is true."""
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)  # OpenMP does not survive a fork
            action()
        finally:
            os._exit(0)
    deadline = time.monotonic() + timeout
    try:
        while not moment():
            time.sleep(0.0005)
            assert time.monotonic() < deadline, "the moment never came"
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended by itself"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("step", "file"), [(11, "model.safetensors"), (11, "custom_checkpoint_0.pkl"), (10, "optimizer.bin")]
)
def test_killed_while_a_checkpoint_is_written(two_checkpoints, step, file):
    """``step`` 10 is there already and whole: whenever the kill comes, the old one or the new one is."""
    directory, expected = two_checkpoints

    def save():
        accelerator, *_ = make(on_save=lambda: time.sleep(30) if file.startswith("custom") else None)
        load_checkpoint(accelerator, directory / "step_10")
        while True:
            save_checkpoint(accelerator, directory, step, MEMORY)
            shutil.rmtree(directory / "step_11", ignore_errors=True)

    killed_while(save, lambda: list(directory.glob(f".step_{step}.partial-*/{file}")))
    remove_abandoned(directory)
    assert [name for name in names(directory) if name != "step_11"] == ["step_10", "step_2"]
    torch.manual_seed(99)
    accelerator, *parts = make()
    assert resume_checkpoint(accelerator, directory, "latest").memory["note"] == "late"
    assert train(*parts, 3) == expected


def test_killed_between_the_two_renames_of_a_replacement(two_checkpoints):
    directory, _ = two_checkpoints
    (directory / "step_10").rename(directory / ".step_10.replaced")
    remove_abandoned(directory)
    assert find_checkpoint(directory, "latest").name == "step_10"
    shutil.copytree(directory / "step_2", directory / ".step_10.replaced")  # killed after the second one
    remove_abandoned(directory)
    assert names(directory) == ["step_10", "step_2"] and read_record(directory / "step_10")["step"] == 10


def test_what_a_living_process_writes_is_no_leftover(two_checkpoints):
    directory, _ = two_checkpoints

    def save():
        accelerator, *_ = make(on_save=lambda: time.sleep(30))
        save_checkpoint(accelerator, directory, 12, {})

    pattern = ".step_12.partial-*"

    def look():
        if not list(directory.glob(f"{pattern}/random_states_0.pkl")):
            return False
        remove_abandoned(directory)
        return len(list(directory.glob(pattern))) == 1

    killed_while(save, look)
    assert len(list(directory.glob(pattern))) == 1
    remove_abandoned(directory)
    assert names(directory) == ["step_10", "step_2"]


@pytest.mark.slow
def test_killed_at_random_again_and_again(tmp_path):
    """A training that only saves: 60 kills, and after each the last whole checkpoint is at most one save behind."""
    import random

    def save_for_ever():
        accelerator, *_ = make()
        remove_abandoned(tmp_path)
        start = find_checkpoint(tmp_path, "latest")
        step = 0 if start is None else load_checkpoint(accelerator, start)[0]
        while True:
            step += 1
            (tmp_path / "begun").write_text(str(step))
            save_checkpoint(accelerator, tmp_path, step, {})
            (tmp_path / "done").write_text(str(step))
            remove_old_checkpoints(tmp_path, 2)

    generator = random.Random(0)
    for _ in range(60):
        end = time.monotonic() + generator.uniform(0.05, 0.5)
        before = (tmp_path / "begun").read_text() if (tmp_path / "begun").exists() else ""

        def moment(end=end, before=before):
            return (
                time.monotonic() > end and (tmp_path / "begun").exists() and (tmp_path / "begun").read_text() != before
            )

        killed_while(save_for_ever, moment)
        remove_abandoned(tmp_path)
        done, begun = (
            (tmp_path / name).read_text() if (tmp_path / name).exists() else "0" for name in ("done", "begun")
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing half is ever seen
            found = find_checkpoint(tmp_path, "latest")
        step = 0 if found is None else int(found.name[5:])
        assert int(done or begun) <= step + 1 and step <= int(begun or step)

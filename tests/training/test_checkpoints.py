import json
import os
import pickle
import resource
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from support.small_disk import can_mount, in_child, mount_small_disk, remount_read_only
from torch import nn

from segzoo import SegZooError
from segzoo.training import find_checkpoint, load_checkpoint, remove_old_checkpoints, save_checkpoint
from segzoo.training.checkpoints import (
    RECORD,
    list_checkpoints,
    list_left_checkpoints,
    read_record,
    remove_leftovers,
    resume_checkpoint,
)

small_disk = pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")


class Average:
    """Something registered for checkpoints, as a weight average is; ``on_save`` happens in the middle of writing."""

    def __init__(self, on_save=None):
        self.values, self.on_save = torch.zeros(3), on_save

    def state_dict(self):
        if self.on_save is not None:
            self.on_save()
        return {"values": self.values}

    def load_state_dict(self, state):
        self.values = state["values"]


def make(width=3, on_save=None):
    accelerator = Accelerator(cpu=True)
    accelerator.free_memory()
    model = nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    average = Average(on_save)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule, average)
    return accelerator, model, optimizer, schedule, average


def train(model, optimizer, schedule, average, steps):
    losses = []
    for _ in range(steps):
        loss = model(torch.rand(5, 3)).square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.values += loss.detach()
        losses.append((loss.item(), average.values.tolist(), schedule.get_last_lr()))
    return losses


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def damage(folder, file="model.safetensors"):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints of one training, how it went on after the second, and five of another."""
    two, five = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("five")
    torch.manual_seed(0)
    accelerator, *parts = make()
    train(*parts, 2)
    save_checkpoint(accelerator, two, 2, {"note": "early"})
    train(*parts, 2)
    save_checkpoint(accelerator, two, 10, {"note": "late", "nested": {"loss": [0.1, 1e-300]}})
    after = train(*parts, 3)
    for step in (1, 2, 3, 4, 5):
        save_checkpoint(accelerator, five, step, {})
    return two, after, five


@pytest.fixture
def two_checkpoints(written, tmp_path):
    return shutil.copytree(written[0], tmp_path, dirs_exist_ok=True), written[1]


def test_training_goes_on_to_the_last_bit(two_checkpoints):
    directory, expected = two_checkpoints
    torch.manual_seed(99)
    accelerator, *parts = make()
    resumed = resume_checkpoint(accelerator, directory, "latest")
    assert resumed == (directory / "step_10", 10, {"note": "late", "nested": {"loss": [0.1, 1e-300]}})
    assert train(*parts, 3) == expected


def test_one_checkpoint_loads_by_its_path(two_checkpoints):
    directory, _ = two_checkpoints
    accelerator, *_ = make()
    assert load_checkpoint(accelerator, directory / "step_2") == (2, {"note": "early"})
    assert resume_checkpoint(accelerator, directory / "nothing", "latest") is None


def test_nothing_half_written_is_left_and_files_are_listed(two_checkpoints):
    directory, _ = two_checkpoints
    assert names(directory) == ["step_10", "step_2"]
    record = json.loads((directory / "step_10" / RECORD).read_text())
    assert set(record["files"]) == set(names(directory / "step_10")) - {RECORD}
    assert {"optimizer.bin", "random_states_0.pkl", "memory.json", "custom_checkpoint_1.pkl"} <= set(record["files"])


def test_a_folder_without_record_is_skipped(two_checkpoints):
    directory, _ = two_checkpoints
    (directory / "step_11").mkdir()
    (directory / ".step_12.partial-00").mkdir()
    with pytest.warns(UserWarning, match="step_11"):
        assert find_checkpoint(directory, "latest").name == "step_10"


@pytest.mark.parametrize("file", ["model.safetensors", "memory.json", "random_states_0.pkl"])
@pytest.mark.parametrize("kind", ["truncated", "changed", "missing"])
def test_damage_is_noticed(two_checkpoints, kind, file):
    directory, _ = two_checkpoints
    path = directory / "step_10" / file
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        damage(path.parent, file)
    words = {"truncated": "bytes instead of", "changed": "has changed since it was written", "missing": "missing"}[
        kind
    ]
    with pytest.raises(SegZooError, match=f"{file}.*{words}"):
        find_checkpoint(directory, "step_10")
    with pytest.warns(UserWarning, match=f"skipped a damaged checkpoint.*{file}"):
        assert find_checkpoint(directory, "latest").name == "step_2"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', '{"step": 10, "files": {}}', "\0" * 50])
def test_a_damaged_record(two_checkpoints, content):
    directory, _ = two_checkpoints
    (directory / "step_10" / RECORD).write_text(content)
    with pytest.warns(UserWarning, match="checkpoint.json.*damaged"):
        assert find_checkpoint(directory, "latest").name == "step_2"


def test_a_checkpoint_under_another_name_is_not_taken(two_checkpoints):
    directory, _ = two_checkpoints
    shutil.copytree(directory / "step_2", directory / "step_30")
    with pytest.warns(UserWarning, match="step_30.*about step 2"):
        assert find_checkpoint(directory, "latest").name == "step_10"


def test_all_are_damaged(two_checkpoints):
    directory, _ = two_checkpoints
    for folder in list_checkpoints(directory):
        damage(folder)
    with pytest.warns(UserWarning), pytest.raises(SegZooError, match="none of the 2 checkpoints"):
        find_checkpoint(directory, "latest")


def test_which_checkpoint(two_checkpoints, tmp_path_factory):
    directory, _ = two_checkpoints
    assert find_checkpoint(directory, str(directory / "step_2")).name == "step_2"
    assert find_checkpoint(tmp_path_factory.mktemp("empty"), "latest") is None
    with pytest.raises(SegZooError, match="no checkpoint step_3"):
        find_checkpoint(directory, "step_3")
    with pytest.raises(SegZooError, match="is no whole checkpoint"):
        find_checkpoint(directory, str(directory))


def test_another_model(two_checkpoints):
    directory, _ = two_checkpoints
    accelerator, *_ = make(width=7)
    with pytest.raises(SegZooError, match="does not fit this model"):
        load_checkpoint(accelerator, directory / "step_2")


def test_other_registered_objects(two_checkpoints):
    directory, _ = two_checkpoints
    accelerator, *_ = make()
    accelerator.register_for_checkpointing(Average())
    with pytest.raises(SegZooError, match="does not fit.*Registered objects: 3"):
        load_checkpoint(accelerator, directory / "step_2")


def test_later_checkpoints_of_a_course_that_is_left_do_not_come_back(two_checkpoints):
    """Going on from step 2 on purpose must not resume from the old step 10 after the next kill."""
    directory, _ = two_checkpoints
    shutil.copytree(directory / "step_10", directory / "step_10.left-1")
    (directory / "step_11").mkdir()
    accelerator, *parts = make()
    with pytest.warns(UserWarning, match=r"step_10.*after step 2.*renamed to step_10\.left-2"):
        assert resume_checkpoint(accelerator, directory, "step_2").step == 2
    assert names(directory) == ["step_10.left-1", "step_10.left-2", "step_11", "step_2"]
    assert len(list_left_checkpoints(directory)) == 2
    train(*parts, 1)
    save_checkpoint(accelerator, directory, 3, {})
    remove_old_checkpoints(directory, 1)
    assert [folder.name for folder in list_checkpoints(directory)] == ["step_3", "step_11"]


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("file", ["custom_checkpoint_1.pkl", "optimizer.bin"])
def test_files_that_would_run_code_are_refused(two_checkpoints, monkeypatch, file):
    """Also where their hashes are right."""
    directory, _ = two_checkpoints
    monkeypatch.chdir(directory)
    torch.save({"values": Bomb()}, directory / "bomb")
    accelerator, *parts = make()
    train(*parts, 1)
    save_checkpoint(accelerator, directory, 20, {})
    rewrite(directory / "step_20", file, (directory / "bomb").read_bytes())
    with pytest.raises(SegZooError, match="does not fit"):
        load_checkpoint(accelerator, directory / "step_20")
    assert not (directory / "exploded").exists()
    torch.load(directory / "bomb", weights_only=False)
    assert (directory / "exploded").is_dir(), "the bomb is a real one"


def rewrite(folder, file, content):
    """Replace a file of a checkpoint and make the record fit."""
    import xxhash

    (folder / file).write_bytes(content)
    record = json.loads((folder / RECORD).read_text())
    record["files"][file] = {"bytes": len(content), "xxh3_128": xxhash.xxh3_128(content).hexdigest()}
    (folder / RECORD).write_text(json.dumps(record))


def test_random_numbers_that_cannot_be_restored_are_no_secret(two_checkpoints):
    """accelerate keeps it to itself."""
    directory, _ = two_checkpoints
    states = torch.load(directory / "step_10" / "random_states_0.pkl", weights_only=False)
    states["random_state"] = (3, (1, 2), None)
    torch.save(states, directory / "states")
    rewrite(directory / "step_10", "random_states_0.pkl", (directory / "states").read_bytes())
    accelerator, *_ = make()
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="random numbers could not be restored"):
        load_checkpoint(accelerator, directory / "step_10")


def test_another_number_of_processes_is_no_secret(two_checkpoints):
    directory, _ = two_checkpoints
    record = json.loads((directory / "step_10" / RECORD).read_text())
    (directory / "step_10" / RECORD).write_text(json.dumps(record | {"processes": 4}))
    accelerator, *_ = make()
    with pytest.warns(UserWarning, match="written by 4 process.* read by 1"):
        load_checkpoint(accelerator, directory / "step_10")


# Removing old ones


def test_old_checkpoints_go(two_checkpoints):
    directory, _ = two_checkpoints
    remove_old_checkpoints(directory, None)
    remove_old_checkpoints(directory, 2)
    assert len(list_checkpoints(directory)) == 2
    remove_old_checkpoints(directory, 1)
    assert names(directory) == ["step_10"]
    with pytest.raises(SegZooError, match="--save_total_limit is 0"):
        remove_old_checkpoints(directory, 0)


@pytest.fixture
def five_checkpoints(written, tmp_path):
    return shutil.copytree(written[2], tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("keep", "best", "damaged", "left"),
    [
        (1, None, (), [5]),
        (1, 2, (), [2, 5]),
        (1, 5, (), [5]),
        (2, 4, (), [4, 5]),
        (2, 1, (), [1, 4, 5]),
        (1, None, (5,), [4, 5]),
        (1, 1, (4, 5), [1, 3, 4, 5]),
        (2, None, (5, 3), [2, 3, 4, 5]),
        (1, None, (2, 3, 4, 5), [1, 2, 3, 4, 5]),
        (1, None, (1, 2, 3, 4, 5), [1, 2, 3, 4, 5]),
        (1, 7, (), [5]),
    ],
)
def test_the_last_whole_and_the_best_never_go(five_checkpoints, keep, best, damaged, left):
    for position, step in enumerate(damaged):
        folder = five_checkpoints / f"step_{step}"
        if position % 2:
            (folder / RECORD).unlink()
        else:
            (folder / "optimizer.bin").write_bytes(b"half")
    remove_old_checkpoints(five_checkpoints, keep, best)
    assert [int(folder.name[5:]) for folder in list_checkpoints(five_checkpoints)] == left
    assert not [name for name in names(five_checkpoints) if name.startswith(".")]


def test_changed_bytes_count_as_damage_when_the_newest_is_all_that_stays(five_checkpoints):
    damage(five_checkpoints / "step_5")
    remove_old_checkpoints(five_checkpoints, 1)
    assert names(five_checkpoints) == ["step_4", "step_5"]


# Disks that fail; real ones.


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
        if parent.stat().st_uid == os.getuid() and parent != Path("/") and "pytest" in parent.name:
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


def killed_while(action, moment, timeout=30):
    """Fork, run the action, and kill it with -9 as soon as ``moment()`` is true."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    deadline = time.monotonic() + timeout
    try:
        while not moment():
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
            save_checkpoint(accelerator, directory, step, {"note": "late", "nested": {"loss": [0.1, 1e-300]}})
            shutil.rmtree(directory / "step_11", ignore_errors=True)

    killed_while(save, lambda: list(directory.glob(f".step_{step}.partial-*/{file}")))
    remove_leftovers(directory)
    assert [name for name in names(directory) if name != "step_11"] == ["step_10", "step_2"]
    torch.manual_seed(99)
    accelerator, *parts = make()
    assert resume_checkpoint(accelerator, directory, "latest").memory["note"] == "late"
    assert train(*parts, 3) == expected


def test_killed_between_the_two_renames_of_a_replacement(two_checkpoints):
    directory, _ = two_checkpoints
    (directory / "step_10").rename(directory / ".step_10.replaced")
    remove_leftovers(directory)
    assert find_checkpoint(directory, "latest").name == "step_10"
    shutil.copytree(directory / "step_2", directory / ".step_10.replaced")  # killed after the second one
    remove_leftovers(directory)
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
        remove_leftovers(directory)
        return len(list(directory.glob(pattern))) == 1

    killed_while(save, look)
    assert len(list(directory.glob(pattern))) == 1
    remove_leftovers(directory)
    assert names(directory) == ["step_10", "step_2"]


@pytest.mark.slow
def test_killed_at_random_again_and_again(tmp_path):
    """A training that only saves: 60 kills, and after each the last whole checkpoint is at most one save behind."""
    import random

    def save_for_ever():
        accelerator, *_ = make()
        remove_leftovers(tmp_path)
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
        remove_leftovers(tmp_path)
        done, begun = (
            (tmp_path / name).read_text() if (tmp_path / name).exists() else "0" for name in ("done", "begun")
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing half is ever seen
            found = find_checkpoint(tmp_path, "latest")
        step = 0 if found is None else int(found.name[5:])
        assert int(done or begun) <= step + 1 and step <= int(begun or step)


def test_pickle_protocol_of_random_states_is_read_safely(two_checkpoints):
    """Nothing in a checkpoint needs more than weights_only allows, with numpy's arrays as accelerate lists them."""
    from accelerate.utils import load

    directory, _ = two_checkpoints
    for file in [*(directory / "step_10").glob("*.pkl"), *(directory / "step_10").glob("*.bin")]:
        try:
            load(file, weights_only=True)
        except pickle.UnpicklingError as error:
            pytest.fail(f"{file.name}: {error}")

import json
import os
import pickle
import shutil

import pytest
import torch
from support.small_disk import can_mount
from support.tiny_training import Average, damage, make, names, train

from segzoo import SegZooError
from segzoo.training import find_checkpoint, load_checkpoint, remove_old_checkpoints, save_checkpoint
from segzoo.training.checkpoints import (
    RECORD,
    add_to_memory,
    list_checkpoints,
    resume_checkpoint,
)

small_disk = pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")


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


def test_what_is_known_later_is_added_without_the_weights(two_checkpoints):
    directory, _ = two_checkpoints
    folder = directory / "step_10"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    add_to_memory(folder, {"note": "first"})
    add_to_memory(folder, {"note": "scored", "best": 0.5})
    accelerator, *_ = make()
    memory = {"note": "scored", "nested": {"loss": [0.1, 1e-300]}, "best": 0.5}
    assert load_checkpoint(accelerator, folder) == (10, memory)
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}


@pytest.mark.parametrize("content", ["", "[1]", '{"note": "sco', "\x00"])
def test_a_checkpoint_is_whole_without_what_was_added(two_checkpoints, content):
    directory, _ = two_checkpoints
    (directory / "step_2" / "scores.json").write_text(content)
    accelerator, *_ = make()
    assert load_checkpoint(accelerator, directory / "step_2") == (2, {"note": "early"})


def test_nothing_is_added_to_a_checkpoint_that_is_gone(tmp_path):
    with pytest.raises(SegZooError, match=r"step_3.scores.json: could not be written"):
        add_to_memory(tmp_path / "step_3", {})
    assert names(tmp_path) == []


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


def test_another_optimizer(two_checkpoints):
    directory, _ = two_checkpoints
    record = directory / "step_10" / RECORD
    for kind in (torch.optim.SGD, torch.optim.Adam):  # Adam has the same state, and calculates something else
        accelerator, *_ = make(optimizer=kind)
        words = (
            f"step_10: does not fit .*it holds the state of AdamW, and this training has {kind.__name__}.; resume with"
        )
        with pytest.raises(SegZooError, match=words):
            resume_checkpoint(accelerator, directory, "latest")
    values = json.loads(record.read_text())
    assert values.pop("optimizers") == ["AdamW"]  # as earlier versions wrote it
    record.write_text(json.dumps(values))
    accelerator, *_ = make(optimizer=torch.optim.SGD)
    with pytest.raises(SegZooError, match="step_10: does not fit .*its optimizer is another one than SGD"):
        resume_checkpoint(accelerator, directory, "latest")
    accelerator, *_ = make()
    assert resume_checkpoint(accelerator, directory, "latest").step == 10


def test_other_registered_objects(two_checkpoints):
    directory, _ = two_checkpoints
    accelerator, *_ = make()
    accelerator.register_for_checkpointing(Average())
    with pytest.raises(SegZooError, match="does not fit.*Registered objects: 3"):
        load_checkpoint(accelerator, directory / "step_2")


def test_a_course_that_has_whole_checkpoints_is_not_left_by_accident(two_checkpoints):
    directory, _ = two_checkpoints
    accelerator, *_ = make()
    with pytest.raises(SegZooError, match=r"step_10: lies after step 2.*latest.*--output_dir.*--overwrite_output_dir"):
        resume_checkpoint(accelerator, directory, "step_2")
    assert names(directory) == ["step_10", "step_2"]
    assert resume_checkpoint(accelerator, directory, "step_10").step == 10
    (directory / "other").mkdir()
    assert resume_checkpoint(accelerator, directory / "other", str(directory / "step_2")).step == 2


def test_later_checkpoints_of_a_course_that_is_left_do_not_come_back(two_checkpoints):
    """Going on from step 2 on purpose must not resume from the old step 10 after the next kill."""
    directory, _ = two_checkpoints
    (directory / "step_11").mkdir()
    accelerator, *parts = make()
    with pytest.warns(UserWarning, match=r"step_10.*after step 2.*removed"):
        assert resume_checkpoint(accelerator, directory, "step_2", overwrite=True).step == 2
    assert names(directory) == ["step_11", "step_2"]
    train(*parts, 1)
    save_checkpoint(accelerator, directory, 3, {})
    remove_old_checkpoints(directory, 1)
    assert [folder.name for folder in list_checkpoints(directory)] == ["step_3", "step_11"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_later_checkpoint_that_is_damaged_does_not_stand_in_the_way(two_checkpoints, overwrite):
    directory, _ = two_checkpoints
    damage(directory / "step_10")
    accelerator, *_ = make()
    with pytest.warns(UserWarning, match="skipped a damaged checkpoint"):
        assert resume_checkpoint(accelerator, directory, "latest", overwrite=overwrite).step == 2
    assert names(directory) == ["step_10", "step_2"]


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


def test_no_file_of_a_checkpoint_needs_to_run_code(two_checkpoints):
    """weights_only reads them all, with numpy's arrays as accelerate lists them."""
    from accelerate.utils import load

    directory, _ = two_checkpoints
    for file in [*(directory / "step_10").glob("*.pkl"), *(directory / "step_10").glob("*.bin")]:
        try:
            load(file, weights_only=True)
        except pickle.UnpicklingError as error:
            pytest.fail(f"{file.name}: {error}")

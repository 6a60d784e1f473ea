"""Claiming the output folder of a training; preparing and publishing are in test_progress_and_output.py."""

import os
import signal
import time
from functools import partial

import pytest
from support.small_disk import can_mount, in_child, mount_small_disk, remount_read_only

from segzoo import SegZooError
from segzoo.training import write_json
from segzoo.training.folder import claim_output_folder, prepare_output_folder, write_log

small_disk = pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def attempt(function, *arguments, **options):
    try:
        with function(*arguments, **options):
            return "claimed"
    except SegZooError as error:
        return str(error)


def test_a_folder_is_held_until_the_end_of_the_block(tmp_path):
    out = tmp_path / "out"
    with claim_output_folder(out) as claimed:
        assert claimed == out and names(out) == [".lock"]
        line = in_child(partial(attempt, claim_output_folder, out, overwrite=True))
        assert f"another training is writing there (process {os.getpid()} on " in line and "\n" not in line
    assert names(out) == []
    assert in_child(attempt, claim_output_folder, out) == "claimed"
    with pytest.raises(KeyError), claim_output_folder(out):
        raise KeyError
    assert names(out) == []


def test_a_claim_that_is_refused_leaves_the_others_work_alone(tmp_path):
    with claim_output_folder(tmp_path, overwrite=True):
        (tmp_path / "step_3").mkdir()
        (tmp_path / "config.json").write_text("{}")
        in_child(partial(attempt, claim_output_folder, tmp_path, overwrite=True))
        assert names(tmp_path) == [".lock", "config.json", "step_3"]


def test_a_killed_process_holds_nothing_though_its_children_live(tmp_path):
    """Loading processes outlive a killed training by some seconds."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with claim_output_folder(tmp_path):
            grandchild = os.fork()
            if grandchild == 0:
                time.sleep(60)
                os._exit(0)
            os.write(writer, str(grandchild).encode())
            time.sleep(60)
        os._exit(0)
    grandchild = int(os.read(reader, 20))
    try:
        assert "another training" in attempt(claim_output_folder, tmp_path)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert names(tmp_path) == [".lock"]
        with claim_output_folder(tmp_path):  # a lock file alone does not make a folder "not empty"
            pass
        assert names(tmp_path) == []
    finally:
        os.kill(grandchild, signal.SIGKILL)


@pytest.mark.parametrize(
    ("option", "left"), [("resume", ["config.json", "notes", "step_2", "step_4.left-1"]), ("overwrite", ["notes"])]
)
def test_leftovers_of_a_killed_training_go(tmp_path, option, left):
    for folder in ("step_2", ".step_6.partial-abcd", ".model", "..model.partial-12ab", "step_4.left-1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_text("half")
    for file in ("config.json", "notes", ".all_results.json.123.partial", ".training_log.jsonl.9.partial", ".lock"):
        (tmp_path / file).write_text("{}")
    with claim_output_folder(tmp_path, **{option: True}):
        assert names(tmp_path) == sorted([".lock", *left])


def test_a_file_or_a_full_folder_is_refused_without_a_trace(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in attempt(claim_output_folder, tmp_path / "file")
    assert "is not empty" in attempt(claim_output_folder, tmp_path)
    assert names(tmp_path) == ["file"]


@small_disk
def test_full_and_read_only_disks_are_one_line(tmp_path):
    def scenario():
        mount_small_disk(tmp_path, "1m")
        with open(tmp_path / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        (tmp_path / "results.json").touch()
        lines = []
        for write, values in ((write_json, {"a": [1.5] * 500}), (write_log, [{"step": 1}])):
            try:
                write(tmp_path / "results.json", values)
            except SegZooError as error:
                lines.append(str(error))
        lines.append(attempt(claim_output_folder, tmp_path, resume=True))
        left = names(tmp_path)
        remount_read_only(tmp_path)
        lines.append(attempt(claim_output_folder, tmp_path, resume=True))
        return lines, left

    lines, left = in_child(scenario)
    assert len(lines) == 4 and not [line for line in lines if "\n" in line]
    assert all("results.json: could not be written (No space left on device)" in line for line in lines[:2])
    assert lines[2] == "claimed" and left == ["filler", "results.json"]
    assert "cannot be made or written to (Read-only file system)" in lines[3]


def test_preparing_removes_what_a_killed_training_left(tmp_path):
    (tmp_path / ".step_1.partial-00").mkdir()
    prepare_output_folder(tmp_path, resume=True)
    assert names(tmp_path) == []

import json
import math
import os
import re
from functools import partial

import pytest
from support.small_disk import can_mount, in_child, mount_small_disk, remount_read_only

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.training import claim_output_folder, publish_model, write_json
from segzoo.training.folder import write_log

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


def test_a_lock_file_alone_does_not_make_a_folder_full(tmp_path):
    (tmp_path / ".lock").write_text("1 on a machine that is gone")
    with claim_output_folder(tmp_path):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "left"), [("resume", ["config.json", "notes", "step_2"]), ("overwrite", ["notes"])]
)
def test_leftovers_of_a_killed_training_go(tmp_path, option, left):
    for folder in ("step_2", ".step_6.partial-abcd", ".config.json.partial-12ab", ".config.json.earlier"):
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


def test_a_folder_is_refused_emptied_or_continued(tmp_path):
    target = tmp_path / "a" / "b"
    assert attempt(claim_output_folder, target) == "claimed"
    assert target.is_dir()
    (target / "step_3").mkdir()
    (target / "config.json").write_text("{}")
    (target / "notes.txt").write_text("mine")
    line = attempt(claim_output_folder, target)
    assert re.search("is not empty.*--overwrite_output_dir.*--resume_from_checkpoint", line)
    assert attempt(claim_output_folder, target, resume=True, overwrite=True) == "claimed"
    assert names(target) == ["config.json", "notes.txt", "step_3"]
    assert attempt(claim_output_folder, target, overwrite=True) == "claimed"
    assert names(target) == ["notes.txt"]


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    line = attempt(claim_output_folder, tmp_path / "out")
    assert "out: cannot be made or written to (Permission denied)" in line


def test_json_without_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [1.5, math.inf], "c": {"d": "é"}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5, None], "c": {"d": "é"}}


@pytest.fixture(scope="module")
def model():
    return SegZooForSemanticSegmentation(SegZooConfig.tiny())


MODEL_FILES = [
    "README.md",
    "config.json",
    "model.safetensors",
    "model.safetensors.sha256",
    "modeling_segzoo.py",
    "preprocessor_config.json",
]


def test_publishing_twice_replaces_the_model_and_leaves_the_rest(model, tmp_path):
    (tmp_path / "step_1").mkdir()
    (tmp_path / "model-00001-of-00002.safetensors").write_text("an old shard")
    for card in ("# card", "# another card"):
        publish_model(model, SegZooImageProcessor(), tmp_path, card)
    assert names(tmp_path) == sorted([*MODEL_FILES, "step_1"])
    assert (tmp_path / "README.md").read_text() == "# another card"
    SegZooForSemanticSegmentation.from_pretrained(tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()}
    assert len(modes) == 1, "the weights are as readable as the other files"


def test_a_model_without_card_takes_those_of_the_earlier_model_away(model, tmp_path):
    publish_model(model, SegZooImageProcessor(), tmp_path, "# card")
    for name in ("all_results.json", "report.html", "training_log.jsonl"):
        (tmp_path / name).write_text("{}")
    publish_model(model, SegZooImageProcessor(), tmp_path)
    assert names(tmp_path) == sorted([*MODEL_FILES[1:], "training_log.jsonl"])


@small_disk
def test_publishing_on_a_full_disk_leaves_the_earlier_model(model, tmp_path):
    def scenario():
        mount_small_disk(tmp_path, "20m")
        publish_model(model, SegZooImageProcessor(), tmp_path, "# card")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with open(tmp_path / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        before["filler"] = (tmp_path / "filler").read_bytes()
        with pytest.raises(SegZooError) as raised:
            publish_model(model, SegZooImageProcessor(), tmp_path, "# another card")
        return str(raised.value), before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    message, unchanged = in_child(scenario)
    assert unchanged and "could not be written" in message and "\n" not in message

import io
import json
import math

import pytest

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.progress import Progress, duration
from segzoo.training import prepare_output_folder, publish_model, write_json


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line_says_how_it_goes():
    stream = io.StringIO()
    progress = Progress(100, stream=stream)
    for _ in range(10):
        progress.step(4)
    entry = progress.report(10, 0.51234, 0.001)
    assert entry["step"] == 10 and entry["images_per_second"] > 0
    line = stream.getvalue()
    assert line.startswith("step 10/100  loss 0.5123  lr 1.00e-03  ") and line.endswith(" left\n")


def test_on_a_terminal_the_line_stays_in_place_and_messages_get_their_own():
    stream = Terminal()
    progress = Progress(9, stream=stream)
    progress.step(1)
    progress.report(1, 1.0, 0.1)
    progress.message("scored")
    assert stream.getvalue().startswith("\rstep 1/9") and stream.getvalue().endswith(" left\nscored\n")


def test_other_processes_say_nothing():
    stream = io.StringIO()
    progress = Progress(9, enabled=False, stream=stream)
    progress.step(1)
    progress.report(1, 1.0, 0.1)
    progress.message("scored")
    assert stream.getvalue() == ""


def test_duration():
    assert [duration(s) for s in (3, 125, 11240, 187000)] == ["3s", "2m05s", "3h07m", "2d03h"]


def test_an_output_folder_is_refused_emptied_or_continued(tmp_path):
    target = prepare_output_folder(tmp_path / "a" / "b")
    assert target.is_dir()
    (target / "step_3").mkdir()
    (target / "config.json").write_text("{}")
    (target / "notes.txt").write_text("mine")
    with pytest.raises(SegZooError, match="is not empty.*--overwrite_output_dir.*--resume_from_checkpoint"):
        prepare_output_folder(target)
    prepare_output_folder(target, resume=True)
    assert (target / "step_3").is_dir()
    prepare_output_folder(target, overwrite=True)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    with pytest.raises(SegZooError, match="is a file"):
        prepare_output_folder(target / "notes.txt")


def test_an_output_folder_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(SegZooError, match=r"out: cannot be made or written to \(Permission denied\)"):
        prepare_output_folder(tmp_path / "out")


def test_json_without_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [1.5, math.inf], "c": {"d": "é"}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5, None], "c": {"d": "é"}}


def test_publishing_twice_replaces_the_model_and_leaves_the_rest(tmp_path):
    (tmp_path / "step_1").mkdir()
    (tmp_path / "model-00001-of-00002.safetensors").write_text("an old shard")
    processor = SegZooImageProcessor()
    for _ in range(2):
        publish_model(SegZooForSemanticSegmentation(SegZooConfig.tiny()), processor, tmp_path, "# card")
    names = {path.name for path in tmp_path.iterdir()}
    expected = {"README.md", "config.json", "model.safetensors", "modeling_segzoo.py", "preprocessor_config.json"}
    assert names == expected | {"step_1"}
    SegZooForSemanticSegmentation.from_pretrained(tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()}
    assert len(modes) == 1, "the weights are as readable as the other files"

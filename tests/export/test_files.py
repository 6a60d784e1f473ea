"""What lies in the folder after exports that ended well, that failed and that were killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segzoo.errors import SegZooError
from segzoo.export.files import aside


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "a folder" for path in folder.iterdir()}


def export(target: Path, *names: str, overwrite: bool = True) -> None:
    with aside(target, overwrite=overwrite) as partial:
        for name in (target.name, *names):
            partial.with_name(name).write_text(f"new {name}")


def test_all_files_are_replaced(tmp_path):
    for name in ("model.onnx", "model.onnx.data", "another.onnx.data"):
        (tmp_path / name).write_text(f"old {name}")
    export(tmp_path / "model.onnx", "model.onnx.data")
    kept = {"another.onnx.data": "old another.onnx.data"}
    assert contents(tmp_path) == kept | {n: f"new {n}" for n in ("model.onnx", "model.onnx.data")}
    export(tmp_path / "model.onnx")  # the weights of the graph before it belong to nothing any more
    assert contents(tmp_path) == kept | {"model.onnx": "new model.onnx"}


def test_files_that_are_not_of_an_earlier_export_stay(tmp_path):
    (tmp_path / "model.onnx.data").write_text("mine")
    export(tmp_path / "model.onnx", overwrite=False)
    assert contents(tmp_path) == {"model.onnx.data": "mine", "model.onnx": "new model.onnx"}
    before = contents(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(SegZooError, match=r"model.onnx.data: the file exists already"):
        export(tmp_path / "model.onnx", "model.onnx.data", overwrite=False)
    del before["model.onnx"]
    assert contents(tmp_path) == before
    (tmp_path / "model.pt2").write_text("old")
    (tmp_path / "model.pt2.data").write_text("mine")
    export(tmp_path / "model.pt2")
    assert contents(tmp_path)["model.pt2.data"] == "mine"


def test_a_failed_move_puts_the_earlier_files_back(tmp_path):
    before = {"model.onnx": "the old graph", "model.onnx.a": "old weights"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "model.onnx.data").mkdir()  # a file cannot be moved there
    with pytest.raises(SegZooError, match=r"could not be written \(.+\); what was there before is unchanged"):
        export(tmp_path / "model.onnx", "model.onnx.data", "model.onnx.a")
    assert contents(tmp_path) == before | {"model.onnx.data": "a folder"}


def test_files_that_cannot_be_put_back_are_kept_and_named(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_text("the old graph")
    (tmp_path / "model.onnx.data").mkdir()
    replace, calls = os.replace, []

    def out_of_order(source, place):  # the disk fails after the first move
        calls.append(source)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        replace(source, place)

    monkeypatch.setattr(os, "replace", out_of_order)
    with pytest.raises(SegZooError, match="the earlier files are in .+, move them back") as raised:
        export(tmp_path / "model.onnx", "model.onnx.data")
    (kept,) = tmp_path.glob(".model.onnx.earlier-*")
    assert str(kept) in str(raised.value) and contents(kept) == {"model.onnx": "the old graph"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [kept.name, "model.onnx.data"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders are locked on POSIX systems only")
def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    target = tmp_path / "model.onnx"
    code = (
        "import sys, time, pathlib\nfrom segzoo.export.files import aside\n"
        "with aside(pathlib.Path(sys.argv[1]), overwrite=True) as partial:\n"
        "    partial.write_text('half')\n    print('there', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        export(target)  # the other one lives: its folder is not touched
        (running,) = tmp_path.glob(".model.onnx.partial-*")
        assert contents(running) == {"model.onnx": "half"}
        process.send_signal(signal.SIGKILL)
    assert running.is_dir()
    export(target)
    assert contents(tmp_path) == {"model.onnx": "new model.onnx"}

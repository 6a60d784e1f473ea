"""Scores that outlive their process: what is read back, what is an error, and who may write."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from segzoo.errors import SegZooError
from segzoo.evaluation import score_log
from segzoo.evaluation.score_log import ImageRow, ScoreLog, differences
from segzoo.files import LOCK

IDENTITY = {"model": "abc", "window_size": (512, 512), "scales": (1.0,), "flip": False}
RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 2**40, (10, 3, 3))
ROWS = [ImageRow(i, f"ü{i}.png", float(RNG.random()), float(RNG.random()), 100 + i) for i in range(10)]
ROWS[4] = ImageRow(4, "empty.png", float("nan"), float("nan"), 0)


def open_log(folder, identity=IDENTITY, **options):
    return ScoreLog(folder, identity, num_images=10, num_labels=3, **{"seconds": 0} | options)


def add(log, *indices):
    for index in indices:
        log.add(ROWS[index], COUNTS[index])


def assert_holds(log, indices):
    assert sorted(log.done) == sorted(indices)
    np.testing.assert_array_equal(log.earlier_confusion.matrix.numpy(), COUNTS[list(indices)].sum(0))
    for index in indices:
        np.testing.assert_equal(vars(log.earlier[index]), vars(ROWS[index]))  # NaN included


def test_runs_add_up_whatever_the_number_of_processes(tmp_path):
    with open_log(tmp_path / "s") as log:
        assert_holds(log, [])
        add(log, 0, 3)
    with open_log(tmp_path / "s") as first, open_log(tmp_path / "s", process_index=1) as second:
        assert first.path != second.path
        for log in (first, second):
            assert_holds(log, [0, 3])
        add(first, 1, 4)
        add(second, 2)
    with open_log(tmp_path / "s") as log:
        assert_holds(log, [0, 3, 1, 4, 2])
        add(log, 5, 6, 7, 8, 9)
        assert [row.index for row in log.collect()] == list(range(10))
    assert len(list((tmp_path / "s").iterdir())) == 4


def test_other_processes_of_the_same_run_are_collected(tmp_path):
    with open_log(tmp_path / "s") as first, open_log(tmp_path / "s", process_index=1) as second:
        add(first, 0, 2)
        add(second, 1)
        assert [row.index for row in first.collect()] == [0, 1, 2]


def test_only_whole_batches_count(tmp_path):
    with open_log(tmp_path / "s", batch_size=4) as log:
        add(log, 0, 1, 2, 8, 9, 4)  # the last batch is 8 and 9
    with open_log(tmp_path / "s", batch_size=4) as log:
        assert_holds(log, [8, 9])
        add(log, 0, 1, 2, 3)
    with open_log(tmp_path / "s", batch_size=4) as log:
        assert_holds(log, [8, 9, 0, 1, 2, 3])


def test_other_settings_are_named_and_refused(tmp_path):
    with open_log(tmp_path / "s") as log:
        add(log, 0)
    changed = IDENTITY | {"flip": True, "window_size": None}
    with pytest.raises(
        SegZooError, match=r"window_size was \[512, 512\], is null; flip was false, is true.*--overwrite"
    ):
        open_log(tmp_path / "s", changed)
    with open_log(tmp_path / "s", changed, start_anew=True) as log:
        assert_holds(log, [])
        add(log, 5)
    with open_log(tmp_path / "s", changed) as log:
        assert_holds(log, [5])


def test_a_damaged_file_is_left_out(tmp_path):
    with open_log(tmp_path / "s") as log:
        add(log, 0)
    with open_log(tmp_path / "s") as log:
        add(log, 1)
        whole = log.path
    (tmp_path / "s" / "scores_0003_0000.json").write_text(whole.read_text()[:-20])
    (tmp_path / "s" / "scores_0004_0000.json").write_text(whole.read_text())  # the same image twice
    other = json.loads(whole.read_text()) | {"confusion": [[1]], "images": []}
    (tmp_path / "s" / "scores_0005_0000.json").write_text(json.dumps(other))
    with open_log(tmp_path / "s") as log:
        assert_holds(log, [0, 1])
        assert [int(file.stem[7:11]) for file in log.unreadable] == [3, 4, 5]
        assert "0006" in log.path.name


def test_writing_now_and_then(tmp_path):
    with open_log(tmp_path / "s", seconds=1000) as log:
        add(log, 0)
        assert not log.path.exists()
        log.save()
        stamp = log.path.stat().st_mtime_ns
        log.save()
        assert log.path.stat().st_mtime_ns == stamp, "nothing new, nothing written"
        add(log, 1)
    assert len(json.loads(log.path.read_text())["images"]) == 2


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    with open_log(tmp_path / "s") as log:
        add(log, 0)
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            add(log, 1)
        monkeypatch.undo()
        assert {p.name for p in (tmp_path / "s").iterdir()} == {log.path.name, LOCK}
        assert len(json.loads(log.path.read_text())["images"]) == 1


def hold(folder, ready):
    with open_log(folder) as log:
        add(log, 0)
        ready.set()
        time.sleep(60)


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_one_evaluation_at_a_time_and_none_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(score_log, "_LOCK_SECONDS", 0.0)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "s", ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(SegZooError, match="another evaluation is running there"):
        open_log(tmp_path / "s")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with open_log(tmp_path / "s") as log:
        assert_holds(log, [0])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegZooError, match="cannot be made"):
        open_log(tmp_path / "file" / "s")


def test_differences():
    assert differences({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 2]}) == []
    assert differences({"a": 1}, {"b": "x" * 100}) == ["a was 1, is null", f"b was null, is {'x' * 57}..."]

"""The content of a folder after writing that succeeded, failed or was killed, and who may have the folder."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
from support.small_disk import can_mount, in_child, mount_small_disk

import segzoo
from segzoo.errors import SegZooError
from segzoo.files import (
    LOCK,
    FolderInUse,
    lock,
    moved_together,
    remove_abandoned,
    remove_folder,
    sha256_of,
    whole_folder,
    write_whole,
)

small_disk = pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
posix = pytest.mark.skipif(os.name != "posix", reason="locks and signals of POSIX")

# segzoo without the models, which take seconds to import; `call` kills the process at the nth call of a function of os.
PROGRAM = f"""
import os, signal, sys, types
sys.modules["segzoo"] = types.ModuleType("segzoo")
sys.modules["segzoo"].__path__ = [{str(Path(segzoo.__file__).parent)!r}]
from pathlib import Path
from segzoo.files import *
from segzoo.files.locks import locked

def kill_at(number, *names):
    count = 0
    def replaced(function):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    for name in names:
        setattr(os, name, replaced(getattr(os, name)))

def wait():
    print("there", flush=True)
    sys.stdin.readline()

def wait_before_lock(number):
    import fcntl
    flock, count = fcntl.flock, 0
    def call(*arguments):
        nonlocal count
        count += 1
        if count == number:
            wait()
        return flock(*arguments)
    fcntl.flock = call

os.chdir(sys.argv[1])
"""


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "a folder" for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(folder: Path, code: str) -> int:
    """The exit code of a program that runs in a folder."""
    return subprocess.run([sys.executable, "-c", PROGRAM + code, str(folder)], timeout=60).returncode


@contextlib.contextmanager
def running(folder: Path, code: str):
    """A program that has come to `wait`; it is killed at the end of the block."""
    command = [sys.executable, "-c", PROGRAM + code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def finish(process: subprocess.Popen) -> None:
    """Let a program go on that has come to `wait`, to its end."""
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def fill_disk(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(4096))


# --- one file ---


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file.txt"
    for content, expected in (("é\n", "é\n"), (b"bytes", "bytes"), (lambda file: file.write(b"called"), "called")):
        assert write_whole(path, content) == path
        assert contents(tmp_path) == {"file.txt": expected}
    with pytest.raises(KeyError):
        write_whole(path, lambda file: {}["none"])
    assert contents(tmp_path) == {"file.txt": "called"}


@small_disk
def test_a_full_disk_leaves_the_earlier_file(tmp_path):
    def scenario():
        mount_small_disk(tmp_path, "1m")
        write_whole(tmp_path / "file.txt", "old")
        fill_disk(tmp_path)
        with pytest.raises(OSError, match="No space"):
            write_whole(tmp_path / "file.txt", "n" * 100_000)
        return names(tmp_path), (tmp_path / "file.txt").read_text()

    assert in_child(scenario) == (["file.txt", "filler"], "old")


@posix
def test_a_killed_write_leaves_the_earlier_file_and_what_is_cleared_away(tmp_path):
    write_whole(tmp_path / "file.txt", "old")
    with running(tmp_path, "write_whole('file.txt', lambda file: (file.write(b'new'), file.flush(), wait()))"):
        remove_abandoned(tmp_path)
        assert len(names(tmp_path)) == 2, "it is being written"
    assert len(names(tmp_path)) == 2
    remove_abandoned(tmp_path)
    assert contents(tmp_path) == {"file.txt": "old"}


def test_sha256_of(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


# --- one folder; more in test_hub.py ---


def test_a_folder_that_holds_something_is_replaced_only_where_that_is_asked_for(tmp_path):
    for text in ("old", "new"):
        with whole_folder(tmp_path / "out", replace=True) as folder:
            (folder / "file").write_text(text)
            (folder / text).write_text("")
    assert names(tmp_path) == ["out"] and contents(tmp_path / "out") == {"file": "new", "new": ""}
    with pytest.raises(SegZooError, match="not empty"), whole_folder(tmp_path / "out"):
        pytest.fail("the block must not begin")
    with pytest.raises(SegZooError, match="is not a folder"), whole_folder(tmp_path / "out" / "file", replace=True):
        pytest.fail("the block must not begin")
    with pytest.raises(KeyError), whole_folder(tmp_path / "out", replace=True) as folder:
        (folder / "file").write_text("newer")
        raise KeyError
    assert names(tmp_path) == ["out"] and contents(tmp_path / "out") == {"file": "new", "new": ""}


@pytest.fixture
def empty(tmp_path):
    """An empty folder that is there already."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def write_model(out):
    with whole_folder(out) as folder:
        for name in ("config.json", "a", "z"):
            (folder / name).write_text(name)


def is_model(out):
    return contents(out) == {name: name for name in ("config.json", "a", "z")} and names(out.parent) == [out.name]


@pytest.mark.parametrize("place", ["out", ".", "inside/.."])
def test_an_empty_folder_stays_the_same_one(tmp_path, empty, place, monkeypatch):
    before = empty.stat().st_ino
    monkeypatch.chdir(tmp_path if place == "out" else empty)
    write_model(place)
    assert is_model(empty) and empty.stat().st_ino == before


@small_disk
def test_an_empty_folder_may_be_a_mounted_disk(empty):
    def scenario():
        mount_small_disk(empty, "1m")
        write_model(empty)
        return is_model(empty)

    assert in_child(scenario)


@posix
def test_an_empty_folder_may_be_in_one_that_may_not_be_written():
    def scenario(above):
        if os.getuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        with pytest.raises(SegZooError, match="cannot be written to"):
            write_model(above / "other")
        write_model(above / "out")
        return is_model(above / "out")

    with tempfile.TemporaryDirectory() as above:  # not pytest's own, which other users may not enter
        (Path(above) / "out").mkdir()
        (Path(above) / "out").chmod(0o777)
        Path(above).chmod(0o555)
        assert in_child(scenario, Path(above))


def test_an_empty_folder_that_somebody_else_fills_is_left_to_him(empty):
    with pytest.raises(SegZooError, match="was filled by someone else"), whole_folder(empty) as folder:
        (folder / "b").write_text("b")
        write_model(empty)
    assert is_model(empty)


def test_a_move_into_an_empty_folder_that_fails_leaves_it_empty(empty, monkeypatch):
    replace = os.replace

    def fail(source, target):
        if Path(target).name == "z":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SegZooError, match="No space left on device"):
        write_model(empty)
    assert names(empty) == []


@posix
@pytest.mark.parametrize("number", range(1, 6))
def test_an_empty_folder_is_no_model_or_a_whole_one_whenever_the_kill_comes(tmp_path, empty, number):
    code = f"""
kill_at({number}, "replace")
with whole_folder("out") as folder:
    for name in ("config.json", "a", "z"):
        (folder / name).write_text(name)
"""
    killed = run(tmp_path, code) == -signal.SIGKILL
    assert killed == (number <= 3) and (empty / "config.json").exists() == (not killed)
    if number == 1:  # nothing was moved
        write_model(empty)
    assert is_model(empty) or number in (2, 3)


@small_disk
def test_a_full_disk_leaves_the_earlier_folder(tmp_path):
    def scenario():
        mount_small_disk(tmp_path, "1m")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").write_text("old")
        with pytest.raises(SegZooError) as raised, whole_folder(tmp_path / "out", replace=True) as folder:
            fill_disk(folder)
            (folder / "file").write_bytes(bytes(9999))
        return str(raised.value), names(tmp_path), contents(tmp_path / "out")

    message, left, out = in_child(scenario)
    assert "out: could not be written (No space left on device); what was there before is unchanged" in message
    assert left == ["out"] and out == {"old": "old"}


@posix
@pytest.mark.parametrize("number", range(1, 11))
@pytest.mark.parametrize("brackets", ["", "[1]"])
def test_a_folder_that_is_replaced_is_the_old_or_the_new_one_whenever_the_kill_comes(tmp_path, number, brackets):
    out = tmp_path / f"out{brackets}"
    out.mkdir()
    (out / "file").write_text("old")
    code = f"""
kill_at({number}, "mkdir", "rename", "fsync", "rmdir", "unlink")
with whole_folder({out.name!r}, replace=True) as folder:
    (folder / "file").write_text("new")
"""
    killed = run(tmp_path, code) == -signal.SIGKILL
    assert killed == (number <= 9), "every step was tried"
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [out.name]
    assert contents(out) == {"file": "new" if number > 6 else "old"}


@posix
def test_a_folder_that_a_living_process_writes_or_replaces_stays(tmp_path):
    (tmp_path / "out").mkdir()
    with running(tmp_path, "with whole_folder('out', replace=True): wait()"):
        remove_abandoned(tmp_path)
        assert len(names(tmp_path)) == 2
    remove_abandoned(tmp_path)
    assert names(tmp_path) == ["out"]
    with running(tmp_path, "with locked(Path('out')): os.rename('out', '.out.replaced'); wait()"):
        remove_abandoned(tmp_path)
        assert names(tmp_path) == [".out.replaced"]
    remove_abandoned(tmp_path)
    assert names(tmp_path) == ["out"]


@posix
@pytest.mark.parametrize(
    ("locks_before", "code"),
    [
        (0, "write_whole('out', lambda file: (file.write(b'new'), remove_abandoned(Path('.'))))"),
        (0, "with whole_folder('out') as folder: (folder / 'new').touch()"),
        (0, "with moved_together('out') as folder: (folder / 'out').write_text('new')"),
        (1, "with moved_together('out') as folder: [(folder / n).write_text('new') for n in ('out', 'out.data')]"),
    ],
)
def test_what_is_just_begun_survives_the_clearing_by_another_process(tmp_path, locks_before, code):
    if "whole_folder" not in code:
        (tmp_path / "out").write_text("old")
    with running(tmp_path, f"wait_before_lock({locks_before + 1})\n{code}") as process:
        assert any(name.startswith(".out.") for name in names(tmp_path)), "it is there, and not yet locked"
        remove_abandoned(tmp_path)
        assert len(names(tmp_path)) == ("whole_folder" not in code) + locks_before
        finish(process)
    if "whole_folder" in code:
        assert names(tmp_path / "out") == ["new"]
    else:
        assert set(contents(tmp_path).values()) == {"new"}


@posix
def test_a_late_clearer_leaves_what_has_taken_the_name_of_the_remains(tmp_path):
    (tmp_path / "out").write_text("old")
    (tmp_path / ".out.earlier").mkdir()  # of a killed process
    with running(tmp_path, "wait_before_lock(1)\nremove_abandoned(Path('.'))") as clearer:
        remove_abandoned(tmp_path)
        assert names(tmp_path) == ["out"]
        code = """
replace = os.replace
def replace_and_wait(*arguments):
    replace(*arguments)
    os.replace = replace
    wait()
os.replace = replace_and_wait
with moved_together("out") as folder:
    [(folder / name).write_text("new") for name in ("out", "out.data")]
"""
        with running(tmp_path, code) as writer:
            assert contents(tmp_path / ".out.earlier") == {"out": "old"}
            finish(clearer)
            assert contents(tmp_path / ".out.earlier") == {"out": "old"}, "it belongs to the writer"
            finish(writer)
    assert contents(tmp_path) == {"out": "new", "out.data": "new"}


def test_only_what_belongs_to_a_name_is_cleared_away_for_it(tmp_path):
    for name in (".out.partial-12", ".other.partial-12", ".other.replaced"):
        (tmp_path / name).mkdir()
    with whole_folder(tmp_path / "out"):
        assert ".out.partial-12" not in names(tmp_path)
    assert names(tmp_path) == [".other.partial-12", ".other.replaced", "out"]


def test_a_removed_folder_is_never_seen_half(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    remove_folder(tmp_path / "out")
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        remove_folder(tmp_path / "out")


# --- several files ---


def export(target: Path, *others: str, overwrite: bool = True) -> None:
    """As exports do: a graph, and perhaps its weights beside it."""
    stale = [target.with_name(f"{target.name}.data")] if target.is_file() else []
    with moved_together(target, overwrite=overwrite, stale=stale) as folder:
        for name in (target.name, *others):
            (folder / name).write_text(f"new {name}")


def test_all_files_are_replaced(tmp_path):
    for name in ("model.onnx", "model.onnx.data", "another.onnx.data"):
        (tmp_path / name).write_text(f"old {name}")
    export(tmp_path / "model.onnx", "model.onnx.data")
    kept = {"another.onnx.data": "old another.onnx.data"}
    assert contents(tmp_path) == kept | {n: f"new {n}" for n in ("model.onnx", "model.onnx.data")}
    export(tmp_path / "model.onnx")  # the weights of the graph before it belong to nothing any more
    assert contents(tmp_path) == kept | {"model.onnx": "new model.onnx"}


def test_nothing_is_overwritten_unless_that_is_allowed(tmp_path):
    (tmp_path / "model.onnx.data").write_text("mine")
    with pytest.raises(SegZooError, match=r"model.onnx.data: the file exists already"):
        export(tmp_path / "model.onnx", "model.onnx.data", overwrite=False)
    assert contents(tmp_path) == {"model.onnx.data": "mine"}
    export(tmp_path / "model.onnx", overwrite=False)
    assert contents(tmp_path) == {"model.onnx.data": "mine", "model.onnx": "new model.onnx"}
    with pytest.raises(SegZooError, match=r"model.onnx: the file exists already"):
        export(tmp_path / "model.onnx", overwrite=False)


def test_a_failed_move_puts_the_earlier_files_back(tmp_path):
    before = {"model.onnx": "the old graph", "model.onnx.a": "old weights"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "model.onnx.data").mkdir()  # a file cannot be moved there
    with pytest.raises(SegZooError, match=r"could not be written \(.+\); what was there before is unchanged"):
        export(tmp_path / "model.onnx", "model.onnx.data", "model.onnx.a")
    assert contents(tmp_path) == before | {"model.onnx.data": "a folder"}


def test_a_set_without_its_main_file_changes_nothing(tmp_path):
    (tmp_path / "model.onnx").write_text("old")
    with pytest.raises(SegZooError, match="could not be written"), moved_together(tmp_path / "model.onnx") as folder:
        (folder / "model.onnx.data").write_text("new")
    assert contents(tmp_path) == {"model.onnx": "old"}


def test_files_that_cannot_be_put_back_are_kept_named_and_put_back_later(tmp_path, monkeypatch):
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
    monkeypatch.undo()
    (kept,) = tmp_path.glob(".model.onnx.earlier")
    assert str(kept) in str(raised.value) and contents(kept) == {"model.onnx": "the old graph"}
    assert names(tmp_path) == [kept.name, "model.onnx.data"]
    remove_abandoned(tmp_path)
    assert contents(tmp_path) == {"model.onnx": "the old graph", "model.onnx.data": "a folder"}


@posix
@pytest.mark.parametrize("number", range(1, 9))
def test_a_set_is_the_old_or_the_new_one_whenever_the_kill_comes(tmp_path, number):
    old = {"model.onnx": "old graph", "model.onnx.a": "old a", "model.onnx.gone": "old"}
    new = {"model.onnx": "new graph", "model.onnx.a": "new a"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    code = f"""
kill_at({number}, "replace", "rmdir")
with moved_together("model.onnx", stale=[Path("model.onnx.gone")]) as folder:
    for name, text in {new!r}.items():
        (folder / name).write_text(text)
"""
    killed = run(tmp_path, code) == -signal.SIGKILL
    assert killed == (number <= 7), "every step was tried"
    if (tmp_path / "model.onnx").exists():
        graph = (tmp_path / "model.onnx").read_text()[:3]
        assert (tmp_path / "model.onnx.a").read_text()[:3] == graph, "the graph never stands beside wrong weights"
    remove_abandoned(tmp_path)
    assert contents(tmp_path) == (old if number <= 5 else new)


@posix
def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    target = tmp_path / "model.onnx"
    with running(tmp_path, "with moved_together('model.onnx') as f: (f / 'model.onnx').write_text('half'); wait()"):
        export(target)  # the other one lives: its folder is not touched
        (its,) = tmp_path.glob(".model.onnx.partial-*")
        assert contents(its) == {"model.onnx": "half"}
    assert its.is_dir()
    export(target)
    assert contents(tmp_path) == {"model.onnx": "new model.onnx"}


# --- locks ---


def attempt(folder: Path, **options) -> str:
    try:
        with lock(folder, **options):
            return "held"
    except FolderInUse as error:
        return error.holder


attempt_elsewhere = partial(in_child, attempt)


@posix
def test_a_folder_has_one_holder(tmp_path):
    with lock(tmp_path):
        assert names(tmp_path) == [LOCK]
        for options in ({}, {"shared": True}, {"joining": True}):
            for holder in (attempt(tmp_path, **options), in_child(partial(attempt, tmp_path, **options))):
                assert holder.startswith(f"{os.getpid()} on ")
        assert names(tmp_path) == [LOCK], "who comes too late changes nothing"
    assert names(tmp_path) == []
    assert attempt_elsewhere(tmp_path) == "held"
    with pytest.raises(KeyError), lock(tmp_path):
        raise KeyError
    assert names(tmp_path) == []


@posix
def test_a_shared_folder_is_joined_and_the_last_one_tidies_up(tmp_path):
    with running(tmp_path, "with lock('.', shared=True): wait()") as first, contextlib.ExitStack() as second:
        for options in ({}, {"shared": True}):
            assert attempt(tmp_path, **options).startswith(f"{first.pid} on ")
        second.enter_context(lock(tmp_path, joining=True))
        assert in_child(partial(attempt, tmp_path, joining=True)) == "held"
        first.stdin.close()
        assert first.wait(30) == 0
        assert names(tmp_path) == [LOCK]
        assert attempt_elsewhere(tmp_path) != "held"
        second.close()
        assert names(tmp_path) == []


@posix
def test_a_killed_process_holds_nothing_though_its_children_live(tmp_path):
    code = """
with lock("."):
    if os.fork() == 0:
        print(os.getpid(), flush=True)  # the child has closed what it does not hold by now
        signal.pause()
    sys.stdin.read()
"""
    command = [sys.executable, "-c", PROGRAM + code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        try:
            assert attempt(tmp_path).startswith(f"{process.pid} on ")
            process.kill()
            process.wait()
            assert names(tmp_path) == [LOCK]
            assert attempt(tmp_path) == "held"
            assert names(tmp_path) == []
        finally:
            os.kill(child, signal.SIGKILL)


@posix
def test_a_forked_child_that_leaves_the_block_takes_nothing_with_it(tmp_path):
    with contextlib.ExitStack() as held:
        held.enter_context(lock(tmp_path))
        assert in_child(held.close) is None
        assert names(tmp_path) == [LOCK] and attempt_elsewhere(tmp_path) != "held"


@posix
def test_waiting_for_a_folder(tmp_path):
    start = time.monotonic()
    with running(tmp_path, "with lock('.'): wait()") as process:
        assert attempt(tmp_path, wait=0.3) != "held"
        assert time.monotonic() - start > 0.3
        process.stdin.close()
        assert attempt(tmp_path, wait=30) == "held"


def test_a_folder_that_is_not_there_cannot_be_held(tmp_path):
    with pytest.raises(FileNotFoundError), lock(tmp_path / "none"):
        pytest.fail("the block must not begin")

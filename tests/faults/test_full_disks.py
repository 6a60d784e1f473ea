"""What commands write on a full disk, or where nothing can be made: one line that names it, and nothing half-written."""

import contextlib
import io
import os
import resource
import shutil

import numpy as np
import pytest
import torch
from conversion import tiny as checkpoints
from PIL import Image
from support.small_disk import can_mount, in_child, mount_small_disk

from segzoo.commands.cli import main
from segzoo.data.scenes import write_scenes
from segzoo.errors import SegZooError
from segzoo.export.archive import write_program
from segzoo.files import check_room, write_whole
from segzoo.hub import save_model_folder
from segzoo.inference import load

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and mounts of POSIX")
small_disk = pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")

# The words of each command, and what its error names: below OUT nothing can be written, or not much.
COMMANDS = {
    "predict": ("predict PICTURE --model MODEL --output OUT/labels", "OUT/labels/"),
    "convert": ("convert CHECKPOINT --output OUT/model", "OUT/model: could not be written"),
    "evaluate": ("evaluate MODEL DATA --device cpu --max_samples 1 --output OUT/eval", "OUT/eval/"),
    "evaluate-json": ("evaluate MODEL DATA --device cpu --max_samples 1 --json OUT/a.json", "OUT/a.json"),
    "export-onnx": ("export MODEL --output OUT/model.onnx", "OUT/model.onnx: the file needs about"),
    "export-pt2": ("export MODEL --output OUT/model.pt2", "OUT/model.pt2: the file needs about"),
    "data-json": ("data check DATA --num_workers 0 --json OUT/a.json", "OUT/a.json"),
    "data-sheet": ("data show DATA --output OUT/sheet.png --count 2", "OUT/sheet.png"),
}


@pytest.fixture(scope="module")
def things(scenes, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("things")
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "picture.png")
    return {
        "PICTURE": str(folder / "picture.png"),
        "MODEL": str(tiny),
        "DATA": str(scenes),
        "CHECKPOINT": str(checkpoints.save(folder / "a.pth")),
    }


def run(words, things, out):
    """Exit code and messages of a command."""
    for name, value in {**things, "OUT": str(out)}.items():
        words = words.replace(name, value)
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main(words.split())
    return code, errors.getvalue().strip().splitlines()


def left(out):
    """What a folder holds, down to its files, without the filler and without what an evaluation goes on from."""
    names = [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file()]
    return [name for name in names if name != "filler" and not name.startswith("eval/state")]


def attempt_all(things, out):
    """For each command its exit code, its last line, and the half-written files that it left."""
    found = {}
    for name, (words, _) in COMMANDS.items():
        code, lines = run(words, things, out)
        found[name] = (
            code,
            lines[-1] if lines else "",
            [p for p in left(out) if ".partial" in p or p.endswith("a.json")],
        )
    return found


def judge(found, out, reason):
    for name, (_, named) in COMMANDS.items():
        code, line, partial = found[name]
        assert code == 1 and line.startswith(f"segzoo: error: {named.replace('OUT', str(out))}"), (name, code, line)
        assert reason in line or "needs about" in line, (name, line)
        assert partial == [], name


def test_files_may_not_be_large(things, tmp_path):
    def scenario():
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
        return attempt_all(things, tmp_path)

    judge(in_child(scenario, timeout=120), tmp_path, "File too large")


@small_disk
def test_a_full_disk(things, tmp_path):
    out = tmp_path / "out"
    out.mkdir()

    def scenario():
        mount_small_disk(out, "1m")
        with open(out / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        return attempt_all(things, out)

    judge(in_child(scenario, timeout=120), out, "No space left on device")


def test_nothing_can_be_made_below_a_file(things, tmp_path, monkeypatch):
    """Found before the work: nothing is loaded, downloaded or converted."""
    file = tmp_path / "file"
    file.write_text("mine")
    nothing = {**things, "CHECKPOINT": str(tmp_path / "none"), "DATA": str(tmp_path / "none")}
    for name, (words, _) in COMMANDS.items():
        code, lines = run(words, nothing, file)
        assert code == 1 and len(lines) == 1, (name, lines)
        assert f"{file} is a file, and nothing can be made below a file" in lines[0], (name, lines)
    code, (line,) = run("convert CHECKPOINT --output OUT/model --report OUT/file/a.md", nothing, tmp_path)
    assert code == 1 and "--report" in line and f"{file} is a file" in line
    assert file.read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("place", [".", "..", "sub/.."])
@pytest.mark.parametrize("name", ["predict", "convert", "evaluate"])
def test_the_current_folder_and_those_above(things, tmp_path, monkeypatch, name, place):
    (tmp_path / "there/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there/sub" if place == ".." else tmp_path / "there")
    if place == ".":
        (tmp_path / "there/sub").rmdir()
    words = COMMANDS[name][0].partition(" --output")[0]
    code, lines = run(f"{words} --output {place}", things, tmp_path)
    if place == "." or name == "predict":
        assert code == 0 and len(left(tmp_path / "there")) > 1
    else:  # the folder is not empty
        assert code == 1 and f"{place}: " in lines[-1] and "not empty" in lines[-1]


def test_an_output_without_a_name(things, tmp_path, capsys):
    for name in ("predict", "convert", "evaluate", "export-onnx", "data-sheet"):
        words = COMMANDS[name][0].partition(" --output")[0].split()
        with pytest.raises(SystemExit, match="2"):
            main([*(things.get(word, word) for word in words), "--output", ""])
        assert "--output: the name is empty" in capsys.readouterr().err
    for name in ("convert", "evaluate"):
        code, (*_, line) = run(f"{COMMANDS[name][0].partition(' --output')[0]} --output /", things, tmp_path)
        assert code == 1 and "--output /: " in line and "not empty" in line
    with pytest.raises(SegZooError, match="the path is empty; name a file or folder"):
        save_model_folder(None, None, "")


@small_disk
def test_a_mounted_disk_is_filled(things, tmp_path):
    def scenario():
        mount_small_disk(tmp_path, "8m")
        return *run(f"convert CHECKPOINT --output {tmp_path}", things, tmp_path), left(tmp_path)

    code, _, files = in_child(scenario, timeout=120)
    assert code == 0 and {"config.json", "model.safetensors", "README.md"} <= set(files)


def test_names_that_cannot_be_files(things, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place, message in (("/dev/full", "a device or a pipe"), (tmp_path / "pipe", "a device or a pipe")):
        code, (line,) = run(f"evaluate MODEL DATA --json {place}", things, tmp_path)
        assert code == 1 and message in line
    code, (line,) = run(f"data check DATA --json OUT/{'n' * 250}", things, tmp_path)
    assert code == 1 and "the name is too long" in line


def test_scenes_on_a_full_disk(tmp_path):
    def scenario():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        with pytest.raises(SegZooError) as caught:
            write_scenes(tmp_path / "scenes", num_train=1, num_validation=1, size=(48, 64))
        return str(caught.value)

    assert f"{tmp_path / 'scenes'}: the scenes cannot be written (File too large)" in in_child(scenario)


def test_a_program_is_no_abort(tmp_path):
    """PyTorch's own writer ends the process."""
    program = torch.export.export(torch.nn.Linear(200, 200), (torch.zeros(1, 200),))

    def scenario():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="File too large"):
            write_program(program, tmp_path / "a.pt2", {"note": "x"})
        with pytest.raises(SegZooError, match=r"the file needs about 0.2 MiB, and files may have 0.0 MiB here"):
            check_room(tmp_path / "a.pt2", 200_000)
        return True

    assert in_child(scenario)
    write_program(program, tmp_path / "b.pt2", {"note": "x"})
    extra = {"note": ""}
    loaded = torch.export.load(tmp_path / "b.pt2", extra_files=extra).module()
    assert extra["note"] == "x" and loaded(torch.zeros(1, 200)).shape == (1, 200)
    with pytest.raises(SegZooError, match="are free on its disk; make room"):
        check_room(tmp_path / "a.pt2", shutil.disk_usage(tmp_path).free * 2)


def test_a_written_file_is_named_and_not_its_hidden_copy(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "none" / "a.json", "x")
    assert caught.value.filename == str(tmp_path / "none" / "a.json")


def test_a_model_folder_on_a_full_disk(things, tmp_path):
    model, processor = load(things["MODEL"])

    def scenario():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        with pytest.raises(SegZooError) as caught:
            save_model_folder(model, processor, tmp_path / "model")
        return str(caught.value)

    said = in_child(scenario)
    assert said.startswith(f"{tmp_path / 'model'}: could not be written") and "File too large" in said
    assert list(tmp_path.iterdir()) == []

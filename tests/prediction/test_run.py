"""`segzoo predict` over many pictures: going on, errors of one picture, batches, kinds of results, processes."""

import errno
import fnmatch
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.commands.cli import main
from segzoo.data.facts import DATASETS
from segzoo.data.label_encodings import CITYSCAPES_LABEL_IDS
from segzoo.heads import FCNHeadConfig
from segzoo.hub import save_model_folder
from segzoo.prediction import run as running
from segzoo.prediction.labeller import Speed
from segzoo.prediction.record import RECORD
from segzoo.prediction.results import Submission

CONTIGUOUS = Speed(memory_format="contiguous")  # as the commands here compute, so that labels are equal


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def photos(tmp_path, make_picture):
    (tmp_path / "photos" / "x").mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "x/a", "x/c")):
        make_picture(seed, *((80, 60) if name == "b" else (90, 60))).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def test_going_on_and_errors(tiny_model, photos, tmp_path, capsys):
    options = ("--model", tiny_model, "--memory_format", "contiguous")
    assert predict(photos, *options, "--output", tmp_path / "whole") == 0
    expected = contents(tmp_path / "whole")
    assert set(expected) == {f"{s}{e}" for s in ("a", "b", "x/a", "x/c") for e in (".png", "_overlay.jpg", ".json")}
    one = segzoo.predict(tiny_model, photos / "x" / "c.png", device="cpu")
    assert np.array_equal(np.array(Image.open(tmp_path / "whole" / "x" / "c.png")), one.label_map)

    # What a killed run leaves: one picture whole, one without its last file, a hidden file half written.
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole", out)
    (out / "b.json").unlink()
    shutil.rmtree(out / "x")
    (out / ".b.json.99999.partial").write_text("{")
    kept = (out / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    (photos / "0broken.png").write_bytes((photos / "a.png").read_bytes()[:2000])
    (photos / "x" / "text.jpg").write_text("no picture")
    (photos / "x" / "cut.png").write_bytes((photos / "a.png").read_bytes()[:9000])  # shows itself when it is decoded
    again = [photos, *options, "--output", out, "--skip_existing"]
    assert predict(*again) == 1 and "0broken.png: the image cannot be read" in capsys.readouterr().err
    assert predict(*again, "--on_error", "skip") == 1
    captured = capsys.readouterr()
    assert "4 pictures -> " in captured.out
    assert "(1 were there already)" in captured.out
    assert "3 pictures could not be labelled:" in captured.err
    assert "cut.png: the image cannot be read" in captured.err
    assert "0broken.png: the image cannot be read" in captured.err and "text.jpg: the image cannot" in captured.err
    assert contents(out) == expected and (out / "a.png").stat().st_mtime_ns == kept

    (photos / "0broken.png").unlink()
    (photos / "x" / "text.jpg").unlink()
    (photos / "x" / "cut.png").unlink()
    assert predict(*again) == 0
    assert contents(out) == expected
    assert predict("--model", tiny_model, "--output", out) == 1
    assert "no pictures are named" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_errors_of_one_picture(tiny_model, photos, tmp_path, capsys):
    """The name of one picture is so long that those of its results, while they are written, are too long."""
    options = (photos, "--model", tiny_model, "--memory_format", "contiguous", "--device", "cpu")
    shutil.copy(photos / "a.png", photos / f"{'a' * 240}.png")
    assert predict(*options, "--output", tmp_path / "ended") == 1
    assert "File name too long" in capsys.readouterr().err
    assert predict(*options, "--output", tmp_path / "whole", "--on_error", "skip") == 1
    captured = capsys.readouterr().err
    assert "1 picture could not be labelled:" in captured and "File name too long" in captured
    expected = {f"{stem}{end}" for stem in ("a", "b", "x/a", "x/c") for end in (".png", "_overlay.jpg", ".json")}
    assert set(contents(tmp_path / "whole")) == expected


def test_a_folder_that_takes_no_results_ends_the_run(tiny_model, photos, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.png")

    monkeypatch.setattr("segzoo.prediction.results.write_png", full)
    options = ("--model", tiny_model, "--memory_format", "contiguous", "--device", "cpu", "--on_error", "skip")
    assert predict(photos, *options, "--output", tmp_path / "out") == 1
    captured = capsys.readouterr().err
    assert "No space left on device" in captured and "could not be labelled" not in captured


def test_going_on_with_other_options(tiny_model, photos, tmp_path, capsys):
    """What decides about results is in a record; where it is another one, nothing is mixed."""
    options = (photos, "--model", tiny_model, "--memory_format", "contiguous", "--device", "cpu")
    model, other, moved = Path(tiny_model), tmp_path / "other", tmp_path / "moved"
    shutil.copytree(model, moved)
    shutil.copytree(model, other)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.5, 0.5, 0.5]}))
    out = tmp_path / "data"
    assert predict(*options, "--output", out, "--as_dataset") == 0
    expected = contents(out)
    (out / "annotations" / "b.png").unlink()
    again = (*options, "--output", out, "--skip_existing")
    for changed, words in (
        (("--as_dataset", "--model", other), f"--model {tiny_model}, not {other};"),
        (("--as_dataset", "--ignore_below", "0.5"), "--ignore_below none, not 0.5;"),
        (("--as_dataset", "--dtype", "bfloat16"), "--dtype float32, not bfloat16;"),
        (("--as_dataset", "--flip"), "the protocol single scale, shorter side 64; whole image; no flip, not single"),
        ((), "as results a data set (--as_dataset), not label maps and overlays (--alpha 0.55);"),
    ):
        capsys.readouterr()
        assert predict(*again, *changed) == 1
        error = capsys.readouterr().err
        assert f"{out}: it holds results that were made with {words}" in error and "--overwrite" in error, error
    assert len(contents(out)) == len(expected) - 1
    assert predict(*again, "--as_dataset", "--model", moved) == 0, "the same model at another place"
    assert contents(out) == expected

    # Two kinds in one folder are not gone on with; all replaced, they are one again.
    assert predict(*options, "--output", out, "--as_dataset", "--ignore_below", "0.3", "--overwrite") == 0
    assert predict(*again, "--as_dataset", "--ignore_below", "0.3") == 0
    assert predict(photos / "b.png", *options[1:], "--output", out, "--as_dataset", "--overwrite") == 0
    assert predict(*again, "--as_dataset") == 1 and "--ignore_below 0.3, not none" in capsys.readouterr().err

    (out / RECORD).unlink()  # as versions without a record left it
    assert predict(*again, "--as_dataset", "--flip") == 0
    assert "0 pictures" not in capsys.readouterr().out
    (out / "annotations" / "b.png").unlink()
    assert predict(*again, "--as_dataset", "--flip") == 0
    assert "nothing says how the results in it were made" in capsys.readouterr().out


def test_batches_and_read_ahead(tiny_model, photos, tmp_path, monkeypatch):
    from segzoo.inference import Predictor

    seen = []
    original = Predictor.label_maps

    def counted(self, images, sizes):
        seen.append([image.shape[1] for image in images])
        return original(self, images, sizes)

    monkeypatch.setattr(Predictor, "label_maps", counted)
    options = (photos, "--model", tiny_model, "--memory_format", "contiguous", "--num_streams", "1")
    assert predict(*options, "--output", tmp_path / "batch", "--batch_size", "2") == 0
    assert seen == [[90, 90], [80], [90]]
    monkeypatch.setattr(running, "QUICK_PIXELS", 10)
    assert predict(*options, "--output", tmp_path / "large", "--batch_size", "2") == 0
    assert seen[3:] == [[90], [80], [90], [90]], "large pictures are alone"
    monkeypatch.undo()
    assert predict(*options, "--output", tmp_path / "threads") == 0
    assert contents(tmp_path / "threads") == contents(tmp_path / "large"), "the same bytes without threads"
    large, batch = contents(tmp_path / "large"), contents(tmp_path / "batch")
    assert large.keys() == batch.keys()
    for name in ("a.png", "b.png", "x/a.png", "x/c.png"):
        found = [np.array(Image.open(tmp_path / folder / name)) for folder in ("large", "batch")]
        assert (found[0] == found[1]).mean() > 0.999


def test_pictures_at_the_same_time(tiny_model, photos, tmp_path, monkeypatch, capsys):
    """In streams the results are the same, and so are the order of what is said and the errors of single pictures."""
    from segzoo.inference import Predictor

    (photos / "x" / "b.png").write_bytes((photos / "a.png").read_bytes()[:9000])  # shows itself when it is decoded
    options = (photos, "--model", tiny_model, "--memory_format", "contiguous", "--device", "cpu", "--on_error", "skip")
    assert predict(*options, "--output", tmp_path / "one", "--num_streams", "1") == 1
    one = capsys.readouterr()
    both, original, threads = threading.Barrier(2), Predictor.label_maps, set()

    def together(self, images, sizes):
        threads.add(threading.current_thread().name)
        both.wait(timeout=60)
        return original(self, images, sizes)

    monkeypatch.setattr(Predictor, "label_maps", together)
    assert predict(*options, "--output", tmp_path / "two", "--num_streams", "2") == 1
    two = capsys.readouterr()
    assert len(threads) == 2 and all(name.startswith("segzoo-stream") for name in threads)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert "b.png: the image cannot be read" in two.err
    assert [line.partition(" (")[0] for line in two.out.splitlines()[:-1]] == [
        line.partition(" (")[0] for line in one.out.splitlines()[:-1]
    ]
    # With an error that ends the run, what came before it is written.
    monkeypatch.undo()
    assert predict(*options[:-2], "--output", tmp_path / "ended", "--num_streams", "2") == 1
    ended = contents(tmp_path / "ended")
    assert ended.keys() >= {"a.json", "b.json", "x/a.json"} and "x/b.json" not in ended
    assert predict(*options, "--output", tmp_path / "none", "--num_streams", "0") == 1
    assert "num_streams is 0; it is at least 1" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_as_dataset(tiny_model, photos, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "a.png").save(photos / "turned.jpg", exif=exif)
    out = tmp_path / "data"
    options = (photos, "--model", tiny_model, "--output", out, "--as_dataset", "--ignore_below", "0.3")
    assert predict(*options) == 0
    assert (out / "images" / "x" / "a.png").read_bytes() == (photos / "x" / "a.png").read_bytes()
    assert Image.open(out / "images" / "turned.jpg").size == (60, 90), "stored upright"
    found = segzoo.predict(tiny_model, photos / "a.png", device="cpu")
    mask = np.array(Image.open(out / "annotations" / "a.png"))
    expected = np.where(found.confidence < 0.3, 255, found.label_map)
    share = (mask == 255).mean()
    assert np.array_equal(mask, expected) and 0 < share < 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{photos / 'a.png'}: ")]
    assert f", not labelled {share:.1%} (" in line
    assert predict(*options[:-1], "1", "--overwrite") == 0
    assert capsys.readouterr().out.count(": not labelled 100.0% (") == 5
    assert predict(*options, "--overwrite") == 0
    capsys.readouterr()
    assert main(["data", "check", str(out), "--num_workers", "0"]) == 0, capsys.readouterr().out
    assert "5" in capsys.readouterr().out
    assert json.loads((out / "id2label.json").read_text())["2"] == "car"


def submitting_model(dataset, folder):
    """A model of the classes of a benchmark, for whole pictures of 64 pixels."""
    torch.manual_seed(0)
    facts = DATASETS[dataset]
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), FCNHeadConfig(channels=16), num_labels=facts.num_labels)
    config.id2label = dict(facts.id2label)
    model, processor = SegZooForSemanticSegmentation(config).eval(), SegZooImageProcessor(size={"shortest_edge": 64})
    return save_model_folder(model, processor, folder)


def submitted(tmp_path, model, pictures, dataset):
    """What is uploaded: the masks, by their names in an archive of the output folder."""
    out = tmp_path / "out"
    options = ("--model", model, "--output", out, "--memory_format", "contiguous", "--device", "cpu")
    assert predict(pictures, *options, "--submission", dataset) == 0
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(out.rglob("*.png")):
            archive.write(path, path.relative_to(out))
    assert {path.name for path in out.rglob("*") if path.is_file() and path.suffix != ".png"} == {RECORD}
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        return {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()}


def test_submission_to_ade20k(tiny_model, tmp_path, make_picture, capsys):
    """The challenge's rules: the test pictures' names with .png, one channel of 8 bits, ids 1 to 150, no 0, equal sizes."""
    testing = tmp_path / "release_test" / "testing"
    testing.mkdir(parents=True)
    sizes = {"ADE_test_00000001.jpg": (91, 61), "ADE_test_00000002.jpg": (64, 200), "ADE_test_00003489.JPG": (33, 35)}
    for seed, (name, size) in enumerate(sizes.items()):
        make_picture(seed, *size).convert("L" if seed == 1 else "RGB").save(testing / name)
    assert predict(testing, "--model", tiny_model, "--output", tmp_path / "s", "--submission", "ade20k") == 1
    assert "the model's 5 classes are not the 150 of ADE20K" in capsys.readouterr().err
    model = submitting_model("ade20k", tmp_path / "model")
    masks = submitted(tmp_path, model, testing, "ade20k")
    assert set(masks) == {Path(name).stem + ".png" for name in sizes}
    for name, size in sizes.items():
        mask = masks[Path(name).stem + ".png"]
        ids = np.array(mask)
        assert (mask.format, mask.mode, mask.size, ids.dtype) == ("PNG", "L", size, np.uint8)
        assert ids.min() >= 1 and ids.max() <= 150
        assert np.array_equal(ids - 1, segzoo.predict(model, testing / name, device="cpu", speed=CONTIGUOUS).label_map)
    assert Submission("ade20k").stored_ids()[[0, 149]].tolist() == [1, 150]


def test_submission_to_cityscapes(tmp_path, make_picture):
    """The server's rules: for each test picture one PNG below the root that begins with city, sequence and frame; of the
    picture's size, one channel, the data set's own ids."""
    test = tmp_path / "leftImg8bit" / "test"
    names = ["berlin/berlin_000000_000019", "berlin/berlin_000001_000019", "bielefeld/bielefeld_000000_012080"]
    sizes = [(97, 51), (128, 64), (60, 90)]
    for seed, (name, size) in enumerate(zip(names, sizes, strict=True)):
        (test / name).parent.mkdir(parents=True, exist_ok=True)
        make_picture(seed, *size).save(test / f"{name}_leftImg8bit.png")
    model = submitting_model("cityscapes", tmp_path / "model")
    masks = submitted(tmp_path, model, test, "cityscapes")
    assert len(masks) == 3
    for name, size in zip(names, sizes, strict=True):
        pattern = f"{Path(name).name}*.png"
        (found,) = (mask for path, mask in masks.items() if fnmatch.fnmatch(path.rpartition("/")[2], pattern))
        ids = np.array(found)
        assert (found.format, found.mode, found.size, ids.ndim) == ("PNG", "L", size, 2)
        assert set(np.unique(ids)) <= set(CITYSCAPES_LABEL_IDS.ids), "no id that the server does not count"
        labels = segzoo.predict(model, test / f"{name}_leftImg8bit.png", device="cpu", speed=CONTIGUOUS).label_map
        assert np.array_equal(CITYSCAPES_LABEL_IDS.decode_ids(ids), labels)
    assert Submission("cityscapes").stored_ids()[[0, 1, 18]].tolist() == [7, 8, 33]


def test_two_masks_for_one_picture(tmp_path, make_picture, capsys):
    """Servers look for masks in all folders; two for one picture are told before the model is loaded."""
    for name in ("a/berlin_000000_000019_leftImg8bit", "b/berlin_000000_000019_rightImg8bit", "c/x", "d/x"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        make_picture().save(tmp_path / "in" / f"{name}.png")
    options = ("--model", tmp_path / "none", "--output", tmp_path / "out", "--submission")
    for folders, dataset, key in (("ab", "cityscapes", "berlin_000000_000019"), ("cd", "ade20k", "x")):
        assert predict(f"{tmp_path}/in/[{folders}]/*.png", *options, dataset) == 1
        assert f"the server takes one mask for {key}; leave one out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x", "berlin_000000_19", "berlin_000000_0000190", "my_berlin_000000_000019"])
def test_masks_that_the_server_of_cityscapes_would_not_find(name, tmp_path, make_picture, capsys):
    make_picture().save(tmp_path / f"{name}.png")
    options = ("--model", tmp_path / "none", "--output", tmp_path / "out", "--submission", "cityscapes")
    assert predict(tmp_path / f"{name}.png", *options) == 1
    assert f"{name}.png: the server finds masks by city, sequence and frame" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_processes_and_launch(tiny_model, photos, tmp_path):
    """A run that is killed goes on; several processes share the pictures and report errors together."""
    expected = tmp_path / "expected"
    options = [photos, "--model", tiny_model, "--memory_format", "contiguous", "--device", "cpu"]
    assert predict(*options, "--output", expected) == 0
    out = tmp_path / "out"
    command = [sys.executable, "-m", "segzoo", "predict", *map(str, options), "--output", str(out), "--skip_existing"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "a.png: " in line:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    (photos / "x" / "broken.png").write_bytes(b"no picture")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", *command[2:]]
    done = subprocess.run([*launch, "--on_error", "skip"], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "4 pictures -> " in done.stdout and done.stderr.count("1 picture could not be labelled:") == 1, done.stderr
    assert contents(out) == contents(expected)

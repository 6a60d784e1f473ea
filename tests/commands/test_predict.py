"""`segzoo predict`: files, folders, odd pictures, and errors before the model runs."""

import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image
from support.file_server import FileServer

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.commands.cli import main
from segzoo.hub import save_model_folder
from segzoo.inference import InferenceSettings, Predictor
from segzoo.inference.timing import has_bfloat16
from segzoo.prediction.inputs import Input
from segzoo.prediction.run import Downloads, Failures

NAMES = ["sky", "road", "car", "tree", "person"]
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    config = SegZooConfig.tiny()
    config.id2label, config.label2id = dict(enumerate(NAMES)), {n: i for i, n in enumerate(NAMES)}
    config.palette = [[40 * i, 255 - 40 * i, 99] for i in range(5)]
    folder = tmp_path_factory.mktemp("models") / "tiny"
    processor = SegZooImageProcessor(size={"shortest_edge": 64}, window_size=[64, 64], window_stride=[32, 32])
    return save_model_folder(SegZooForSemanticSegmentation(config), processor, folder)


def picture(width=90, height=60, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


def test_results_agree_with_the_model(model_folder, tmp_path, capsys):
    image = picture()
    image.save(tmp_path / "street.png")
    assert predict(tmp_path / "street.png", "--model", model_folder, "--output", tmp_path / "out") == 0
    label_png = Image.open(tmp_path / "out" / "street.png")
    assert label_png.mode == "P" and label_png.size == image.size
    assert label_png.getpalette()[:15] == [v for i in range(5) for v in (40 * i, 255 - 40 * i, 99)]
    found = np.asarray(label_png)

    model = SegZooForSemanticSegmentation.from_pretrained(model_folder).eval()
    processor = SegZooImageProcessor.from_pretrained(model_folder)
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    assert outputs.logits.shape[-2:] == (64, 96), "the processor's windows reach the model"
    (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(60, 90)])
    assert np.array_equal(found, expected.numpy())

    facts = json.loads((tmp_path / "out" / "street.json").read_text())
    assert (facts["width"], facts["height"]) == (90, 60)
    assert (
        facts["protocol"]
        == "single scale, shorter side 64; windows of 64x64 with step 32x32, logits averaged; no flip"
    )
    counts = {NAMES[i]: int((found == i).sum()) for i in range(5) if (found == i).any()}
    assert {c["name"]: c["pixels"] for c in facts["classes"]} == counts
    assert sum(c["fraction"] for c in facts["classes"]) == pytest.approx(1)
    overlay = Image.open(tmp_path / "out" / "street_overlay.jpg")
    assert overlay.width > image.width and len(overlay.convert("RGB").getcolors(1 << 24)) > 50
    assert "street.png: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--no-slide"], {"window_size": None}),
        (
            ["--window", "40", "--scales", "0.5", "1"],
            {"window_size": (40, 40), "window_stride": (26, 26), "scales": (0.5, 1.0)},
        ),
        (
            ["--slide", "--stride", "20", "30", "--flip"],
            {"window_size": (64, 64), "window_stride": (20, 30), "flip": True},
        ),
        (["--scales", "1.5", "--flip", "--average", "logits"], {"scales": (1.5,), "flip": True, "average": "logits"}),
    ],
)
def test_protocols(model_folder, tmp_path, capsys, options, settings):
    image = picture()
    image.save(tmp_path / "street.png")
    arguments = [tmp_path / "street.png", "--model", model_folder, "--output", tmp_path / "out", *options]
    assert predict(*arguments) == 0
    model = SegZooForSemanticSegmentation.from_pretrained(model_folder).eval()
    processor = SegZooImageProcessor.from_pretrained(model_folder)
    settings = InferenceSettings.of_model(model, processor, **settings)
    expected = Predictor(model, processor, settings).label_map(np.array(image), (60, 90))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "street.png")), expected.numpy())
    assert f"protocol: {settings.describe(processor)}" in capsys.readouterr().out


def test_overlays_of_large_pictures_are_shrunk(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("segzoo.prediction.labeller.OVERLAY_SIDE", 400)
    picture(1000, 301).save(tmp_path / "wide.png")
    assert predict(tmp_path / "wide.png", "--model", model_folder, "--output", tmp_path / "out", "--no-slide") == 0
    assert Image.open(tmp_path / "out" / "wide.png").size == (1000, 301)
    overlay = Image.open(tmp_path / "out" / "wide_overlay.jpg")
    assert 334 <= overlay.width < 1000 and overlay.height < 301


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
def test_pictures_of_every_mode(model_folder, tmp_path, mode):
    picture(mode=mode).save(tmp_path / "odd.png")
    assert predict(tmp_path / "odd.png", "--model", model_folder, "--output", tmp_path / "out") == 0
    assert Image.open(tmp_path / "out" / "odd.png").size == (90, 60)


def test_folders_unicode_names_and_rotation(model_folder, tmp_path):
    photos = tmp_path / "φωτογραφίες"
    photos.mkdir()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture().save(photos / "Straße.JPG", exif=exif)
    picture().save(photos / "zwei.webp")
    (photos / "notes.txt").write_text("no picture")
    assert predict(photos, "--model", model_folder, "--output", tmp_path / "out") == 0
    assert Image.open(tmp_path / "out" / "Straße.png").size == (60, 90), "shown upright"
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 6


def test_refused_before_the_model_loads(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "empty").mkdir()
    picture().save(tmp_path / "x.png")
    picture().save(tmp_path / "a" / "x.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no jpeg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "x.png").read_bytes()[:3000])
    out = tmp_path / "out"
    cases = [
        ([tmp_path / "none.png"], "none.png: there is no such picture"),
        ([tmp_path / "empty"], "holds no pictures"),
        ([tmp_path / "x.png", tmp_path / "a" / "x.jpg"], "both write x.png"),
        ([tmp_path / "broken.jpg"], "broken.jpg: the image cannot be read"),
        ([tmp_path / "a" / "x.jpg", tmp_path / "broken.jpg"], "broken.jpg: the image cannot be read"),
        ([tmp_path / "cut.png", tmp_path / "a" / "x.jpg"], "cut.png: the image cannot be read"),
        ([tmp_path / "x.png", "--alpha", "2"], "not between 0 and 1"),
        ([tmp_path / "x.png", "--no-slide", "--window", "64"], "leave out --window"),
        ([tmp_path / "x.png", "--window", "1", "2", "3"], "--window 1 2 3: give height and width"),
        ([tmp_path / "x.png", "--scales", "1", "0"], "factors are above 0"),
        ([tmp_path / "x.png"], "no such model folder"),
    ]
    for arguments, words in cases:
        assert predict(*arguments, "--model", tmp_path / "no-model", "--output", out) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
        assert not out.exists()
    assert predict(tmp_path / "x.png", "--model", tmp_path / "no-model", "--output", tmp_path) == 1
    assert "replace the picture itself" in capsys.readouterr().err


def test_a_picture_on_the_web(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    picture().save(tmp_path / "street.png")
    out = tmp_path / "out"
    assert predict(tmp_path / "street.png", "--model", model_folder, "--output", tmp_path / "local") == 0
    with FileServer() as server:
        server.files["/a/my%20street.png?size=big"] = (tmp_path / "street.png").read_bytes()
        server.files["/page"] = b"<!DOCTYPE html><html>Please log in</html>"
        url = f"{server.url}/a/my%20street.png?size=big"
        assert predict(url, "--model", model_folder, "--output", out) == 0
        assert (out / "my_street.png").read_bytes() == (tmp_path / "local" / "street.png").read_bytes()
        assert json.loads((out / "my_street.json").read_text())["image"] == url
        capsys.readouterr()
        for address, words in (
            (
                f"{server.url}/none.png",
                "none.png: the picture cannot be fetched (the server answered 404: there is nothing",
            ),
            (f"{server.url}/page", "/page: the image cannot be read (it is no picture, but seems to be a web page)"),
            ("http://127.0.0.1:1/a.png", "the picture cannot be fetched (no connection: "),
        ):
            assert predict(address, "--model", model_folder, "--output", tmp_path / "none") == 1
            (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("fetching ")]
            assert words in line and not (tmp_path / "none").exists()


def test_many_pictures_on_the_web(model_folder, tmp_path, capsys, monkeypatch):
    """They are fetched while others are labelled, a bounded number ahead, and their copies go."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    for index in range(24):
        picture(90 if index % 3 else 60).save(tmp_path / f"{index}.png")
    out = tmp_path / "out"
    with FileServer() as server:
        for index in range(24):
            server.files[f"/{index}.png"] = (tmp_path / f"{index}.png").read_bytes()
        addresses = [f"{server.url}/{index}.png" for index in range(24)]
        lost = [f"{server.url}/lost.png", *addresses[:12], f"{server.url}/page.png", *addresses[12:]]
        server.files["/page.png"] = b"<!DOCTYPE html><html>Please log in</html>"
        options = ("--model", model_folder, "--memory_format", "contiguous", "--on_error", "skip", "--batch_size", 2)
        assert predict(*lost, *options, "--output", out) == 1
        assert list(copies.iterdir()) == []
        pictures = [Input.on_the_web(address) for address in addresses]
        with Downloads(pictures, copies, Failures()) as downloads:
            assert downloads.first().picture.name == addresses[0]
        assert len(list(copies.iterdir())) <= 8, "only some are fetched ahead"
    error = capsys.readouterr().err
    assert "2 pictures could not be labelled:" in error and "lost.png: the picture cannot be fetched" in error
    assert "page.png: the image cannot be read (it is no picture, but seems to be a web page)" in error
    assert sorted(path.stem for path in out.glob("*.json")) == sorted(map(str, range(24)))
    for index in (0, 1, 23):
        assert Image.open(out / f"{index}.png").size == (90 if index % 3 else 60, 60)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"my notes\n" * 99, "text"),
        (b'{"a": 1}', "JSON"),
        (b"%PDF-1.7 \xe2\xe3", "a PDF document"),
        (b"\x00\x00\x00\x20ftypisom\x00\x00", "a video (MP4 or QuickTime)"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "a HEIC picture"),
        (b"\x01\x02\x03\xfe" * 20, "of a kind that is not known here"),
    ],
)
def test_a_file_that_is_no_picture(content, words, tmp_path, capsys):
    (tmp_path / "x.dat").write_bytes(content)
    assert predict(tmp_path / "x.dat", "--model", tmp_path / "none", "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"x.dat: the image cannot be read (it is no picture, but seems to be {words}" in error
    assert error.count("\n") == 1


def test_results_are_not_overwritten_unasked(model_folder, tmp_path, capsys):
    picture().save(tmp_path / "x.png")
    arguments = [tmp_path / "x.png", "--model", model_folder, "--output", tmp_path / "out"]
    assert predict(*arguments) == 0
    assert predict(*arguments) == 1
    assert "3 results exist already" in capsys.readouterr().err
    assert predict(*arguments, "--overwrite") == 0


def test_as_a_program(model_folder, tmp_path):
    picture().save(tmp_path / "x.png")
    command = [sys.executable, "-m", "segzoo", "predict", "x.png", "--model", str(model_folder), "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 pictures -> out"


def test_bfloat16_and_memory_format(model_folder, tmp_path, capsys):
    picture().save(tmp_path / "street.png")
    options = ["--model", model_folder, "--dtype", "bfloat16", "--memory_format", "contiguous"]
    assert predict(tmp_path / "street.png", *options, "--output", tmp_path / "out") == 0
    assert "memory format: contiguous, as asked for" in capsys.readouterr().err
    found = np.asarray(Image.open(tmp_path / "out" / "street.png"))

    model = SegZooForSemanticSegmentation.from_pretrained(model_folder)
    processor = SegZooImageProcessor.from_pretrained(model_folder)
    settings = InferenceSettings((64, 64), (32, 32))
    exact = Predictor(model, processor, settings).label_map(picture(), (60, 90)).numpy()
    assert (found == exact).mean() > 0.9
    half = Predictor(model.bfloat16(), processor, settings).label_map(picture(), (60, 90)).numpy()
    assert (found == half).mean() > 0.9


def test_dtype_and_format_by_this_machine(model_folder, tmp_path, capsys):
    picture().save(tmp_path / "street.png")
    options = ["--model", model_folder, "--dtype", "auto"]
    assert predict(tmp_path / "street.png", *options, "--output", tmp_path / "out") == 0
    shown = capsys.readouterr().err
    assert f"computing in {'bfloat16' if has_bfloat16() else 'float32'}\n" in shown and "memory format: c" in shown

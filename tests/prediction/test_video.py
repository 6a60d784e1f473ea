"""Videos in and out: every frame, the same speed, and the labels that the frames have as pictures."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.commands.cli import main
from segzoo.heads import FCNHeadConfig
from segzoo.hub import save_model_folder
from segzoo.prediction.video import read_facts, read_frames

av = pytest.importorskip("av")


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


@pytest.fixture
def video(tmp_path):
    """Seven frames of 65 x 48 pixels at 12.5 frames per second, without losses; the fifth comes late."""
    path = tmp_path / "drive.mkv"
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25, 2))
        stream.width, stream.height, stream.pix_fmt = 65, 48, "bgr0"
        for index in range(7):
            levels = noise.integers(0, 256, (48, 65, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame.pts, frame.time_base = index + (index >= 4), Fraction(2, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_overlay_video(tiny_model, video, tmp_path, capsys):
    frames = list(read_frames(video, "drive"))
    assert len(frames) == 7 and frames[0].levels.shape == (48, 65, 3)
    out = tmp_path / "out"
    options = (video, "--model", tiny_model, "--output", out)
    assert predict(*options, "--batch_size", "2", "--memory_format", "contiguous") == 0
    assert "drive.mkv: " in capsys.readouterr().out
    facts = json.loads((out / "drive.json").read_text())
    found = segzoo.predict(tiny_model, [frame.levels for frame in frames], device="cpu")
    pixels = {area["name"]: 0 for one in found for area in one.areas}
    for one in found:
        for area in one.areas:
            pixels[area["name"]] += area["pixels"]
    for area in facts["classes"]:
        assert area["pixels"] == pytest.approx(pixels[area["name"]], abs=20)
    assert (facts["frames"], facts["width"], facts["height"]) == (7, 65, 48)
    assert sum(area["fraction"] for area in facts["classes"]) == pytest.approx(1)

    drawn = list(read_frames(out / "drive_overlay.mp4", "overlay"))
    assert [float(f.ticks * f.unit) for f in drawn] == pytest.approx(
        [float(f.ticks * f.unit) for f in frames], abs=2e-3
    )
    assert drawn[0].levels.shape == (48, 66, 3), "an even size"
    assert read_facts(video, "drive").rate == Fraction(25, 2)
    assert sorted(path.name for path in out.glob("[!.]*")) == ["drive.json", "drive_overlay.mp4"]

    assert predict(*options) == 1 and "2 results exist already" in capsys.readouterr().err
    assert predict(*options[:3], "--output", tmp_path / "d", "--as_dataset") == 1
    assert "of a video only an overlay is made" in capsys.readouterr().err
    (tmp_path / "broken.mp4").write_bytes(video.read_bytes()[:100])
    assert predict(tmp_path / "broken.mp4", *options[1:3], "--output", tmp_path / "e") == 1
    assert "broken.mp4: the video cannot be read" in capsys.readouterr().err and not (tmp_path / "e").exists()


def test_more_classes_than_bytes_and_remains(video, tmp_path):
    torch.manual_seed(0)
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), FCNHeadConfig(channels=16), num_labels=300)
    model, processor = SegZooForSemanticSegmentation(config).eval(), SegZooImageProcessor(size={"shortest_edge": 64})
    folder = save_model_folder(model, processor, tmp_path / "model")
    (tmp_path / "in" / "x").mkdir(parents=True)
    video.rename(tmp_path / "in" / "x" / "drive.mkv")
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (out / "x" / ".drive_overlay.mp4.99999999.partial").write_bytes(b"left by a killed run")
    options = ("--model", folder, "--output", out, "--memory_format", "contiguous", "--device", "cpu")
    assert predict(f"{tmp_path}/in/**/*.mkv", *options) == 0
    assert sorted(path.name for path in (out / "x").iterdir()) == ["drive.json", "drive_overlay.mp4"]
    facts = json.loads((out / "x" / "drive.json").read_text())
    assert sum(area["pixels"] for area in facts["classes"]) == 7 * 48 * 65

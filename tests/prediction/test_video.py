"""Videos in and out: every frame, the same speed, and the labels that the frames have as pictures."""

import contextlib
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.commands.cli import main
from segzoo.heads import FCNHeadConfig
from segzoo.hub import save_model_folder
from segzoo.prediction import segments
from segzoo.prediction.labeller import Labeller, Speed, load_labeller
from segzoo.prediction.record import read_records
from segzoo.prediction.segments import Parts, Segment, VideoTargets
from segzoo.prediction.video import label_video, read_facts, read_frames

av = pytest.importorskip("av")


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


@pytest.fixture
def video(tmp_path):
    """Seven frames of 65 x 48 pixels at 12.5 frames per second, without losses; the fifth comes late."""
    write_video(tmp_path / "drive.mkv", 7)
    return tmp_path / "drive.mkv"


def write_video(path, num_frames):
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25, 2))
        stream.width, stream.height, stream.pix_fmt = 65, 48, "bgr0"
        for index in range(num_frames):
            levels = noise.integers(0, 256, (48, 65, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame.pts, frame.time_base = index + (index >= 4), Fraction(2, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("[!.]*")) if path.is_file()
    }


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


UPRIGHT = {
    "as it is": ((1, 0, 0, 1), lambda a: a),
    "left": ((0, -1, 1, 0), lambda a: np.rot90(a)),
    "right": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "around": ((-1, 0, 0, -1), lambda a: a[::-1, ::-1]),
    "mirror": ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda a: a[::-1]),
    "diagonal": ((0, 1, 1, 0), lambda a: a.swapaxes(0, 1)),
    "other diagonal": ((0, -1, -1, 0), lambda a: a[::-1, ::-1].swapaxes(0, 1)),
}


@pytest.mark.parametrize("case", UPRIGHT)
def test_cameras_in_every_position_and_pixels_that_are_no_squares(case, tiny_model, tmp_path):
    (a, b, c, d), upright = UPRIGHT[case]
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(tmp_path / "plain.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    content = (tmp_path / "plain.mp4").read_bytes()
    place = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "held.mp4").write_bytes(content[:place] + matrix + content[place + len(matrix) :])
    (stored,), (frame,) = (list(read_frames(tmp_path / name, name)) for name in ("plain.mp4", "held.mp4"))
    assert np.array_equal(frame.levels, upright(stored.levels))

    assert predict(tmp_path / "held.mp4", "--model", tiny_model, "--output", tmp_path / "out", "--device", "cpu") == 0
    (drawn,) = read_frames(tmp_path / "out" / "held_overlay.mp4", "overlay")
    assert drawn.levels.shape == frame.levels.shape
    assert drawn.pixel_aspect == frame.pixel_aspect == (Fraction(4, 3) if a else Fraction(3, 4))


def shown(path):
    """The frames of a video as bytes, and when they are shown."""
    return [(frame.levels.tobytes(), float(frame.ticks * frame.unit)) for frame in read_frames(path, path.name)]


def test_going_on_at_the_last_whole_segment(tiny_model, video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 3)
    command = (video, "--model", tiny_model, "--memory_format", "contiguous", "--device", "cpu", "--batch_size", "2")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert predict(*command, "--output", whole, "--frame_labels") == 0
    times = [float(frame.ticks * frame.unit) for frame in read_frames(video, "drive")]
    assert [time for _, time in shown(whole / "drive_overlay.mp4")] == pytest.approx(times, abs=1e-3)
    labels = [np.array(Image.open(whole / "drive_frames" / f"{index:06}.png")) for index in range(7)]
    assert len(list((whole / "drive_frames").iterdir())) == 7
    counted = np.bincount(np.stack(labels).ravel(), minlength=5)
    classes = json.loads((whole / "drive.json").read_text())["classes"]
    assert {area["id"]: area["pixels"] for area in classes} == {int(i): counted[i] for i in np.flatnonzero(counted)}
    found = segzoo.predict(tiny_model, [frame.levels for frame in read_frames(video, "drive")], device="cpu")
    assert all((label == one.label_map).mean() > 0.99 for label, one in zip(labels, found, strict=True))

    def end_at_the_fifth():
        seen.append(None)
        if len(seen) == 5:
            raise KeyboardInterrupt

    seen = []
    targets = VideoTargets(out / "drive_overlay.mp4", out / "drive.json", out / "drive_frames")
    shutil.copytree(whole, out)  # with the record
    for name in ("drive_overlay.mp4", "drive.json"):
        (out / name).unlink()
    labeller = load_labeller(tiny_model, (48, 65), device="cpu", speed=Speed(memory_format="contiguous"))
    (record,) = read_records(whole)
    parts = Parts(targets, video, go_on=False, made_with=record.key)
    facts = {"model": str(tiny_model)}
    with pytest.raises(KeyboardInterrupt):
        label_video(labeller, video, str(video), parts, batch_size=2, facts=facts, on_frame=end_at_the_fifth)
    first = targets.parts / "00000.mp4"
    written = first.stat().st_mtime_ns
    assert not (targets.parts / "00001.json").exists() and len(shown(first)) == 3
    assert Parts(targets, video, go_on=True, made_with=record.key).frames == 3 and first.stat().st_mtime_ns == written

    assert predict(*command, "--output", out, "--skip_existing") == 1, "without label maps of frames"
    assert "--alpha 0.55 --frame_labels), not label maps" in capsys.readouterr().err
    calls = []
    original = Labeller.label
    monkeypatch.setattr(Labeller, "label", lambda self, images: calls.append(len(images)) or original(self, images))
    assert predict(*command, "--output", out, "--skip_existing", "--frame_labels") == 0
    assert calls == [2, 1, 1], "four frames are left, in the batches of a run that was not ended"
    assert shown(out / "drive_overlay.mp4") == shown(whole / "drive_overlay.mp4")
    assert contents(out) == contents(whole)

    targets.parts.mkdir()  # killed before the segments were removed
    assert predict(*command, "--output", out, "--skip_existing", "--frame_labels") == 0
    assert not targets.parts.exists()
    parts = Parts(targets, video, go_on=True, made_with=record.key)
    parts.write(lambda file: Segment(3, 0, 2, "1/25", [0] * 5, 9))
    assert Parts(targets, video, go_on=True, made_with=record.key).frames == 3
    assert Parts(targets, video, go_on=True, made_with="another model").frames == 0, "nothing is mixed"
    (out / "drive.json").unlink()
    (out / "drive_overlay.mp4").unlink()
    assert predict(*command, "--output", out, "--frame_labels") == 1
    assert "label maps of frames exist already; add --overwrite" in capsys.readouterr().err
    assert predict(*command, "--output", out, "--frame_labels", "--as_dataset") == 1


@pytest.mark.slow
def test_a_killed_process_goes_on(tiny_model, tmp_path):
    """A real kill -9 in the middle of the second segment."""
    path, whole, out = tmp_path / "long.mkv", tmp_path / "whole", tmp_path / "out"
    write_video(path, 260)
    command = [str(path), "--model", str(tiny_model), "--memory_format", "contiguous", "--device", "cpu"]
    assert predict(*command, "--output", whole) == 0
    program = [sys.executable, "-m", "segzoo", "predict", *command, "--output", str(out), "--skip_existing"]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = out / ".long_overlay.mp4.parts" / "00000.json"
    while process.poll() is None and not first.exists():
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (out / "long.json").exists()
    written = first.stat().st_mtime_ns
    program += ["--batch_size", "1"]
    again = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    kept = []
    while again.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            kept.append(first.stat().st_mtime_ns)
        time.sleep(0.05)
    assert again.returncode == 0 and set(kept) == {written}
    assert len(shown(out / "long_overlay.mp4")) == 260
    assert shown(out / "long_overlay.mp4") == shown(whole / "long_overlay.mp4")
    assert contents(out) == contents(whole)


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

"""`segzoo data check` and `segzoo data show`: tables, JSON, exit codes, and sheets that show what a training sees."""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from segzoo.commands.cli import main
from segzoo.data import (
    DATASETS,
    Augmentation,
    SegmentationDataset,
    build_train_transform,
    draw_scene,
    load_segmentation_dataset,
)
from segzoo.data.checks.sheets import denormalize, draw_samples_as_trained
from segzoo.data.pipelines import read_pipeline
from segzoo.data.transforms import JointTransform
from segzoo.training import training_transform

SIZE = (48, 64)
SCENES = DATASETS["scenes"]


@pytest.fixture
def folder(tmp_path):
    """Scenes with a person in each, so that every class of the split occurs often."""
    root = tmp_path / "data"
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            picture, mask = draw_scene(10 * len(split) + number, size=SIZE)
            mask[:3] = np.arange(3 * SIZE[1]).reshape(3, -1) % 9
            PIL.Image.fromarray(picture).save(root / "images" / split / f"s{number}.png")
            PIL.Image.fromarray(mask).save(root / "annotations" / split / f"s{number}.png")
    return root


def data(*arguments):
    return main(["data", *map(str, arguments)])


def refused(capsys, *arguments):
    """The one line on stderr of a command that fails."""
    assert data(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("segzoo: error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


# check


def test_check_of_a_clean_folder(folder, capsys):
    assert data("check", folder, "--classes", "scenes") == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("all 6 pairs checked: nothing is wrong\n")
    assert (
        "train 4, validation 2" in captured.out and "9 from segzoo synthetic street scenes (9 classes)" in captured.out
    )
    for name in SCENES.classes:
        assert f" {name} " in captured.out
    assert "median-frequency balancing over train" in captured.out


def test_check_of_a_folder_with_names(folder, capsys):
    (folder / "id2label.json").write_text(json.dumps(SCENES.id2label))
    assert data("check", folder) == 0
    (folder / "id2label.json").unlink()
    assert data("check", folder) == 0
    assert "pass --classes or --num_labels" in capsys.readouterr().out


def test_check_reports_as_json(folder, tmp_path, capsys):
    (folder / "images/train/s1.png").write_bytes(b"broken")
    file = tmp_path / "report.json"
    assert data("check", folder, "--num_labels", 9, "--crop_size", 64, "--json", file) == 1
    printed = capsys.readouterr().out
    assert "error: corrupt picture\n  images/train/s1.png: " in printed and f"report: {file}" in printed
    values = json.loads(file.read_text())
    assert [f["kind"] for f in values["findings"]] == ["unreadable_image", "smaller_than_crop"]
    assert values["findings"][0]["cases"][0]["files"] == [str(folder / "images/train/s1.png")]
    assert values["settings"]["crop_size"] == [64, 64]
    assert data("check", folder, "--num_labels", 9, "--crop_size", 64, "--json", "-") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == values and "corrupt picture" in captured.err


def test_exit_status_of_check(folder):
    crop = ("check", folder, "--classes", "scenes", "--crop_size", 100)
    assert data(*crop) == 0, "warnings do not count"
    assert data(*crop, "--fail_on", "warning") == 1
    PIL.Image.new("L", SIZE[::-1], 9).save(folder / "annotations/train/s0.png")
    assert data(*crop) == 1
    assert data(*crop, "--fail_on", "never") == 0
    PIL.Image.open(folder / "images/train/s1.png").convert("L").save(folder / "images/train/s1.png")
    (folder / "annotations/train/s0.png").unlink()
    (folder / "images/train/s0.png").unlink()
    assert data("check", folder, "--classes", "scenes") == 0, "notes do not count"


def test_check_in_a_process_of_its_own(folder):
    (folder / "annotations/val/s1.png").unlink()
    command = [sys.executable, "-m", "segzoo", "data", "check", str(folder), "--classes", "scenes", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and json.loads(done.stdout)["num_errors"] == 1
    assert "picture without mask" in done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_check_refuses_wrong_options(folder, tmp_path, capsys):
    assert "nowhere" in refused(capsys, "check", tmp_path / "nowhere")
    assert "--max_samples is 0" in refused(capsys, "check", folder, "--max_samples", 0)
    assert "--crop_size is 1 2 3" in refused(capsys, "check", folder, "--crop_size", 1, 2, 3)
    assert "no folder" in refused(capsys, "check", folder, "--json", tmp_path / "none" / "report.json")
    assert "no split 'dev'" in refused(capsys, "check", folder, "--num_labels", 9, "--split", "dev")
    assert "leave out --num_labels" in refused(capsys, "check", folder, "--num_labels", 9, "--classes", "scenes")
    for wrong in ([], ["chek", folder], ["check"], ["check", folder, "--clases", "x"]):
        with pytest.raises(SystemExit) as end:
            data(*wrong)
        assert end.value.code == 2
    assert "show" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["check", "show"])
def test_help(action, capsys):
    with pytest.raises(SystemExit) as end:
        data(action, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: segzoo data {action}") and "--traceback" in text


def test_progress_goes_to_stderr(folder, capsys, monkeypatch):
    from segzoo.evaluation.progress import EvaluationProgress

    before = EvaluationProgress.__init__
    monkeypatch.setattr(EvaluationProgress, "__init__", lambda self, count: before(self, count, seconds=0))
    assert data("check", folder, "--classes", "scenes") == 0
    captured = capsys.readouterr()
    assert "6/6 images" in captured.err and "images/s" not in captured.out


# show


def holds(sheet, picture):
    """Whether a picture stands somewhere on a sheet, pixel by pixel."""
    sheet, picture = np.asarray(sheet), np.asarray(picture)
    height, width = picture.shape[:2]
    for y, x in np.argwhere((sheet == picture[0, 0]).all(axis=-1)):
        part = sheet[y : y + height, x : x + width]
        if part.shape == picture.shape and (part == picture).all():
            return True
    return False


def test_sheet_of_files(folder, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    options = ("--classes", "scenes", "--output", sheet, "--cell_width", SIZE[1])
    assert data("show", folder, *options, "--count", 2) == 0
    assert "train: 4 pairs" in capsys.readouterr().out
    drawn = PIL.Image.open(sheet)
    pictures = [np.asarray(PIL.Image.open(folder / f"images/train/s{i}.png")) for i in range(4)]
    assert [holds(drawn, picture) for picture in pictures] == [True, False, False, True], "spread evenly"
    mask = np.asarray(PIL.Image.open(folder / "annotations/train/s0.png"))
    assert mask.max() < 9 and holds(drawn, np.array(SCENES.palette, dtype=np.uint8)[mask])
    assert data("show", folder, *options, "--indices", 1, 0, "--split", "validation") == 0
    drawn = PIL.Image.open(sheet)
    assert holds(drawn, np.asarray(PIL.Image.open(folder / "images/val/s1.png"))) and not holds(drawn, pictures[0])


@pytest.mark.parametrize("more", [(), ("--augment", "--crop_size", 32, 32)], ids=["files", "augmented"])
def test_sheet_of_pictures_of_many_bands(tmp_path, capsys, more):
    """The first picture tells the number of channels."""
    root, rng = tmp_path / "bands", np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        bands = rng.random((40, 50, 5), dtype=np.float32)
        tifffile.imwrite(root / "images" / split / "a.tif", bands, photometric="minisblack", planarconfig="contig")
        PIL.Image.fromarray(np.zeros((40, 50), np.uint8)).save(root / "annotations" / split / "a.png")
    assert data("show", root, "--num_labels", 1, "--output", tmp_path / "sheet.png", *more) == 0
    assert "train: 1 pairs" in capsys.readouterr().out


def test_sheet_of_what_a_training_sees(folder, tmp_path):
    sheet = tmp_path / "sheet.png"
    crop = ("--augment", "--crop_size", 32, 40, "--seed", 7, "--scale_range", 0.4, 2)
    options = ("--classes", "scenes", "--output", sheet, "--cell_width", 40)
    assert data("show", folder, *options, *crop, "--indices", 2, "--epoch", 0, 3) == 0
    drawn = PIL.Image.open(sheet)

    from segzoo import SegZooImageProcessor

    transform = training_transform(
        SegZooImageProcessor(do_resize=False), Augmentation(crop_size=(32, 40), scale_range=(0.4, 2))
    )
    trained = SegmentationDataset(load_segmentation_dataset(folder)["train"], transform, seed=7)
    for epoch, index, expected in ((0, 2, True), (3, 2, True), (1, 2, False), (0, 1, False)):
        trained.set_epoch(epoch)
        item = trained[index]
        assert holds(drawn, denormalize(item["pixel_values"], transform)) is expected
        if expected and (item["labels"] < 9).all():
            assert holds(drawn, np.array(SCENES.palette, dtype=np.uint8)[item["labels"].numpy()])


def test_the_sheet_shows_the_transforms_of_a_file(folder, tmp_path, capsys):
    sheet, file = tmp_path / "sheet.png", tmp_path / "aug.yaml"
    file.write_text("[{RandomRotation: {degrees: 30}}, RandomHorizontalFlip]")
    options = ("--classes", "scenes", "--output", sheet, "--augmentation", file, "--indices", 1)
    assert data("show", folder, *options, "--augment", "--crop_size", 32, 40, "--cell_width", 40, "--seed", 7) == 0
    assert "RandomRotation, RandomHorizontalFlip, then crops of 40x32" in capsys.readouterr().out

    augmentation = Augmentation(crop_size=(32, 40), pipeline=read_pipeline(file))
    transform = build_train_transform(augmentation)
    trained = SegmentationDataset(load_segmentation_dataset(folder)["train"], transform, seed=7)
    assert holds(PIL.Image.open(sheet), denormalize(trained[1]["pixel_values"], transform))
    for extra, message in (
        ((), "for --augment"),
        (("--augment", "--scale_range", 1, 2), "takes the place of --scale_range"),
    ):
        assert data("show", folder, *options, *extra) == 1
        assert message in capsys.readouterr().err


def test_a_mixture_is_checked_and_shown(folder, tmp_path, capsys):
    mix = tmp_path / "mix.yaml"
    source = f"{{data: {folder}, classes: scenes, map: {{car: thing, person: thing}}, default: ignore, repeat: 2}}"
    mix.write_text(f"classes: [thing, road]\nsources: [{source}]")
    assert data("check", mix, "--num_workers", 0) == 0
    assert "thing" in capsys.readouterr().out
    for extra, pairs in ((), 4), (("--augment", "--crop_size", 32), 8):
        assert data("show", mix, "--output", tmp_path / "sheet.png", *extra) == 0
        assert f"train: {pairs} pairs" in capsys.readouterr().out


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_denormalized_pictures_are_exact(channel_order):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    transform = JointTransform(channel_order=channel_order, mean=(0.4, 0.5, 0.45), std=(0.2, 0.25, 0.3))
    assert (denormalize(transform(image)["pixel_values"], transform) == image).all()
    plain = JointTransform(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), rescale_factor=1.0)
    assert (denormalize(plain(image)["pixel_values"], plain) == image).all()


def test_padding_and_ignored_pixels_have_no_colour(folder):
    transform = build_train_transform(
        Augmentation(crop_size=(64, 64), scale_range=(1, 1), photometric_distortion=False, flip_probability=0)
    )
    dataset = SegmentationDataset(load_segmentation_dataset(folder)["train"], transform)
    sheet = np.asarray(
        draw_samples_as_trained(dataset, [0], names=SCENES.classes, palette=SCENES.palette, cell_width=64)
    )
    padded = np.full((64, 64, 3), 0, dtype=np.uint8)
    padded[:48] = np.asarray(PIL.Image.open(folder / "images/train/s0.png"))
    padded[48:] = denormalize(torch.zeros(3, 1, 1), transform)[0, 0]
    assert holds(sheet, padded)


def test_show_goes_on_after_a_broken_pair(folder, tmp_path, capsys):
    (folder / "images/train/s1.png").write_bytes(b"broken")
    ids = np.array(PIL.Image.open(folder / "annotations/train/s2.png"))
    ids[0, 0] = 77
    PIL.Image.fromarray(ids).save(folder / "annotations/train/s2.png")
    sheet = tmp_path / "sheet.png"
    for extra in ((), ("--augment", "--crop_size", 32)):
        assert data("show", folder, "--classes", "scenes", "--output", sheet, *extra) == 0
        notes = capsys.readouterr().err
        assert "note: " in notes and "s1.png" in notes and "77 (1 pixel)" in notes
        sheet.unlink()
    assert data("show", folder, "--output", sheet, "--indices", 1) == 1
    assert "None of the chosen pairs" in capsys.readouterr().err and not sheet.exists()


def test_huge_pictures_are_shrunk_first(tmp_path):
    root = tmp_path / "data"
    for kind, mode in (("images", "RGB"), ("annotations", "L")):
        (root / kind / "train").mkdir(parents=True)
        PIL.Image.new(mode, (3000, 1000), 3 if mode == "L" else (9, 9, 9)).save(root / kind / "train" / "big.png")
    assert data("show", root, "--num_labels", 4, "--output", tmp_path / "sheet.webp") == 0
    assert PIL.Image.open(tmp_path / "sheet.webp").width < 1200


def test_show_refuses_wrong_options(folder, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    good = ("show", folder, "--classes", "scenes", "--output")
    assert "name a picture" in refused(capsys, *good, tmp_path / "sheet.txt")
    assert "no folder" in refused(capsys, *good, tmp_path / "none" / "sheet.png")
    assert "pairs 0 to 3" in refused(capsys, *good, sheet, "--indices", 4)
    assert "--augment, which is missing" in refused(capsys, *good, sheet, "--crop_size", 32)
    assert "--epoch counts from 0" in refused(capsys, *good, sheet, "--augment", "--epoch", -1)
    assert "not between 0 and 1" in refused(capsys, *good, sheet, "--alpha", 2)
    assert "no recipe" in refused(capsys, *good, sheet, "--augment", "--recipe", "none-such").lower()
    assert not sheet.exists()

"""`segzoo evaluate`: numbers against NumPy, interruptions, processes, the model card, and errors before the start."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.commands.cli import main
from segzoo.data import DataSource
from segzoo.data.scenes import SCENES, write_scenes
from segzoo.errors import SegZooError
from segzoo.evaluation import EvaluationOptions, Scored
from segzoo.hub import save_model_folder
from segzoo.inference import InferenceSettings

COUNT = 15
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes of these tests
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes with one picture of another size, and one whose mask counts nowhere."""
    folder = write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=1, num_validation=COUNT, size=(48, 64))
    for kind, method in (("images", Image.Resampling.BICUBIC), ("annotations", Image.Resampling.NEAREST)):
        (path,) = (folder / kind / "validation").glob("scene_00003.*")
        Image.open(path).resize((72, 40), method).save(path)
    path = folder / "annotations" / "validation" / "scene_00005.png"
    Image.fromarray(np.full((48, 64), 255, dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    config = SegZooConfig(**{**SegZooConfig.tiny().to_dict(), "id2label": SCENES.id2label, "palette": None})
    model = SegZooForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_heads[-1].classifier.weight, std=2.0)
    with torch.no_grad():
        model.decode_heads[-1].classifier.bias.add_(torch.randn(config.num_labels) * 3)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_model_folder(model, SegZooImageProcessor(do_resize=False), folder)


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def results(folder):
    """All results but for the facts of the run."""
    held = json.loads((folder / "results.json").read_text())
    assert held.pop("run")["date"]
    return held


@pytest.fixture(scope="module")
def reference(scenes, model_folder, tmp_path_factory):
    """One uninterrupted run of one process."""
    output = tmp_path_factory.mktemp("reference") / "out"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert evaluate(model_folder, scenes, "--output", output, "--save_predictions", "--worst", 2) == 0
    torch.set_num_threads(threads)
    return output


def test_python_gives_the_same_report(scenes, model_folder, reference, tmp_path):
    options = EvaluationOptions(output=tmp_path / "out", save_predictions=True)
    report = segzoo.evaluate(model_folder, scenes, options=options, worst=2, device="cpu")
    assert report.metrics["mean_iou"] == results(reference)["metrics"]["mean_iou"]
    assert results(tmp_path / "out") == results(reference)
    few = segzoo.evaluate(
        model_folder,
        Scored(data=DataSource(scenes), max_samples=3),
        settings=InferenceSettings(flip=True),
        device="cpu",
    )
    assert few.num_images == 3 and "no flip" in report.protocol and "no flip" not in few.protocol
    same = segzoo.evaluate(model_folder, scenes, max_samples=3, flip=True, scales=1, device="cpu")
    assert (same.num_images, same.protocol, same.metrics["mean_iou"]) == (3, few.protocol, few.metrics["mean_iou"])
    for wrong, words in (
        ({"max_sample": 3}, "no option 'max_sample'; did you mean 'max_samples'"),
        ({"settings": InferenceSettings(), "flip": True}, "has settings and flip; leave one out"),
        ({"window": [1, 2, 3]}, "--window 1 2 3: give height and width"),
    ):
        with pytest.raises(SegZooError, match=words):
            segzoo.evaluate(model_folder, scenes, **wrong)
    with pytest.raises(SegZooError, match="--dataset camvid gives the classes"):
        Scored(data=DataSource(scenes), dataset="camvid", num_labels=4)


def test_numbers_follow_from_the_predictions(scenes, model_folder, reference):
    model = SegZooForSemanticSegmentation.from_pretrained(model_folder).eval()
    processor = SegZooImageProcessor.from_pretrained(model_folder)
    classes = range(len(SCENES.classes))
    inside, either, true, said, right = (np.zeros(len(classes)) for _ in range(5))
    per_image = []
    for path in sorted((scenes / "images" / "validation").iterdir()):
        found = np.asarray(Image.open(reference / "predictions" / f"{path.stem}.png"))
        truth = np.asarray(Image.open(scenes / "annotations" / "validation" / f"{path.stem}.png"))
        with torch.no_grad():
            outputs = model(**processor(images=Image.open(path), return_tensors="pt"))
        (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[truth.shape])
        assert np.array_equal(found, expected.numpy())
        counts = truth != 255
        ious = []
        for c in classes:
            t, p = (truth == c) & counts, (found == c) & counts
            inside[c] += (t & p).sum()
            either[c] += (t | p).sum()
            true[c] += t.sum()
            said[c] += p.sum()
            if (t | p).any():
                ious.append((t & p).sum() / (t | p).sum())
        right += ((truth == found) & counts).sum()
        per_image.append((np.mean(ious) if ious else np.nan, counts.sum()))
    assert (said > 0).sum() > 2, "the model says more than one thing"
    held = results(reference)
    present = either > 0
    metrics = held["metrics"]
    assert metrics["mean_iou"] == pytest.approx((inside[present] / either[present]).mean(), rel=1e-12)
    assert metrics["mean_accuracy"] == pytest.approx((inside / true)[true > 0].mean(), rel=1e-12)
    assert metrics["overall_accuracy"] == pytest.approx(inside.sum() / true.sum(), rel=1e-12)
    assert metrics["mean_dice"] == pytest.approx((2 * inside / (true + said))[true + said > 0].mean(), rel=1e-12)
    assert metrics["mean_precision"] == pytest.approx((inside / np.maximum(said, 1))[said > 0].mean(), rel=1e-12)
    for c in classes:
        row = held["classes"][c]
        assert (row["name"], row["pixels"], row["predicted_pixels"]) == (SCENES.classes[c], true[c], said[c])
        assert row["iou"] == pytest.approx(inside[c] / either[c], rel=1e-12)
    assert held["num_images"] == COUNT and held["num_pixels"] == true.sum()
    rows = list(csv.DictReader((reference / "images.csv").open()))
    assert [int(row["index"]) for row in rows] == list(range(COUNT))
    for row, (mean_iou, pixels) in zip(rows, per_image, strict=True):
        assert float(row["mean_iou"]) == pytest.approx(mean_iou, rel=1e-12, nan_ok=True)
        assert int(row["num_pixels"]) == pixels
    order = sorted((iou, i) for i, (iou, pixels) in enumerate(per_image) if pixels)
    worst = sorted(file.name for file in (reference / "worst").iterdir())
    assert worst == [f"{n}_scene-{i:05d}.png" for n, (_, i) in zip(("01", "02"), order, strict=False)]


def test_every_output_says_the_protocol(reference, capsys):
    assert "whole image; no flip; scored at each image's original size" in results(reference)["protocol"]
    assert "protocol: single scale" in (reference / "results.txt").read_text()
    (file,) = (reference / ".eval_results").iterdir()
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert "whole image" in entry.notes and entry.value == results(reference)["metrics"]["mean_iou"]
    assert "whole image" in (reference / "model-index.yaml").read_text()
    for name in ("worst.png", "confusion_matrix.png"):
        assert Image.open(reference / name).width > 300


def test_the_worst_images_are_predicted_once(scenes, model_folder, reference, tmp_path, monkeypatch):
    monkeypatch.setattr("segzoo.evaluation.job.Predictor", None)
    assert evaluate(model_folder, scenes, "--output", tmp_path / "out", "--worst", 2) == 0
    for file in (reference / "worst").iterdir():
        assert np.array_equal(Image.open(tmp_path / "out" / "worst" / file.name), Image.open(file))


def test_without_a_folder(scenes, model_folder, reference, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(model_folder, scenes, "--json", "-") == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed["metrics"] == results(reference)["metrics"] and printed["run"]["images_scored"] == COUNT
    assert "protocol: single scale" in captured.err and "pixel accuracy" in captured.err and "images/s" in captured.err
    assert not list(tmp_path.iterdir())
    assert (
        evaluate(model_folder, scenes, "--json", "r.json", "--max_samples", 4, "--split", "val", "--batch_size", 3)
        == 0
    )
    held = json.loads((tmp_path / "r.json").read_text())
    assert held["protocol"].endswith("only 4 of 15 images, spread evenly")
    assert held["num_images"] == 4 and "class              IoU" in capsys.readouterr().out


def test_two_processes_equal_one(scenes, model_folder, reference, tmp_path):
    command = [
        *LAUNCH,
        "segzoo",
        "evaluate",
        model_folder,
        scenes,
        "--output",
        tmp_path / "out",
        "--save_predictions",
    ]
    done = subprocess.run(
        [str(word) for word in command], env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 x cpu" in done.stderr and done.stdout.count("pixel accuracy") == 1
    assert results(tmp_path / "out") == results(reference)
    assert (tmp_path / "out" / "images.csv").read_text() == (reference / "images.csv").read_text()
    assert len(list((tmp_path / "out" / "state").iterdir())) == 2
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == COUNT


def scored(state):
    try:
        return [len(json.loads(file.read_text())["images"]) for file in state.glob("scores_*.json")]
    except (OSError, ValueError):
        return []


@pytest.mark.slow
def test_killed_and_continued_by_more_processes(scenes, model_folder, tmp_path):
    """Killed with -9 in the middle; two processes go on; the result is that of a run that nobody disturbed."""
    options = [model_folder, scenes, "--scales", 0.5, 1, 2, "--flip", "--window", 32, "--batch_size", 2, "--worst", 0]
    options += ["--save_predictions", "--save_every", 0, "--output"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert evaluate(*options, whole) == 0
    command = ["segzoo", "evaluate", *map(str, options), str(out)]
    process = subprocess.Popen([sys.executable, "-m", *command], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(scored(out / "state")) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before its end"
    before = sum(scored(out / "state"))
    assert 4 <= before < COUNT and before % 2 == 0 and not (out / "results.json").exists()

    done = subprocess.run([*TORCHRUN, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"going on: {before} of {COUNT} images are scored already" in done.stderr
    assert sum(scored(out / "state")) == COUNT
    assert results(out) == results(whole)
    for name in ("results.txt", "images.csv", "confusion_matrix.csv", "confusion_matrix.npy", "confusion_matrix.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    for file in (whole / "predictions").iterdir():
        assert (out / "predictions" / file.name).read_bytes() == file.read_bytes()
    protocol = results(out)["protocol"]
    assert "windows of 32x32 with step 21x21" in protocol and "scales 0.5, 1, 2" in protocol
    (file,) = (out / ".eval_results").iterdir()
    assert file.stem.endswith("_validation_windows-32x32-21x21_scales-0.5-1-2_flip")


def test_a_finished_evaluation_is_not_repeated_and_settings_are_kept_apart(
    scenes, model_folder, reference, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    options = [model_folder, scenes, "--output", out, "--save_predictions"]
    assert evaluate(*options, "--worst", 1) == 0
    assert f"going on: {COUNT} of {COUNT}" in capsys.readouterr().err
    assert results(out) == results(reference) and len(list((out / "worst").iterdir())) == 1
    assert evaluate(*options, "--flip") == 1
    error = capsys.readouterr().err
    assert "flip was false, is true" in error and "--overwrite" in error and error.count("\n") == 1
    assert results(out) == results(reference), "what is there stays"
    assert evaluate(*options, "--flip", "--overwrite", "--worst", 0) == 0
    assert results(out)["settings"]["flip"] and not (out / "worst").exists() and not (out / "worst.png").exists()
    (file,) = (out / ".eval_results").iterdir()
    assert file.stem.endswith("flip")


def test_another_model_or_other_masks_start_anew(scenes, model_folder, tmp_path, capsys):
    data, model = shutil.copytree(scenes, tmp_path / "data"), shutil.copytree(model_folder, tmp_path / "model")
    options = [model, data, "--output", tmp_path / "out", "--worst", 0, "--max_samples", 2]
    assert evaluate(*options) == 0
    loaded = SegZooForSemanticSegmentation.from_pretrained(model)
    with torch.no_grad():
        next(loaded.parameters())[0] += 1e-6
    loaded.save_pretrained(model)
    capsys.readouterr()
    assert evaluate(*options) == 1
    assert "model was " in capsys.readouterr().err
    assert evaluate(*options, "--overwrite") == 0
    mask = data / "annotations" / "validation" / "scene_00003.png"
    Image.fromarray(np.zeros((40, 72), dtype=np.uint8)).save(mask)
    capsys.readouterr()
    assert evaluate(*options) == 1
    assert "data was " in capsys.readouterr().err


def test_the_model_card(scenes, model_folder, tmp_path, capsys):
    model = shutil.copytree(model_folder, tmp_path / "model")
    (model / "README.md").write_text("---\nlicense: mit # ours\n---\n\n# Mine\n\nAbout it.\n")
    options = [model, scenes, "--write_card", "--max_samples", 3]
    assert evaluate(*options) == 0
    assert evaluate(*options) == 0
    assert evaluate(*options, "--flip", "--dataset_id", "me/scenes") == 0
    text = (model / "README.md").read_text()
    assert text.startswith("---\nlicense: mit # ours\n") and "# Mine\n\nAbout it.\n" in text
    found = ModelCard(text).data.eval_results
    assert [(r.dataset_type, r.metric_type) for r in found].count(("me/scenes", "mean_iou")) == 1
    assert len(found) == 6 and {r.metric_args["num_images"] for r in found} == {3}
    assert sorted(file.name.split("_", 1)[0] for file in (model / ".eval_results").iterdir()) == [
        "me-scenes",
        "segzoo-synthetic-street-scenes-9-classes",
    ]
    assert evaluate(model, scenes, "--write_card", "--max_samples", 2) == 0
    assert len(list((model / ".eval_results").iterdir())) == 3, "a part is not the whole, nor another part"
    SegZooForSemanticSegmentation.from_pretrained(model)
    (model / "README.md").write_text("---\na: [\n---\n")
    capsys.readouterr()
    assert evaluate(*options) == 1
    captured = capsys.readouterr()
    assert "no valid YAML" in captured.err and "protocol" not in captured.err, "found before the first image"


def test_no_scores_of_other_classes_go_into_the_card(scenes, model_folder, tmp_path, capsys):
    model = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] |= {"2": "lawn", "3": "kerb"}
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (model / "config.json").write_text(json.dumps(config))
    options = [model, scenes, "--write_card", "--max_samples", 1]
    assert evaluate(*options) == 1
    assert "--write_card: 2 classes are called otherwise" in capsys.readouterr().err
    assert not (model / ".eval_results").exists()
    assert evaluate(*options, "--num_labels", len(config["id2label"])) == 0
    assert (model / ".eval_results").exists()


def test_models_of_transformers(scenes, tmp_path, capsys):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=SCENES.id2label,
    )
    model = SegformerForSemanticSegmentation(config).eval()
    processor = SegformerImageProcessor(size={"height": 32, "width": 32})
    for part in (model, processor):
        part.save_pretrained(tmp_path / "segformer")
    out = tmp_path / "out"
    assert evaluate(tmp_path / "segformer", scenes, "--output", out, "--save_predictions", "--worst", 1) == 0
    for path in sorted((scenes / "images" / "validation").iterdir())[:4]:
        picture = Image.open(path)
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"))
        (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[picture.size[::-1]])
        found = np.asarray(Image.open(out / "predictions" / f"{path.stem}.png"))
        assert np.array_equal(found, expected.numpy())
    assert "images resized to 32x32" in results(out)["protocol"]


def test_data_without_files(scenes, model_folder, reference, tmp_path):
    """A table that holds its pictures, as the Hub's."""
    from segzoo.data import load_segmentation_dataset

    rows = load_segmentation_dataset(scenes).remove_columns(["image_path", "label_path"])
    rows.save_to_disk(tmp_path / "table")
    options = ["--save_predictions", "--worst", 1, "--classes", "scenes"]
    assert evaluate(model_folder, tmp_path / "table", "--output", tmp_path / "out", *options) == 0
    assert results(tmp_path / "out")["metrics"] == results(reference)["metrics"]
    assert (tmp_path / "out" / "predictions" / f"{COUNT - 1:06d}.png").is_file()


def test_label_rules(scenes, model_folder, tmp_path, capsys):
    """0 for 'no class': asked for, or the processor's where nothing is known of the data."""
    data = shutil.copytree(scenes, tmp_path / "data")
    for name in ("id2label.json", "manifest.json"):
        (data / name).unlink()
    shutil.copytree(model_folder, tmp_path / "model")
    processor = SegZooImageProcessor(do_resize=False, do_reduce_labels=True)
    processor.save_pretrained(tmp_path / "model")
    expected = 0
    for path in (data / "annotations" / "validation").iterdir():
        expected += int((np.asarray(Image.open(path)) != 255).sum())
        mask = np.asarray(Image.open(path)).copy()
        mask[mask != 255] += 1
        mask[mask == 255] = 0
        Image.fromarray(mask).save(path)
    seen = []
    for options in ([tmp_path / "model"], [model_folder, "--do_reduce_labels", "--num_labels", 9]):
        assert evaluate(options[0], data, *options[1:], "--json", "-") == 0
        captured = capsys.readouterr()
        seen.append(json.loads(captured.out))
        assert "in the masks 0 is no class" in captured.err and seen[-1]["num_pixels"] == expected
    assert seen[0]["metrics"] == seen[1]["metrics"] and seen[0]["classes"][2]["name"] == SCENES.classes[2]
    assert evaluate(model_folder, data) == 1
    assert "if 0 stands for 'no class', pass --do_reduce_labels" in capsys.readouterr().err


@pytest.fixture
def fail(scenes, model_folder, tmp_path, capsys):
    def run(*options, model=model_folder, data=scenes):
        assert evaluate(model, data, *options) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("segzoo: error: ") and captured.err.count("\n") == 1, captured.err
        assert captured.out == ""
        return captured.err

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_size", "0"], "--batch_size is 0; it must be 1 or more"),
        (["--window", "1", "2", "3"], "--window 1 2 3: give height and width"),
        (["--no-slide", "--window", "32"], "--no-slide takes whole images"),
        (["--slide"], "give their size as --window HEIGHT WIDTH"),
        (["--stride", "16"], "give their size as --window HEIGHT WIDTH"),
        (["--window", "32", "--stride", "64"], "make the stride at most the window"),
        (["--scales", "0"], "factors are above 0"),
        (["--classes", "scenes", "--num_labels", "9"], "leave out --num_labels"),
        (["--num_labels", "4"], "has 9 classes and the data 4 (--num_labels)"),
        (["--classes", "cityscapes"], "has 9 classes and the data 19"),
        (["--classes", "no_such"], "neither a file nor a known data set"),
        (["--dataset", "citiscapes"], "No facts about a data set called 'citiscapes'. Nearest: cityscapes"),
        (["--dataset", "drive", "--num_labels", "2"], "leave out --num_labels, or --dataset"),
        (["--split", "tset"], "has no such split; it has train, validation"),
        (["--save_predictions"], "--save_predictions needs --output"),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--device", "cuda"], "cuda"),
        (["--device", "nonsense"], "--device nonsense: cannot be used here"),
        (["--device", "cpu", "--mixed_precision", "fp16"], "--mixed_precision fp16: cannot be used here (fp16 "),
        (["--ignore_index", "1", "--max_samples", "1"], "label ids outside 0..8"),
    ],
)  # fmt: skip
def test_refused_before_the_first_image(fail, options, message):
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert message in fail(*options)


def test_other_mistakes(fail, scenes, model_folder, tmp_path, capsys):
    assert "there is no such model folder" in fail(model=tmp_path / "none")
    assert "There is no folder" in fail(data=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "does not load as a segmentation model" in fail(model=tmp_path / "empty")
    name = "pspnet_r50-d8_512x1024_40k_cityscapes"
    assert f"{name} is a released checkpoint" in fail(model=name)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("my only copy")
    for more in ([], ["--overwrite"]):
        assert "is not empty and holds no evaluation" in fail("--output", tmp_path / "full", *more)
    assert "is a file" in fail("--output", tmp_path / "full" / "thesis.txt")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    data = shutil.copytree(scenes, tmp_path / "data")
    (data / "images" / "validation" / "scene_00000.jpg").write_bytes(b"no picture")
    assert "scene_00000.jpg: the image cannot be read" in fail(data=data)
    names = json.loads((scenes / "id2label.json").read_text())
    (tmp_path / "names.json").write_text(json.dumps(names | {"3": "sidewalk"}))
    assert evaluate(model_folder, scenes, "--classes", tmp_path / "names.json", "--max_samples", 1) == 0
    captured = capsys.readouterr()
    assert "note: 1 classes are called otherwise in the model, such as 3, 'sidewalk'" in captured.err
    assert "sidewalk" in captured.out


def test_a_bad_file_in_the_middle_keeps_what_is_scored(scenes, model_folder, tmp_path, capsys):
    data = shutil.copytree(scenes, tmp_path / "data")
    bad = data / "images" / "validation" / "scene_00009.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    assert evaluate(model_folder, data, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("segzoo: error: ") and "scene_00009.jpg: the image cannot be read" in error
    assert sum(scored(tmp_path / "out" / "state")) == 9


def test_interrupted_by_hand(scenes, model_folder, tmp_path, capsys, monkeypatch):
    from segzoo.evaluation.progress import EvaluationProgress

    def press(progress):
        if (tmp_path / "pressed").exists():
            raise KeyboardInterrupt
        (tmp_path / "pressed").touch()

    monkeypatch.setattr(EvaluationProgress, "image", press)
    options = [model_folder, scenes, "--output", tmp_path / "out", "--worst", 0, "--max_samples", 5]
    assert evaluate(*options) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    monkeypatch.undo()
    assert evaluate(*options) == 0
    assert "going on: 2 of 5" in capsys.readouterr().err
    assert results(tmp_path / "out")["num_images"] == 5


def vessels(folder, names):
    """A model with these classes, and two pictures of DRIVE with their masks as `segzoo data prepare` writes them."""
    torch.manual_seed(0)
    config = SegZooConfig(**{**SegZooConfig.tiny().to_dict(), "id2label": dict(enumerate(names)), "palette": None})
    model = SegZooForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_heads[-1].classifier.weight, std=2.0)
    processor = SegZooImageProcessor(size={"shortest_edge": 32, "longest_edge": 32})
    save_model_folder(model, processor, folder / "model")
    rng = np.random.default_rng(0)
    for kind, name, shape, most in (("images", "{}.jpg", (30, 40, 3), 256), ("annotations", "{}.png", (30, 40), 2)):
        (folder / "data" / kind / "val").mkdir(parents=True)
        for stem in ("01", "02"):
            pixels = rng.integers(0, most, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / kind / "val" / name.format(stem))
    (folder / "data" / "manifest.json").write_text('{"dataset": "drive"}')
    return folder / "model", folder / "data"


def test_a_known_data_set(tmp_path, capsys):
    """DRIVE with an output more than it has classes: size, classes and metric are the data set's."""
    model, data = vessels(tmp_path, ["background", "vessel", "LABEL_2"])
    out = tmp_path / "out"
    (model / "README.md").write_text("# fcn_unet_s5-d16_64x64_40k_drive\n")
    assert evaluate(model, data, "--dataset", "DRIVE", "--output", out, "--save_predictions", "--write_card") == 0
    captured = capsys.readouterr()
    assert "note: DRIVE retinal vessels is tested on pictures of at most 584x565 pixels" in captured.err
    assert "shorter side 565, longer side at most 584" in captured.err
    held = results(out)
    truth = np.stack([np.asarray(Image.open(data / f"annotations/val/{stem}.png")) for stem in ("01", "02")])
    found = np.stack([np.asarray(Image.open(out / f"predictions/{stem}.png")) for stem in ("01", "02")])
    assert set(np.unique(found)) == {0, 1, 2}, "all outputs are predicted"
    dice = [2 * ((truth == c) & (found == c)).sum() / ((truth == c).sum() + (found == c).sum()) for c in (0, 1)]
    assert held["metric"] == "mean_dice" and held["metrics"]["mean_dice"] == pytest.approx(np.mean(dice), rel=1e-12)
    assert [row["name"] for row in held["classes"]] == ["background", "vessel"]
    assert f"mDice {100 * np.mean(dice):.2f}, the metric of DRIVE retinal vessels" in captured.out.splitlines()[-2]
    assert captured.out.splitlines()[-1] == "published for fcn_unet_s5-d16_64x64_40k_drive: Dice of vessel 78.67"
    card = ModelCard((model / "README.md").read_text())
    assert "| measured with this folder, % | mDice | mIoU |" in card.content
    assert card.data.eval_results[0].metric_type == "mean_dice"

    # Without the option nothing changes: the model's own size, and as many classes as it has.
    assert evaluate(model, data) == 1
    assert "has 3 classes and the data 2 (DRIVE retinal vessels)" in capsys.readouterr().err
    assert evaluate(model, data, "--dataset", "stare") == 1
    assert "holds DRIVE retinal vessels; take --dataset drive" in capsys.readouterr().err
    config = json.loads((model / "config.json").read_text())
    config["id2label"] |= {"0": "vessel", "1": "background"}
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (model / "config.json").write_text(json.dumps(config))
    assert evaluate(model, data, "--dataset", "drive") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("segzoo: error: --dataset drive: 2 of 2 classes are others in ")
    assert [line.split() for line in lines[2:]] == [["0", "vessel", "background"], ["1", "background", "vessel"]]

"""Pictures of 1, 4 and 6 channels from file to logits: `segzoo data check`, `train`, `evaluate` and `predict`."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from support.forked import run_python
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.commands.cli import main
from segzoo.data import decode_image
from segzoo.hub import save_model_folder

SIZE = (40, 56)
CLASSES = 3


def draw(rng, channels, dtype=np.uint8):
    """A picture of noise with a brighter box, (height, width, channels), and the mask of the box."""
    mask = np.zeros(SIZE, np.uint8)
    top, left = rng.integers(0, 20, 2)
    mask[top : top + 18, left : left + 24] = 1 + rng.integers(0, CLASSES - 1)
    levels = rng.integers(0, 90, (*SIZE, channels)) + 60 * mask[..., None]
    return (levels.astype(dtype) * (257 if dtype == np.uint16 else 1)), mask


@dataclass(frozen=True)
class Kind:
    """A kind of picture files.

    Args:
        channels: of files and model.
        suffix: of the files.
        dtype: of the values.
        rule: what ``segzoo data check`` says about them.
    """

    channels: int
    suffix: str
    dtype: type
    rule: str

    def save(self, path: Path, values: np.ndarray) -> None:
        if self.suffix == ".tif":
            tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
        else:
            PIL.Image.fromarray(values[..., 0] if self.channels == 1 else values).save(path)

    def write(self, folder: Path, counts: dict[str, int]) -> Path:
        """A folder of pairs."""
        rng = np.random.default_rng(self.channels)
        for split, count in counts.items():
            for part in ("images", "annotations"):
                (folder / part / split).mkdir(parents=True)
            for number in range(count):
                values, mask = draw(rng, self.channels, self.dtype)
                self.save(folder / "images" / split / f"{split}{number}{self.suffix}", values)
                PIL.Image.fromarray(mask).save(folder / "annotations" / split / f"{split}{number}.png")
        return folder


KINDS = {
    "grey": Kind(1, ".png", np.uint8, "8 bits a channel, taken as they are"),
    "grey of 16 bits": Kind(1, ".png", np.uint16, "16 bits a channel, of which the upper 8 are taken"),
    "four channels": Kind(4, ".png", np.uint8, "8 bits a channel, taken as they are"),
    "six bands": Kind(6, ".tif", np.uint8, "8 bits a channel, taken as they are"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Gives the folder of a kind of pictures; each is written once."""
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            path = tmp_path_factory.mktemp("data") / "pairs"
            folders[kind] = KINDS[kind].write(path, {"train": 4, "validation": 2})
        return folders[kind]

    return folder


def run(*words):
    return main([str(word) for word in words])


def train(folder, output, *words):
    """`segzoo train` for two steps in this process, on one thread."""
    options = ("--num_labels", CLASSES, "--crop_size", 32, "--max_train_steps", 2, "--eval_steps", 0)
    batches = ("--per_device_train_batch_size", 2, "--dataloader_num_workers", 0, "--use_cpu")
    return run("train", "--dataset_name", folder, "--output_dir", output, *options, *batches, *words)


def new_model(channels):
    return (
        *("--backbone", "mobilenetv2", "--random_backbone", "--head", "fcn", "--head_channels", 8),
        *("--num_channels", channels),
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
def test_from_file_to_logits(kind, data, tmp_path, capsys):
    """A new model is trained on the files; evaluate and predict then give what the model's own processor gives."""
    folder, out, channels = data(kind), tmp_path / "model", KINDS[kind].channels
    assert run("data", "check", folder, "--num_labels", CLASSES, "--num_channels", channels) == 0
    assert f"values   {KINDS[kind].rule}" in capsys.readouterr().out

    assert train(folder, out, *new_model(channels)) == 0
    assert capsys.readouterr().out.count("note: no photometric distortion") == 1
    assert json.loads((out / "recipe.json").read_text())["photometric_distortion"] is False
    processor, model = AutoImageProcessor.from_pretrained(out), AutoModelForSemanticSegmentation.from_pretrained(out)
    assert model.config.backbone_config.num_channels == processor.num_channels == channels
    assert len(processor.image_mean) == len(processor.image_std) == channels
    assert PIL.Image.open(out / "figures" / "samples.png").width > 200

    assert run("evaluate", out, folder, "--num_labels", CLASSES, "--output", tmp_path / "scores", "--worst", 1) == 0
    assert PIL.Image.open(tmp_path / "scores" / "worst.png").width > 200
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())
    pictures = sorted((folder / "images" / "validation").iterdir())
    assert run("predict", *pictures, "--model", out, "--output", tmp_path / "maps") == 0
    right = 0
    for path in pictures:
        with torch.no_grad():
            logits = model(**processor(path, return_tensors="pt")).logits
        levels = torch.from_numpy(decode_image(path, num_channels=channels)).permute(2, 0, 1)
        mean, std = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
        with torch.no_grad():
            torch.testing.assert_close(model((levels / 255 - mean)[None] / std).logits, logits, rtol=1e-3, atol=1e-4)
        found = np.asarray(PIL.Image.open(tmp_path / "maps" / f"{path.stem}.png"))
        mask = np.asarray(PIL.Image.open(folder / "annotations" / "validation" / f"{path.stem}.png"))
        right += (found == mask).mean() / len(pictures)
    assert scores["metrics"]["overall_accuracy"] == pytest.approx(right, abs=1e-6)


def test_an_old_model_says_its_channels_itself(data, tmp_path, capsys):
    """Six bands go through a model that is loaded, streamed and in processes that load pictures."""
    config = SegZooConfig.tiny()
    config.backbone_config.num_channels = 6
    config.num_labels = CLASSES
    processor = SegZooImageProcessor(do_resize=False, num_channels=6, image_mean=0.4, image_std=0.2)
    folder = save_model_folder(SegZooForSemanticSegmentation(config), processor, tmp_path / "six")
    shards = ("--streaming", "--model_name_or_path", folder, "--eval_steps", 0)
    assert train(data("six bands"), tmp_path / "out", *shards) == 0
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").config.backbone_config.num_channels == 6
    capsys.readouterr()
    assert train(data("six bands"), tmp_path / "no", "--model_name_or_path", folder, "--num_channels", 4) == 1
    said = capsys.readouterr().err
    assert f"--num_channels 4: {folder} takes pictures of 6 channels" in said and "--backbone" in said
    SegZooImageProcessor().save_pretrained(folder)
    for command in (
        ("predict", *(data("six bands") / "images/train").iterdir(), "--model", folder, "--output", tmp_path / "maps"),
        ("evaluate", folder, data("six bands"), "--num_labels", CLASSES),
    ):
        assert run(*command) == 1
        assert "processor reads pictures of 3 channels, and the model takes 6" in capsys.readouterr().err


@pytest.mark.parametrize(("channels", "kind"), [(4, "grey"), (4, "six bands"), (6, "four channels"), (1, "six bands")])
def test_pictures_that_do_not_fit(channels, kind, data, tmp_path, capsys):
    """All four commands name the file, its channels, the model's and the fix; the training before its first step."""
    folder, found = data(kind), KINDS[kind].channels
    config = SegZooConfig.tiny()
    config.backbone_config.num_channels = channels
    config.num_labels = CLASSES
    processor = SegZooImageProcessor(do_resize=False, num_channels=channels, image_mean=0.4, image_std=0.2)
    model = save_model_folder(SegZooForSemanticSegmentation(config), processor, tmp_path / "model")
    pictures = sorted((folder / "images" / "validation").iterdir())
    for words in (
        ("data", "check", folder, "--num_labels", CLASSES, "--num_channels", channels),
        ("evaluate", model, folder, "--num_labels", CLASSES),
        ("predict", *pictures, "--model", model, "--output", tmp_path / "maps"),
        ("train", folder, tmp_path / "out", "--model_name_or_path", model),
    ):
        assert (train(*words[1:]) if words[0] == "train" else run(*words)) == 1
        said = "".join(capsys.readouterr())
        assert f"{KINDS[kind].suffix}" in said and f"has {found} channels, the model " in said, words
        assert re.search(rf"expect {channels}(; |\n(.*\n)*  -> )give pictures of {channels} channels", said), said
        assert f"num_channels={found}" in said and "step 1/2" not in said and "Traceback" not in said
    assert not (tmp_path / "out" / "config.json").exists()


def test_models_of_transformers(data, tmp_path):
    """Their processors do not say how many channels they are for; the model does."""
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    config = SegformerConfig(**sizes, decoder_hidden_size=16, num_channels=6, num_labels=CLASSES)
    model = SegformerForSemanticSegmentation(config).eval()
    size = {"height": 32, "width": 32}
    processor = SegformerImageProcessor(image_mean=[0.4] * 6, image_std=[0.2] * 6, size=size)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    folder, out = data("six bands"), tmp_path / "out"
    assert train(folder, out, "--model_name_or_path", tmp_path / "model") == 0
    assert run("evaluate", out, folder, "--num_labels", CLASSES, "--output", tmp_path / "scores", "--worst", 1) == 0
    (path, _) = sorted((folder / "images" / "validation").iterdir())
    assert run("predict", path, "--model", out, "--output", tmp_path / "maps") == 0
    trained = SegformerForSemanticSegmentation.from_pretrained(out)
    inputs = processor(tifffile.imread(path), input_data_format="channels_last", return_tensors="pt")
    with torch.no_grad():
        outputs = trained(**inputs)
    (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[SIZE])
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "maps" / f"{path.stem}.png")), expected.numpy())


@pytest.mark.parametrize("options", [(), ("--augment", "--crop_size", 32)])
def test_show(options, data, tmp_path, capsys):
    sheet = ("--output", tmp_path / "sheet.png", "--num_labels", CLASSES, "--num_channels", 6)
    assert run("data", "show", data("six bands"), *sheet, "--cell_width", SIZE[1], *options) == 0
    assert ("no photometric distortion" in capsys.readouterr().err) == bool(options)
    drawn = np.asarray(PIL.Image.open(tmp_path / "sheet.png")).reshape(-1, 3)
    first = tifffile.imread(data("six bands") / "images" / "train" / "train0.tif")[..., :3]
    assert {tuple(colour) for colour in first[:3].reshape(-1, 3)} <= {tuple(colour) for colour in drawn}


def test_in_processes_that_load(data, tmp_path):
    """As the command is given, with a loading process: what a picture has to say there is one line, too."""
    folder = data("six bands")
    command = ["-m", "segzoo", "train", "--dataset_name", folder, "--output_dir", tmp_path / "out"]
    command += ["--num_labels", CLASSES, "--crop_size", 32, "--max_train_steps", 2, "--dataloader_num_workers", 1]
    command += ["--per_device_train_batch_size", 2, "--do_train", *new_model(6)]
    done = run_python(*command, env={**os.environ, "ACCELERATE_USE_CPU": "true"}, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 2/2" in done.stdout

"""The example with a Trainer: the files that a training leaves, and its scores."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.hub import save_model_folder

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Every run chooses devices and precision anew, as a process of its own does."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def example(monkeypatch):
    """The example as a module, to be run inside this process."""
    path = EXAMPLES / "run_semantic_segmentation_trainer.py"
    spec = importlib.util.spec_from_file_location("trainer_example_under_test", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    return module


def words(options):
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def test_what_it_leaves_and_that_segzoo_train_scores_it_alike(example, script, scenes, tiny, tmp_path, capsys):
    options = {
        "dataset_name": scenes,
        "model_name_or_path": tiny,
        "output_dir": tmp_path / "out",
        "crop_size": 32,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_steps": 4,
        "save_strategy": "no",
    }
    example.main([*words(options), "--use_cpu"])
    assert "all classes" in capsys.readouterr().out
    expected = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{100 * expected['eval_mean_iou']:.2f}" in card and str(tmp_path) not in card
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").config.num_labels == 9
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").do_resize is False

    AcceleratorState._reset_state(reset_partial_state=True)
    options = {"dataset_name": scenes, "model_name_or_path": tmp_path / "out", "output_dir": tmp_path / "scores"}
    assert script.main([*words(options), "--do_eval"]) == 0
    found = json.loads((tmp_path / "scores" / "all_results.json").read_text())
    scores = [name for name in expected if name.startswith(("eval_mean", "eval_iou", "eval_overall"))]
    assert len(scores) > 10 and {name: found[name] for name in scores} == {name: expected[name] for name in scores}
    assert not (tmp_path / "scores" / "config.json").exists()


@pytest.mark.parametrize("kind", ["four channels", "six bands"])
def test_pictures_that_are_not_rgb(kind, example, tmp_path):
    channels = {"four channels": 4, "six bands": 6}[kind]
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for part in ("images", "annotations"):
            (tmp_path / "data" / part / split).mkdir(parents=True)
        for name in "ab":
            values = rng.integers(0, 256, (32, 40, channels), dtype=np.uint8)
            if channels == 4:
                Image.fromarray(values).save(tmp_path / "data" / "images" / split / f"{name}.png")
            else:
                file = tmp_path / "data" / "images" / split / f"{name}.tif"
                tifffile.imwrite(file, np.moveaxis(values, -1, 0), photometric="minisblack", planarconfig="separate")
            mask = Image.fromarray(rng.integers(0, 2, (32, 40), dtype=np.uint8))
            mask.save(tmp_path / "data" / "annotations" / split / f"{name}.png")
    (tmp_path / "data" / "id2label.json").write_text('{"0": "land", "1": "water"}')
    config = SegZooConfig.tiny()
    config.backbone_config.num_channels, config.num_labels = channels, 2
    processor = SegZooImageProcessor(do_resize=False, num_channels=channels, image_mean=0.4, image_std=0.2)
    model = save_model_folder(SegZooForSemanticSegmentation(config), processor, tmp_path / "model")
    options = {
        "dataset_name": tmp_path / "data",
        "model_name_or_path": model,
        "output_dir": tmp_path / "out",
        "crop_size": 32,
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "save_strategy": "no",
    }
    example.main([*words(options), "--use_cpu"])
    trained = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert trained.config.backbone_config.num_channels == channels
    assert 0 <= json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_mean_iou"] <= 1

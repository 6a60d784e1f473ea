"""Universal models of transformers through `segzoo train`, `evaluate`, `predict` and `export`."""

import json

import PIL.Image
import pytest
from huggingface_hub import ModelCard
from support.forked import run_python
from support.universal import SIDE, config_of, processor_of
from transformers import AutoModelForUniversalSegmentation

from segzoo.commands.cli import main
from segzoo.data.scenes import SCENES, write_scenes
from segzoo.universal import model_from_config


@pytest.mark.parametrize("model_type", [pytest.param("mask2former", marks=pytest.mark.slow), "eomt"])
def test_train_evaluate_predict_export(model_type, tmp_path, capsys):
    data = write_scenes(tmp_path / "data", num_train=4, num_validation=2, size=(SIDE, 96))
    config = config_of(model_type, len(SCENES.id2label))
    config.id2label = dict(reversed(SCENES.id2label.items()))
    config.label2id = {name: index for index, name in SCENES.id2label.items()}
    model_from_config(config).save_pretrained(tmp_path / "old")
    processor_of(model_type).save_pretrained(tmp_path / "old")
    options = [
        "--crop_size",
        str(SIDE),
        "--max_train_steps",
        "2",
        "--per_device_train_batch_size",
        "2",
        "--dataloader_num_workers",
        "0",
    ]
    words = ["-m", "segzoo", "train", "--model_name_or_path", "old", "--dataset_name", data, "--output_dir", "out"]
    done = run_python(*words, *options, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    assert json.loads((out / "all_results.json").read_text())["eval_mean_iou"] >= 0
    name = type(AutoModelForUniversalSegmentation.from_pretrained(out)).__name__
    card = (out / "README.md").read_text()
    assert name in card and "segzoo" not in ModelCard(card).data.tags

    assert main(["evaluate", str(out), str(data)]) == 0
    picture = next((data / "images" / "validation").iterdir())
    assert main(["predict", "--model", str(out), str(picture), "--output", str(tmp_path / "maps")]) == 0
    for path in (tmp_path / "maps").glob("*.png"):
        with PIL.Image.open(path) as image:
            assert image.height >= SIDE and image.width >= 96
    size = [] if model_type == "eomt" else ["--size", str(SIDE)]
    assert main(["export", str(out), "--output", str(tmp_path / "model.pt2"), *size]) == 0
    assert f"{SIDE}, {SIDE})" in capsys.readouterr().out

"""The two commands in the README of transformers' semantic-segmentation examples, with real flags."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from support.hub_server import HubServer
from transformers import (
    AutoImageProcessor,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = {0: "unlabeled", 1: "flat-road", 2: "flat-sidewalk", 3: "nature-vegetation", 4: "sky"}

TRAINER_COMMAND = r"""
python run_semantic_segmentation.py \
    --model_name_or_path nvidia/mit-b0 \
    --dataset_name segments/sidewalk-semantic \
    --output_dir ./segformer_outputs/ \
    --remove_unused_columns False \
    --do_train \
    --do_eval \
    --push_to_hub \
    --push_to_hub_model_id segformer-finetuned-sidewalk-10k-steps \
    --max_steps 10000 \
    --learning_rate 0.00006 \
    --lr_scheduler_type polynomial \
    --per_device_train_batch_size 8 \
    --per_device_eval_batch_size 8 \
    --logging_strategy steps \
    --logging_steps 100 \
    --eval_strategy epoch \
    --save_strategy epoch \
    --seed 1337
"""
NO_TRAINER_COMMAND = """
accelerate launch run_semantic_segmentation_no_trainer.py --output_dir segformer-finetuned-sidewalk --with_tracking --push_to_hub
"""


@pytest.fixture(scope="module")
def backbone_weights():
    """A tiny SegFormer for image classification, which is what the Hub has under nvidia/mit-b0."""
    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
        num_labels=7,
    )
    return SegformerForImageClassification(config)


@pytest.fixture
def hub(backbone_weights, tmp_path):
    """A Hub with the model and the data of the commands."""
    folder = tmp_path / "mit-b0"
    backbone_weights.save_pretrained(folder)
    preprocessing = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "SegformerFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "reduce_labels": True,  # as of another data set: what the command says about labels counts
        "resample": 2,
        "size": 64,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    rng = np.random.default_rng(0)
    rows = [
        {"pixel_values": png(rng.integers(0, 256, (48, 80, 3))), "label": png(rng.integers(0, len(CLASSES), (48, 80)))}
        for _ in range(12)
    ]
    features = datasets.Features(pixel_values=datasets.Image(), label=datasets.Image())
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    with HubServer() as server:
        server.publish("nvidia/mit-b0", {path.name: path.read_bytes() for path in folder.iterdir()})
        server.publish(
            "datasets/segments/sidewalk-semantic",
            {
                "data/train-00000-of-00001.parquet": (tmp_path / "rows.parquet").read_bytes(),
                "id2label.json": json.dumps(CLASSES).encode(),
            },
        )
        yield server


def png(array):
    file = io.BytesIO()
    PIL.Image.fromarray(array.astype(np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def run(command, more, hub, folder):
    """Runs a command of the README in ``folder`` with our script of that name and a few more words at its end."""
    words = shlex.split(command.replace("\\\n", " "))
    first = words.index(next(word for word in words if word.endswith(".py")))
    launchers = {
        ("python",): [sys.executable],
        ("accelerate", "launch"): [sys.executable, "-m", "accelerate.commands.launch"],
    }
    launcher = launchers[tuple(words[:first])]
    environment = {
        **os.environ,
        **hub.environment(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    result = subprocess.run(
        [*launcher, str(EXAMPLES / "run_semantic_segmentation.py"), *words[first + 1 :], *more],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def pushed_model(hub, name, folder):
    """The model that has arrived on the Hub, loaded from what the Hub has."""
    files = hub.files(name)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    model, report = SegformerForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model, set(files)


def assert_is_the_fine_tuned_model(model, backbone_weights, folder):
    assert model.config.id2label == CLASSES and model.decode_head.classifier.weight.shape[0] == len(CLASSES)
    start = dict(backbone_weights.named_parameters())
    for key, value in model.named_parameters():
        if key in start:  # the encoder is the Hub's, moved by some steps of 6e-5
            assert torch.allclose(value, start[key], atol=1e-3), key
    assert any(not torch.equal(value, start[key]) for key, value in model.named_parameters() if key in start)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert not processor.do_reduce_labels and processor.size["height"] == 64


def test_the_trainer_command(hub, backbone_weights, tmp_path):
    printed = run(TRAINER_COMMAND, ["--max_steps", "2"], hub, tmp_path)
    results = json.loads((tmp_path / "segformer_outputs" / "all_results.json").read_text())
    assert 0 <= results["eval_mean_iou"] <= 1 and "eval_iou_sky" in results
    name = "tester/segformer-finetuned-sidewalk-10k-steps"
    model, files = pushed_model(hub, name, tmp_path / "pushed")
    assert_is_the_fine_tuned_model(model, backbone_weights, tmp_path / "pushed")
    assert f"pushed: {hub.endpoint}/{name}" in printed
    assert not [path for path in files if re.match("checkpoint-|step_", path)]
    card = (tmp_path / "pushed" / "README.md").read_text()
    assert f"{100 * results['eval_mean_iou']:.2f}" in card
    assert "base_model: nvidia/mit-b0" in card and "segments/sidewalk-semantic" in card


@pytest.mark.slow
def test_the_no_trainer_command(hub, backbone_weights, tmp_path):
    run(NO_TRAINER_COMMAND, ["--max_train_steps", "2"], hub, tmp_path)
    results = json.loads((tmp_path / "segformer-finetuned-sidewalk" / "all_results.json").read_text())
    assert 0 <= results["eval_overall_accuracy"] <= 1
    model, files = pushed_model(hub, "tester/segformer-finetuned-sidewalk", tmp_path / "pushed")
    assert_is_the_fine_tuned_model(model, backbone_weights, tmp_path / "pushed")
    assert not [path for path in files if path.startswith("step_")]

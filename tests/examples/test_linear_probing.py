"""``segzoo train`` probes a frozen backbone by a linear head, on the share of the pictures that the recipe names."""

import json

import torch
from safetensors.torch import load_file

from segzoo import SegZooForSemanticSegmentation
from segzoo.backbones import InternViTBackbone, InternViTConfig
from segzoo.commands import cli
from segzoo.layers import BatchNorm2d


def test_two_steps_of_an_internvit(scenes, tmp_path):
    backbone = InternViTBackbone(InternViTConfig.tiny())
    backbone.save_pretrained(tmp_path / "backbone")
    flags = {
        "dataset_name": scenes,
        "backbone": tmp_path / "backbone",
        "head": "linear",
        "recipe": "internvit_6b_5k_ade20k_504x504",
        "mixed_precision": "no",  # this process has begun with it
        "crop_size": "56 84",
        "scale_size": "56 168",
        "window_size": "56 84",
        "window_stride": "56 84",
        "num_warmup_steps": 0,
        "max_train_steps": 2,
        "total_train_batch_size": 1,
        "per_device_train_batch_size": 1,
        "max_eval_samples": 1,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
        "output_dir": tmp_path / "out",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", *str(value).split())]
    assert cli.main(["train", "--freeze_backbone", *words]) == 0
    assert len((tmp_path / "out" / "train_files.txt").read_text().splitlines()) == 1  # 1/16 of the scenes
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["train_fraction"] == 0.0625 and recipe["layer_decay"] == 0.95
    log = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]

    model = SegZooForSemanticSegmentation.from_pretrained(tmp_path / "out")
    (head,) = model.decode_heads
    assert model.neck is None and isinstance(head.norm, BatchNorm2d) and head.classifier.in_channels == 16
    before, after = backbone.state_dict(), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(after[f"backbone.{name}"], x) for name, x in before.items())

"""Frozen backbones keep nothing, learn nothing and stay still; checkpoints that leave them out resume exactly."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_folders import make_model, make_scenes
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import segzoo
from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation
from segzoo.backbones import InternViTConfig, ResNetConfig
from segzoo.heads import FCNHeadConfig
from segzoo.training.arguments import read_arguments
from segzoo.training.checkpoints import read_record
from segzoo.training.frozen import FROZEN, fingerprint, freeze_backbone
from segzoo.training.options import RunOptions


@pytest.mark.parametrize("backbone", [ResNetConfig, InternViTConfig])
def test_a_frozen_backbone_keeps_nothing_and_stays_still(backbone):
    config = backbone.tiny()
    head = FCNHeadConfig(in_index=[-1], channels=8, dropout=0.0)
    model = SegZooForSemanticSegmentation(SegZooConfig.from_backbone(config, head, auxiliary=False, num_labels=3))
    freeze_backbone(model)
    model.train()
    assert model.decode_heads.training and not any(part.training for part in model.backbone.modules())
    before = {name: x.clone() for name, x in model.backbone.state_dict().items()}
    images, labels = torch.randn(2, 3, 56, 84), torch.randint(0, 3, (2, 56, 84))
    saved = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.add(x.data_ptr()), x)[1], lambda x: x):
        images.requires_grad_(True)
        (_, first), (_, second) = (model._run_backbone(images, output_hidden_states=True) for _ in range(2))
        assert not any(x.requires_grad for x in (*first.feature_maps, *first.hidden_states))
        assert all(map(torch.equal, first.feature_maps, second.feature_maps))  # no drop path
        loss = model(images, labels=labels).loss
    assert saved and images.grad is None
    loss.backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"decode_heads"}  # it reads the one map that InternViT's neck leaves as it is
    assert all(torch.equal(x, before[name]) for name, x in model.backbone.state_dict().items())


def test_a_model_of_transformers_without_a_backbone_is_refused():
    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=3
    )
    with pytest.raises(SegZooError, match="has no part that is its backbone"):
        freeze_backbone(SegformerForSemanticSegmentation(config))


def test_the_fingerprint_knows_every_value_and_name():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).bfloat16()
    found = [fingerprint(model)]
    assert fingerprint(model) == found[0]
    with torch.no_grad():
        model[1].running_var[2] += 1
    found += [fingerprint(model), fingerprint(model.float()), fingerprint(nn.Sequential(model))]
    assert len(set(found)) == 4


def train(data, model, output, **options):
    settings = {
        "dataset_name": data,
        "output_dir": output,
        "crop_size": 32,
        "per_device_train_batch_size": 2,
        "max_train_steps": 4,
        "learning_rate": 1e-2,
        "ema_decay": 0.8,
        "logging_steps": 1,
        "checkpointing_steps": 2,
        "dataloader_num_workers": 0,
        "use_cpu": True,
        "freeze_backbone": True,
        "save_trained_only": True,
        "memory_format": "channels_last",
        "do_train": True,
    }
    segzoo.train(model, **settings | options)


def test_checkpoints_of_the_trained_part_resume_exactly(tmp_path):
    data, model = make_scenes(tmp_path / "data"), make_model(tmp_path / "tiny")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(data, model, whole)
    for step in (2, 4):
        folder = whole / f"step_{step}"
        assert {name.split(".")[0] for name in load_file(folder / "model.safetensors")} == {
            "decode_heads",
            "auxiliary_heads",
        }
        average = torch.load(folder / "custom_checkpoint_0.pkl", weights_only=True)
        assert "n_averaged" in average and not any("backbone" in name for name in average)
        assert FROZEN in read_record(folder)["files"]
    weights, first = load_file(whole / "model.safetensors"), load_file(model / "model.safetensors")
    assert weights.keys() == first.keys()
    assert all(
        torch.equal(x, first[name]) == name.startswith("backbone.") for name, x in weights.items() if x.ndim > 1
    )

    shutil.copytree(whole / "step_2", resumed / "step_2")
    train(data, model, resumed, resume_from_checkpoint="latest")
    again = load_file(resumed / "model.safetensors")
    assert [name for name in weights if not weights[name].equal(again[name])] == []
    logs = [[json.loads(line) for line in (path / "training_log.jsonl").open()] for path in (whole, resumed)]
    assert [entry.get("loss") for entry in logs[0]] == [entry.get("loss") for entry in logs[1]]

    name = next(name for name in first if name.startswith("backbone."))
    save_file(first | {name: first[name] + 1}, model / "model.safetensors", {"format": "pt"})
    shutil.rmtree(resumed)
    shutil.copytree(whole / "step_2", resumed / "step_2")
    with pytest.raises(SegZooError, match="belongs to one with other weights"):
        train(data, model, resumed, resume_from_checkpoint="latest", verify=False)


def test_all_of_a_model_that_is_trained_is_saved():
    with pytest.raises(SegZooError, match="save_trained_only goes with --freeze_backbone"):
        RunOptions(**{"output_dir": "a", "model_name_or_path": "b", "save_trained_only": True}).check_recipe(
            read_arguments({"output_dir": "a", "model_name_or_path": "b"})[1]
        )

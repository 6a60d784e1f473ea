"""ViT-Adapter's releases: their rows and recipes, and the parameter groups of the original's optimizer."""

import gzip
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, zoo
from segzoo.backbones import ViTAdapterConfig
from segzoo.conversion.translate import supports, translate_config
from segzoo.data.classes import ClassFacts
from segzoo.heads import Mask2FormerHeadConfig
from segzoo.training.layer_depths import layer_depths
from segzoo.training.models import build_model
from segzoo.training.optimization import kinds_of_parameters, parameter_groups
from segzoo.training.recipes.recipe import load_recipe

GROUPS = json.loads(gzip.decompress((Path(__file__).parents[1] / "records/vit_adapter_groups.json.gz").read_bytes()))
ROWS = {name: row for name, row in zoo.rows().items() if row.system == "ViT-Adapter"}


def without_weights(name):
    translation = translate_config(zoo.original_config(name))
    with torch.device("meta"):
        return translation, SegZooForSemanticSegmentation(translation.config)


def original_name(translation, name):
    part = next(part for part in translation.components if name.startswith(part.native_prefix))
    return part.original_prefix + part.table.to_original(name.removeprefix(part.native_prefix))


@pytest.mark.parametrize("name", GROUPS)
def test_groups_are_the_originals(name):
    """Also the tensors of each, by their original names."""
    translation, model = without_weights(name)
    recipe = load_recipe(name)
    depths, count = layer_depths(model)
    kinds = kinds_of_parameters(model)
    members = defaultdict(list)
    for native, parameter in model.named_parameters():
        decays = not kinds[native].intersection(recipe.no_decay)
        members[depths[native], decays].append((original_name(translation, native), parameter.numel()))
    for group in GROUPS[name]:
        entries = members.pop((group["depth"], group["weight_decay"] > 0))
        names = "\n".join(sorted(entry for entry, _ in entries))
        assert len(entries) == group["n_tensors"] and sum(n for _, n in entries) == group["n_elements"]
        assert hashlib.sha256(names.encode()).hexdigest() == group["names_sha256"], group
        assert recipe.layer_decay ** (count - group["depth"]) == pytest.approx(group["lr_scale"], rel=1e-12)
        assert group["lr"] == pytest.approx(recipe.learning_rate * group["lr_scale"], rel=1e-12)
        assert group["weight_decay"] in (0, recipe.weight_decay)
    assert not members
    options = recipe.optimizer_options.to_dict()
    chosen = {key: options[key] for key in ("learning_rate", "weight_decay", "no_decay", "layer_decay")}
    found = {(round(g["lr"], 18), g["weight_decay"]) for g in parameter_groups(model, **chosen)}
    assert found == {(round(g["lr"], 18), g["weight_decay"]) for g in GROUPS[name]}


@pytest.mark.parametrize("name", ROWS)
def test_rows_fit_their_configs_and_recipes(name):
    row, config = ROWS[name], zoo.original_config(name)
    assert supports(config) and row.licence_weights == "Apache-2.0"
    translation, model = without_weights(name)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(row.parameters, rel=0.01)
    recipe, native = load_recipe(name), translation.config
    assert tuple(native.window_size) == recipe.window_size == recipe.crop_size == row.crop
    assert tuple(native.window_stride) == recipe.window_stride
    assert recipe.max_train_steps == row.iterations and recipe.total_train_batch_size == 16
    size = translation.processor["size"]
    assert (size["shortest_edge"], size["longest_edge"]) == (recipe.eval_scale_size or recipe.scale_size)
    assert translation.processor.get("size_multiple") == recipe.size_divisor
    assert native.backbone_config.drop_path_rate == recipe.drop_path_rate
    labels = {"ADE20K": 150, "Cityscapes": 19, "Mapillary Vistas v1.2": 19, "Pascal Context 59": 59}
    assert native.num_labels == labels.get(row.dataset, 171)
    assert translation.processor["do_reduce_labels"] is (
        row.dataset in ("ADE20K", "COCO-Stuff 10k", "Pascal Context 59")
    )
    assert recipe.eval_flip is row.test_flip
    mean = 127.5 / 255 if "AugReg-B" in row.backbone or "AugReg-L" in row.backbone else 123.675 / 255
    assert translation.processor["image_mean"][0] == pytest.approx(mean)


def test_published_facts():
    assert len(ROWS) == 22 and [row.name for row in ROWS.values() if row.url is None] == [
        "mask2former_beitv2_adapter_large_896_160k_ade20k"
    ]
    row = zoo.find("mask2former_beitv2_adapter_large_896_80k_ade20k_ss")
    assert (row.miou, row.miou_ms, row.test_flip, row.test_flip_ms) == (61.2, 61.5, True, True)
    assert row.test_scales == pytest.approx((0.893, 0.929, 0.964, 1), abs=5e-4)
    assert zoo.find("upernet_deit_adapter_tiny_512_160_ade20k").name == "upernet_deit_adapter_tiny_512_160k_ade20k"


def test_augreg_b_is_trained_by_names_of_parameters():
    """Its config has mmcv's custom_keys: of those in a name the longest decides, then the first in the alphabet."""
    name = "upernet_augreg_adapter_base_512_160k_ade20k"
    translation, model = without_weights(name)
    recipe = load_recipe(name)
    keys = {"level_embed": (1, 0), "pos_embed": (1, 0), "norm": (1, 0), "bias": (1, 0), "head": (10, 1)}
    expected = {}
    for native, parameter in model.named_parameters():
        original = original_name(translation, native)
        key = next((key for key in sorted(sorted(keys), key=len, reverse=True) if key in original), None)
        factor, decay = keys.get(key, (1, 1))
        expected[id(parameter)] = (2e-5 * factor, 0.01 * decay)
    options = recipe.optimizer_options.to_dict()
    chosen = {key: options[key] for key in ("learning_rate", "weight_decay", "no_decay", "parameter_rules")}
    groups = parameter_groups(model, **chosen)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found == expected and len(groups) == 3


def test_from_coco_stuff_to_ade20k_only_the_classifier_is_new(tmp_path):
    """As the 80k releases began; one line says that the classifier is new, and nothing else is."""
    head = Mask2FormerHeadConfig.tiny()
    head.in_channels = None
    config = SegZooConfig(backbone_config=ViTAdapterConfig.tiny(), decode_head_configs=[head], num_labels=7)
    old = SegZooForSemanticSegmentation(config)
    old.save_pretrained(tmp_path)
    classes = ClassFacts({i: f"class {i}" for i in range(5)}, [[i, i, i] for i in range(5)])
    with pytest.warns(UserWarning) as caught:
        new = build_model(classes, model_name_or_path=str(tmp_path))
    before, after = old.state_dict(), new.state_dict()
    changed = {
        key for key in before if before[key].shape != after[key].shape or not torch.equal(before[key], after[key])
    }
    assert before.keys() == after.keys()
    assert changed == {"decode_heads.0.classifier.weight", "decode_heads.0.classifier.bias"}
    notes = " ".join(str(warning.message) for warning in caught)
    assert "classifier" in notes and "backbone" not in notes

"""The released InternImage models: rows, configs and recipes agree, and groups follow the original's rule."""

import re
from collections import defaultdict

import pytest
import torch

from segzoo import SegZooError, SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.data.facts import DATASETS
from segzoo.training import parameter_groups
from segzoo.training.recipes.recipe import load_recipe

ROWS = [row for row in zoo.rows().values() if row.system == "InternImage"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_config_and_recipe_agree(row):
    translation, recipe = translate_config(zoo.original_config(row.name)), load_recipe(row.name)
    size = row.backbone.removeprefix("InternImage-")
    backbone = translation.config.backbone_config
    assert backbone.drop_path_rate == recipe.drop_path_rate == {"T": 0.2, "S": 0.3, "H": 0.5}.get(size, 0.4)
    assert backbone.offset_scale == (2.0 if size in ("L", "XL") else 1.0)
    assert recipe.crop_size == row.crop and recipe.max_train_steps == row.iterations
    short, long = recipe.scale_size
    assert (short, long) == {
        "Cityscapes": (1024, 2048),
        "Mapillary Vistas v1.2": (1024, 2048),
        "Pascal Context 59": (520, 520),
        "NYUv2": (512, 2048),
    }.get(row.dataset, (row.crop[0], 4 * row.crop[0]))
    tested = recipe.eval_scale_size or recipe.scale_size
    assert translation.processor["size"] == {"shortest_edge": tested[0], "longest_edge": tested[1]}
    streets = row.dataset in ("Cityscapes", "Mapillary Vistas v1.2")
    multiple = None if streets and row.method != "Mask2Former" else 32
    assert translation.processor.get("size_multiple") == recipe.size_divisor == multiple
    slides = streets and row.method == "Mask2Former"
    assert translation.processor["window_size"] == (list(row.crop) if slides else None)
    assert (recipe.window_size, recipe.window_stride) == ((row.crop, (512, 512)) if slides else (None, None))
    assert (recipe.weight_decay, recipe.num_warmup_steps, recipe.warmup_start) == (0.05, 1500, 1e-6)
    assert (recipe.lr_scheduler_type, recipe.lr_power, recipe.min_learning_rate) == ("poly", 1.0, 0.0)
    assert recipe.total_train_batch_size == 16 and bool(row.test_flip_ms) == (row.miou_ms is not None)
    small = (6e-5, None, None)
    large = {"L": (2e-5, 0.94, 0.1), "XL": (2e-5, 0.94, 0.1), "H": (2e-5, 0.95, 0.1)}
    expected = large.get(size, small)
    if row.method == "Mask2Former":
        again = row.dataset in ("ADE20K", "Cityscapes", "COCO-Stuff 10k")  # from a segmentation model
        clipped = row.dataset in ("ADE20K", "Cityscapes", "Mapillary Vistas v1.2")
        expected = (1e-5 if again else 2e-5, 0.95, 0.1 if clipped else None)
    assert (recipe.learning_rate, recipe.layer_decay, recipe.max_grad_norm) == expected


@pytest.mark.parametrize("name", ["upernet_internimage_s_512_160k_ade20k", "upernet_internimage_xl_640_160k_ade20k"])
def test_groups_of_sizes_without_a_record(name):
    """The rule of the original's constructor, written down from its own names of the parameters; T, B, L and H have records."""
    translation, recipe = translate_config(zoo.original_config(name)), load_recipe(name)
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    depths = translation.config.backbone_config.depths
    layers = sum(depths)

    def layer(original):
        if found := re.match(r"backbone\.levels\.(\d)\.blocks\.(\d+)\.", original):
            return sum(depths[: int(found[1])]) + int(found[2]) + 1
        if found := re.match(r"backbone\.levels\.(\d)\.", original):
            return sum(depths[: int(found[1]) + 1]) + 1
        return 0 if original.startswith("backbone.patch_embed.") else layers + 1

    expected = defaultdict(set)
    for native, parameter in model.named_parameters():
        part = next(part for part in translation.components if native.startswith(part.native_prefix))
        original = part.original_prefix + part.table.to_original(native.removeprefix(part.native_prefix))
        decays = parameter.ndim > 1 and "norm" not in original and not original.endswith("bias")
        scale = (recipe.layer_decay or 1.0) ** (layers + 1 - layer(original))
        expected[round(recipe.learning_rate * scale, 15), 0.05 if decays else 0.0].add(id(parameter))
    groups = parameter_groups(
        model,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        no_decay=recipe.no_decay,
        layer_decay=recipe.layer_decay,
    )
    found = {(round(g["lr"], 15), g["weight_decay"]): {id(p) for p in g["params"]} for g in groups}
    assert found == expected and len(found) == (2 if recipe.layer_decay is None else 2 * (layers + 2))


def test_heads_with_more_outputs_than_classes_name_the_first():
    """The configs for Cityscapes leave the 150 outputs of ADE20K; the file names the data set's 19 classes."""
    config = zoo.original_config("upernet_internimage_t_512x1024_160k_cityscapes")
    names = list(DATASETS["cityscapes"].classes)
    for given in (None, names):
        found = list(translate_config(config, class_names=given).config.id2label.values())
        assert len(names) == 19 and found == [*names, *(f"LABEL_{i}" for i in range(19, 150))]
    with pytest.raises(SegZooError, match="names 2 classes, the model of the config has 150"):
        translate_config(config, class_names=["one", "two"])

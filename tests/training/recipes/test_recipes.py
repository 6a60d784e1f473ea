import gzip
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from segzoo import SegZooError, zoo
from segzoo.data import build_train_transform
from segzoo.training.recipes.recipe import Recipe, list_recipes, load_recipe, resolve_recipe
from segzoo.training.recipes.text import describe_recipe

RECIPES = {recipe.name: recipe for recipe in list_recipes()}
ORIGINALS = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "records/original_trainings.json.gz").read_bytes())
)  # what the released models' configs say about their training


def test_names_are_unique_and_sources_stated():
    rows = json.loads(
        (Path(sys.modules["segzoo.training.recipes.recipe"].__file__).with_name("recipes.json")).read_text()
    )
    assert len(rows) == len(RECIPES)
    assert all(recipe.source for recipe in RECIPES.values())
    assert {name for name, recipe in RECIPES.items() if recipe.source.startswith("segzoo")} == {"quick", "fine_tune"}
    settings = [json.dumps({k: v for k, v in row.items() if k not in ("name", "source")}) for row in rows]
    assert len(set(settings)) == len(rows), "equal recipes are one row"
    for row in rows:  # these never depend on a default that may change
        assert {
            "optimizer",
            "learning_rate",
            "weight_decay",
            "no_decay",
            "lr_scheduler_type",
            "max_train_steps",
        } <= set(row)
        assert {"total_train_batch_size", "crop_size"} <= set(row)


WITHOUT_RECIPES = ("dinov2_vitg14_ade20k_m2f", "dinov3_vit7b16_ade20k_m2f")  # their trainings were not published


def test_every_zoo_row_names_a_recipe_and_resolves():
    for name, row in zoo.rows().items():
        if row.recipe is None and name in WITHOUT_RECIPES:
            continue
        if row.pretrained:
            assert row.recipe is None
            continue
        assert row.recipe in RECIPES, name
        assert resolve_recipe(name) == RECIPES[row.recipe]
    assert load_recipe("upernet_internimage_t_512_160k_ade20k").learning_rate == 6e-5


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_reads_back_equal_and_makes_a_transform(recipe, tmp_path):
    file = tmp_path / "recipe.json"
    recipe.write_recipe(file)
    assert resolve_recipe(file=file) == recipe
    assert Recipe(**json.loads(file.read_text())) == recipe
    table = describe_recipe(recipe)
    assert recipe.name in table and f"{recipe.learning_rate:g}" in table and str(recipe.max_train_steps) in table
    assert all(line.replace(r"\|", "").count("|") == 3 for line in table.splitlines())
    transform = build_train_transform(recipe.augmentation)
    steps = [type(step).__name__ for step in transform.steps]
    if recipe.crop_size is not None and recipe.scale_size is not None:
        assert transform.steps[0].multiple == 1, "pictures that are cropped are not stretched"
    order = ["Scale", "RandomCrop", "RandomFlip", "PhotometricDistortion"]  # mmseg's, then normalisation and padding
    assert steps == [name for name in order if name in steps]


def test_a_file_that_an_editor_on_windows_has_saved(tmp_path):
    file = tmp_path / "recipe.json"
    RECIPES["quick"].write_recipe(file)
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert resolve_recipe(file=file) == RECIPES["quick"]


def step_of(pipeline, kind):
    return next((step for step in pipeline if step["type"] == kind), None)


@pytest.mark.parametrize("index", range(len(ORIGINALS["settings"])))
def test_rows_are_what_the_released_models_trained_with(index):
    original = ORIGINALS["settings"][index]
    names = [name for name, number in ORIGINALS["models"].items() if number == index]
    recipes = {zoo.find(name).recipe for name in names}
    for recipe in (RECIPES[name] for name in recipes):
        optimizer, schedule, pipeline = original["optimizer"], original["lr_config"], original["train_pipeline"]
        assert recipe.optimizer == optimizer["type"].lower()
        assert (recipe.learning_rate, recipe.weight_decay) == (optimizer["lr"], optimizer["weight_decay"])
        paramwise = optimizer.get("paramwise_cfg") or {}
        rate = paramwise.get("layer_decay_rate", paramwise.get("decay_rate"))
        assert (recipe.layer_decay or 1.0) == (rate or 1.0)
        keys = paramwise.get("custom_keys", {})
        assert recipe.head_lr_multiplier == keys.get("head", {}).get("lr_mult", 1.0)
        assert bool(recipe.no_decay) == (
            "constructor" in optimizer or any(options.get("decay_mult") == 0 for options in keys.values())
        )
        per_step = original["optimizer_config"].get("cumulative_iters", 1)
        if schedule["policy"] == "poly":
            assert (recipe.lr_power, recipe.min_learning_rate) == (schedule["power"], schedule["min_lr"])
        else:
            assert recipe.lr_steps == tuple(step // per_step for step in schedule["step"])
        assert recipe.num_warmup_steps == schedule.get("warmup_iters", 0) // per_step
        if "warmup" in schedule:
            assert recipe.warmup_start == schedule.get("warmup_ratio", 0.1)
        iterations = 60_000 if original["runner"] is None else original["runner"]["max_iters"]
        assert recipe.max_train_steps == iterations // per_step
        clip = original["optimizer_config"].get("grad_clip")
        assert recipe.max_grad_norm == (None if clip is None else clip["max_norm"])
        assert recipe.mixed_precision == (None if original["fp16"] is None else "fp16")
        crop, resize = step_of(pipeline, "RandomCrop"), step_of(pipeline, "Resize")
        assert recipe.crop_size == tuple(crop["crop_size"])
        assert recipe.cat_max_ratio == crop.get("cat_max_ratio", 1.0)
        assert recipe.scale_size == tuple(sorted(resize["img_scale"]))
        assert recipe.scale_range == tuple(resize["ratio_range"])
        assert recipe.photometric_distortion == (step_of(pipeline, "PhotoMetricDistortion") is not None)
        assert (recipe.eval_scale_size or recipe.scale_size) == tuple(sorted(original["img_scale"]))
        slides = original["test_cfg"]["mode"] == "slide"
        assert recipe.window_size == (tuple(original["test_cfg"]["crop_size"]) if slides else None)
        assert recipe.window_stride == (tuple(original["test_cfg"]["stride"]) if slides else None)
        assert recipe.drop_path_rate == original["drop_path_rate"]


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("pspnet_r50-d8_512x1024_80k_cityscapes", 8),
        ("pspnet_r50-d8_512x512_160k_ade20k", 16),
        ("segformer_mit-b0_8x1_1024x1024_160k_cityscapes", 8),
        ("twins_pcpvt-s_uperhead_8x4_512x512_160k_ade20k", 32),
        ("upernet_beit-large_fp16_8x1_640x640_160k_ade20k", 16),
        ("setr_mla_512x512_160k_b8_ade20k", 8),
        ("bisenetv2_fcn_4x8_1024x1024_160k_cityscapes", 32),
        ("upernet_internimage_h_896_160k_ade20k", 16),
    ],
)
def test_batch_sizes(name, batch):
    assert load_recipe(name).total_train_batch_size == batch


def test_special_losses():
    ohem = load_recipe("deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes")
    assert ohem.losses[0]["ohem"]["min_kept"] == 100_000
    dice = load_recipe("fcn_unet_s5-d16_ce-1.0-dice-3.0_64x64_40k_drive")
    assert dice.losses == ({"type": "cross_entropy"}, {"type": "dice", "weight": 3.0})
    assert load_recipe("bisenetv1_r18-d32_4x4_1024x1024_160k_cityscapes").auxiliary_losses == (
        {"type": "cross_entropy"},
    )
    assert len(load_recipe("cgnet_680x680_60k_cityscapes").class_weights) == 19
    assert load_recipe("fast_scnn_lr0.12_8x4_160k_cityscapes").losses == ({"type": "cross_entropy", "sigmoid": True},)


def test_order_of_the_layers(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("learning_rate: 3e-4\ncrop_size: 96\nno_decay: none\nnum_warmup_steps: 7\n")
    defaults = Recipe(max_grad_norm=1.0, weight_decay=0.3)
    recipe = resolve_recipe("quick", file, {"num_warmup_steps": 9, "eval_flip": True}, defaults=defaults)
    assert recipe.learning_rate == 3e-4, "text in YAML, which takes 3e-4 for no number"
    assert (recipe.crop_size, recipe.no_decay) == ((96, 96), ())
    assert (recipe.num_warmup_steps, recipe.eval_flip) == (9, True)
    assert recipe.max_grad_norm is None and recipe.weight_decay == 0.01, "a row replaces the defaults"
    assert recipe.name == "quick"
    for changed in ("learning_rate", "crop_size", "num_warmup_steps", "eval_flip"):
        assert changed in recipe.source
    assert resolve_recipe(defaults=defaults) == defaults
    assert resolve_recipe(None, None, {"momentum": 0.5}, defaults=defaults).weight_decay == 0.3


def test_a_changed_recipe_reads_back_equal(tmp_path):
    recipe = resolve_recipe("quick", None, {"losses": [{"type": "dice", "weight": 2}], "window_size": 64})
    recipe.write_recipe(tmp_path / "recipe.json")
    assert resolve_recipe(file=tmp_path / "recipe.json") == recipe
    again = resolve_recipe(None, tmp_path / "recipe.json", {"learning_rate": 1})
    assert again == replace(recipe, learning_rate=1.0, source=again.source) and "learning_rate" in again.source


def test_a_file_in_place_of_a_name(tmp_path):
    file = tmp_path / "mine.yml"
    file.write_text("learning_rate: 0.5\n")
    assert resolve_recipe(str(file)) == resolve_recipe(file=file) and resolve_recipe(str(file)).learning_rate == 0.5
    with pytest.raises(SegZooError, match="two recipe files"):
        resolve_recipe(str(file), file)


def test_a_file_may_start_from_a_row(tmp_path):
    file = tmp_path / "mine.yml"
    file.write_text("recipe: upernet_internimage_b_512_160k_ade20k\nmax_train_steps: 2000\n")
    recipe = resolve_recipe(file=file)
    assert (recipe.learning_rate, recipe.max_train_steps, recipe.num_warmup_steps) == (6e-5, 2000, 1500)
    assert resolve_recipe("quick", file).learning_rate == 1e-3, "the name given is the row"


def test_epochs_given_later_replace_the_steps_of_a_row():
    assert resolve_recipe("quick", None, {"num_train_epochs": 2}).max_train_steps is None
    both = resolve_recipe("quick", None, {"num_train_epochs": 2, "max_train_steps": 80})
    assert (both.num_train_epochs, both.max_train_steps) == (2.0, 80)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmseg_sgd_80k_cityscape_512x1024", "did you mean 'mmseg_sgd_80k_cityscapes_512x1024'"),
        ("upernet_internimage_t_512_160k_ade20", "did you mean 'upernet_internimage_t_512_160k_ade20k'"),
        ("segformer", "names with it are segformer_160k_ade20k_512x512"),
        ("qqqq", "no recipe named 'qqqq'; list_recipes"),
    ],
)
def test_unknown_recipes(name, message):
    with pytest.raises(SegZooError, match=message):
        load_recipe(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1}, "no field 'learning_rat'; did you mean 'learning_rate'"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number"),
        ({"learning_rate": True}, "learning_rate is True; it must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": None}, "learning_rate is None; it must be a number"),
        ({"learning_rate": -1}, "learning_rate is -1; it must be above 0"),
        ({"momentum": 1.0}, "momentum is 1; it must be at least 0 and below 1"),
        ({"layer_decay": 1.2}, "layer_decay is 1.2; it must be above 0 and at most 1"),
        ({"optimizer": "none"}, "optimizer is 'none'; it is one of adamw, adam, sgd"),
        ({"optimizer": "adam_w"}, "optimizer is 'adam_w'; .* did you mean 'adamw'"),
        ({"no_decay": ["norm"]}, "did you mean 'norms'"),
        ({"max_train_steps": 1.5}, "max_train_steps is 1.5; it must be a whole number"),
        ({"max_train_steps": 0}, "max_train_steps is 0; it must be at least 1"),
        ({"crop_size": [1, 2, 3]}, "crop_size has 3 values; it takes 2"),
        ({"crop_size": "large"}, "crop_size is 'large'; it must be a whole number"),
        ({"eval_flip": 1}, "eval_flip is 1; it must be true or false"),
        ({"scale_range": [2, 0.5]}, "scale_range is 2 to 0.5; the first number is the smaller one"),
        ({"keep_ratio": False}, "scale_size is the height and width"),
        ({"keep_ratio": False, "scale_size": [64, 64], "scale_edges": [64]}, "needs keep_ratio"),
        ({"window_stride": 32}, "window_stride needs a window_size"),
        ({"window_size": 32, "window_stride": 48}, "leaves gaps"),
        ({"num_warmup_steps": 5000}, "num_warmup_steps 5000 does not fit into max_train_steps 1700"),
        ({"min_learning_rate": 1}, "min_learning_rate 1 is above learning_rate 0.001"),
        ({"lr_scheduler_type": "cosin"}, "did you mean 'cosine'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type is 'reduce_lr_on_plateau'"),
        ({"lr_scheduler_type": "multistep"}, "need each other"),
        ({"lr_scheduler_type": "multistep", "lr_steps": [9, 3]}, "must rise"),
        ({"losses": [{"type": "dise"}]}, "losses: loss type 'dise' is unknown .*did you mean 'dice'"),
        ({"losses": []}, "losses is empty"),
        ({"losses": ["dice"]}, "losses is 'dice'; it must be a mapping"),
        ({"eval_scales": []}, "eval_scales needs at least one factor"),
        ({"name": 3}, "name is 3; it must be text"),
    ],
)
def test_values_that_cannot_be(change, message):
    with pytest.raises(SegZooError, match=message) as caught:
        resolve_recipe("quick", None, change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.yaml", "learning_rate: [1", "is no YAML"),
        ("a.json", "{", "is no JSON"),
        ("a.yaml", "- 1\n- 2\n", "a recipe is a mapping"),
        ("a.yaml", "1: 2\n", "a recipe is a mapping"),
        ("a.yaml", "", "a recipe is a mapping"),
        ("a.yaml", "crop: 3", "a.yaml: a recipe has no field 'crop'; did you mean 'crop_size'"),
        ("a.yaml", "crop_size: big", "a.yaml: recipe: crop_size is 'big'"),
        ("a.yaml", "recipe: 3", "must be the name of a recipe"),
        ("a.yaml", "recipe: quic", "did you mean 'quick'"),
        ("a.yaml", b"\xff\xfe\x00", "cannot be read"),
        ("a.yaml", None, r"cannot be read \(No such file"),
    ],
)
def test_files_that_cannot_be(tmp_path, file, content, message):
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SegZooError, match=message) as caught:
        resolve_recipe(file=path)
    assert "\n" not in str(caught.value)


def test_the_training_script_can_make_a_flag_of_every_field():
    for entry in fields(Recipe):
        assert entry.metadata["help"], entry.name


def test_a_row_of_a_command_line_is_understood():
    """What argparse hands over: lists, and [None] for the word none."""
    recipe = resolve_recipe(None, None, {"no_decay": [None], "crop_size": [None], "class_weights": [1, 2.5]})
    assert (recipe.no_decay, recipe.crop_size, recipe.class_weights) == ((), None, (1.0, 2.5))


def test_whole_pictures_at_one_of_several_scales():
    """MIT's pictures: a short edge at random, the long one limited, both sides stretched to a multiple, no crop."""
    recipe = load_recipe("mit_100k_ade20k")
    transform = build_train_transform(replace(recipe.augmentation, cat_max_ratio=0.75, flip_probability=0.5))
    sizes = set()
    for seed in range(40):
        picture = np.zeros((100, 200, 3), np.uint8)
        item = transform(picture, np.zeros((100, 200), np.uint8), np.random.default_rng(seed))
        assert item["labels"].shape == item["pixel_values"].shape[1:]
        sizes.add(tuple(item["labels"].shape))
    # 525 and 600 would make the long edge longer than 1000; the limit gives 500, which is stretched to 504
    assert sizes == {(304, 600), (376, 752), (456, 904), (504, 1000)}

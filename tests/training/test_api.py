"""`segzoo.train` by keywords: which options there are, and what a name of a model stands for."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
from support.tiny_folders import make_model, make_scenes
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import segzoo
from segzoo import SegZooError, SegZooImageProcessor
from segzoo.backbones import ResNetBackbone, ResNetConfig
from segzoo.training import DEFAULTS, Recipe, RunOptions, keywords
from segzoo.training.api import _stands_for_backbone
from segzoo.training.arguments import read_arguments

DOCS = Path(__file__).parents[2] / "docs"


def test_a_backbone_by_its_name_and_a_recipe_by_its_name(tmp_path):
    quick = {"max_train_steps": 1, "num_warmup_steps": 0, "total_train_batch_size": 2, "mixed_precision": "no"}
    result = segzoo.train(
        "resnet18_v1c",
        dataset_name=make_scenes(tmp_path / "data"),
        recipe="quick",
        output_dir=tmp_path / "out",
        random_backbone=True,
        head="fcn",
        head_channels=8,
        crop_size=32,
        max_eval_samples=1,
        dataloader_num_workers=0,
        no_cuda=True,
        checkpointing_steps=0,
        **quick,
    )
    assert 0 <= result["eval_mean_iou"] <= 1
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["name"] == "quick" and recipe["crop_size"] == [32, 32]
    assert recipe["learning_rate"] == 1e-3 and {name: recipe[name] for name in quick} == quick


@pytest.mark.parametrize("evaluate", [False, True])
def test_the_last_line_names_the_files_that_are_there(tmp_path, capsys, evaluate):
    out = tmp_path / "out"
    options = {"dataset_name": make_scenes(tmp_path / "data"), "output_dir": out, "crop_size": 32, "no_cuda": True}
    options |= {"max_train_steps": 1, "per_device_train_batch_size": 2, "dataloader_num_workers": 0}
    segzoo.train(make_model(tmp_path / "model"), **options, do_train=True, do_eval=evaluate, checkpointing_steps=0)
    line = capsys.readouterr().out.splitlines()[-1]
    files = [word.strip(",") for word in line.split() if "." in word.removeprefix(str(tmp_path))]
    assert line.endswith(f" are in {out}") and [name for name in files if not (out / name).is_file()] == []
    assert ("report.html" in files) == evaluate


def test_a_new_model_of_transformers_is_saved_with_the_image_processor_it_was_trained_with(tmp_path):
    sizes = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    SegformerConfig(**sizes).save_pretrained(tmp_path / "config")
    processor = SegZooImageProcessor(size={"height": 32, "width": 48}, channel_order="bgr")
    processor.save_pretrained(tmp_path / "processor")
    trained = segzoo.train(
        dataset_name=make_scenes(tmp_path / "data"),
        config_name=str(tmp_path / "config"),
        image_processor_name=str(tmp_path / "processor"),
        output_dir=tmp_path / "out",
        max_train_steps=1,
        per_device_train_batch_size=2,
        dataloader_num_workers=0,
        crop_size=32,
        checkpointing_steps=0,
        no_cuda=True,
    )
    model, again = segzoo.load(str(tmp_path / "out"))
    assert type(model) is SegformerForSemanticSegmentation
    assert type(again) is SegZooImageProcessor and again.to_dict() == processor.to_dict()
    scores = segzoo.evaluate(str(tmp_path / "out"), tmp_path / "data", device="cpu")
    assert scores.metrics["mean_iou"] == trained["eval_mean_iou"]
    assert "import segzoo" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "part", [{"head": "uper"}, {"head_channels": 8}, {"auxiliary_channels": 8}, {"random_backbone": True}]
)
def test_parts_of_a_new_model_are_refused_for_an_old_one(tmp_path, part):
    model = str(make_model(tmp_path / "model"))
    words = f"--{next(iter(part))} is for new models, and {model} has its parts already; leave it out"
    for old in ({"model": model}, {"config_name": model}):
        with pytest.raises(SegZooError, match=words):
            segzoo.train(dataset_name=tmp_path, output_dir=tmp_path / "out", **old, **part)


def test_what_a_name_stands_for(tmp_path):
    model = make_model(tmp_path / "model")
    backbone = tmp_path / "backbone"
    ResNetBackbone(ResNetConfig.tiny()).save_pretrained(backbone)
    assert not _stands_for_backbone(str(model), {}) and not _stands_for_backbone("some/missing", {})
    for name in (str(backbone), "resnet50", "convnext_tiny", "timm/resnet18", "resnet51"):
        assert _stands_for_backbone(name, {}), name
    with pytest.raises(SegZooError, match="segzoo convert upernet_internimage_t_512_160k_ade20k --output DIR"):
        _stands_for_backbone("upernet_internimage_t_512_160k_ade20k", {})


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("m", {"learning_rat": 1}, "no option 'learning_rat'; did you mean 'learning_rate'"),
        ("m", {"traindir": 1}, "no option 'traindir'"),
        ("m", {"crop_by_model": True}, "no option 'crop_by_model'"),
        ("m", {}, "output_dir is missing"),
        ("m", {"output_dir": "o", "learning_rate": "much"}, "learning_rate is 'much'; it must be a number"),
        ("m", {"output_dir": "o", "backbone": "resnet50"}, "has a model, m, and backbone; leave one out"),
        ("m", {"output_dir": "o", "recipe": "quik"}, "no recipe named 'quik'; did you mean 'quick'"),
        (RunOptions(output_dir="o"), {"seed": 1}, "seed: give it to RunOptions"),
        (RunOptions(output_dir="o"), {"recipe": "quick"}, r"resolve_recipe\('quick'\) makes it"),
    ],
)
def test_mistakes_are_told_in_a_line(model, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SegZooError, match=words):
        segzoo.train(model, **options)


def test_keywords_are_the_options():
    path = DOCS / "train_keywords.py"
    spec = importlib.util.spec_from_file_location("train_keywords", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = ast.parse(Path(keywords.__file__).read_text(encoding="utf-8"))
    assert ast.dump(written) == ast.dump(ast.parse(module.text())), "run python docs/train_keywords.py"


def test_a_recipe_object_is_changed_by_options():
    start = Recipe(name="mine", learning_rate=0.5, crop_size=(64, 64))
    values = {"output_dir": "o", "weight_decay": 0.25}
    options, recipe = read_arguments(values, start=start)
    assert (recipe.name, recipe.learning_rate, recipe.weight_decay) == (
        "mine",
        0.5,
        0.25,
    ) and not options.crop_by_model
    options, recipe = read_arguments(values)
    assert options.crop_by_model and recipe.learning_rate == DEFAULTS.learning_rate

"""Trainings on a mixture, with class weights and sampling by rare classes, in this process."""

import json
import shutil
import warnings

import pytest
import yaml
from safetensors.torch import load_file

from segzoo.data.scenes import SCENES
from segzoo.errors import SegZooError
from segzoo.training.arguments import parse_arguments
from segzoo.training.run import run_training


@pytest.fixture
def mix(scenes, tmp_path):
    path = tmp_path / "mix.yaml"
    names = list(SCENES.id2label.values())
    sources = [{"data": str(scenes)}, {"data": str(scenes), "splits": ["train"], "max_samples": 2, "repeat": 2}]
    path.write_text(yaml.safe_dump({"classes": names, "sources": sources}))
    return path


def test_weights_and_rare_classes_first_on_a_mixture_go_on_with_the_same_bits(mix, tiny, tmp_path, capsys):
    aug = tmp_path / "aug.yaml"
    aug.write_text("[{RandomResizedCrop: {size: 32}}, RandomVerticalFlip]")

    def run(output, *more):
        words = f"--dataset_name {mix} --model_name_or_path {tiny} --output_dir {output} --augmentation {aug} "
        words += "--crop_size 32 --seed 3 --per_device_train_batch_size 4 --max_train_steps 6 --learning_rate 1e-3 "
        words += "--logging_steps 1 --eval_steps 0 --dataloader_num_workers 0 --use_cpu --checkpointing_steps 2 "
        words += "--do_train --class_weights auto --sampling balanced"
        run_training(*parse_arguments([*words.split(), *more]))
        return capsys.readouterr().out

    said = run(tmp_path / "whole")
    assert said.count("class weights (inverse_sqrt, from 14 masks): ") == 1
    recipe = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    assert len(recipe["class_weights"]) == len(SCENES.id2label) and recipe["sampling"] == "balanced"
    assert recipe["pipeline"] == {"torchvision": yaml.safe_load(aug.read_text())}
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert recipe["class_weights"] in [
        loss.get("class_weights") for loss in config["decode_head_configs"][0]["losses"]
    ]

    (tmp_path / "again").mkdir()
    shutil.copytree(tmp_path / "whole" / "step_2", tmp_path / "again" / "step_2")
    text = aug.read_text()
    aug.write_text("[RandomHorizontalFlip]")
    with pytest.raises(SegZooError, match="began with .*RandomResizedCrop.* these are .*RandomHorizontalFlip"):
        run(tmp_path / "again", "--resume_from_checkpoint", "latest")
    aug.unlink()  # the checkpoint has the transforms
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="these settings differ")
        said = run(tmp_path / "again", "--resume_from_checkpoint", "latest")
    assert "--augmentation as the checkpoint has it: RandomResizedCrop, RandomVerticalFlip" in said
    aug.write_text(text)
    recipes = [json.loads((tmp_path / name / "recipe.json").read_text()) for name in ("whole", "again")]
    assert all("pipeline" in recipe["source"].partition("; changed: ")[2] for recipe in recipes)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again"))
    assert all(first[name].equal(second[name]) for name in first)

    settings = f"{tmp_path / 'whole' / 'recipe.json'}"  # which restores the pipeline without its file, and the weights
    recipe = parse_arguments(["--output_dir", "o", "--recipe_file", settings])[1]
    assert recipe.pipeline is not None and recipe.weights_rule is None

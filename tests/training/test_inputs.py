from dataclasses import replace

import pytest
from accelerate import Accelerator
from support.tiny_folders import make_model, make_scenes
from support.universal import SIDE, config_of
from transformers import EomtImageProcessor

from segzoo import SegZooError
from segzoo.data.classes import ClassFacts
from segzoo.training.batches import TrainingBatches
from segzoo.training.inputs import load_model, prepare_inputs
from segzoo.training.options import RunOptions
from segzoo.training.order import EpochBatches
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.surroundings import Surroundings
from segzoo.universal import model_from_config


@pytest.mark.parametrize(
    ("epochs", "steps", "accumulation", "expected"),
    [(1.15, None, 1, 115), (0.29, None, 1, 29), (0.001, None, 1, 1), (1.5, None, 4, 37), (3, 7, 1, 7)],
)
def test_number_of_steps(tmp_path, epochs, steps, accumulation, expected):
    options = RunOptions(output_dir=str(tmp_path), gradient_accumulation_steps=accumulation)
    recipe = Recipe(num_train_epochs=epochs, max_train_steps=steps)
    batches = TrainingBatches(None, None, options, recipe, num_labels=2, accelerator=Accelerator(cpu=True))
    batches.order = EpochBatches(200, 2)
    assert batches.steps_of(recipe) == expected


@pytest.mark.parametrize(
    ("count", "reduce_labels", "ignore_index", "uncounted"),
    [
        (9, False, 255, None),
        (300, False, 255, "ignore_index 255 is 'c255', which does not count"),
        (255, True, 255, "ignore_index 255 is 'c254', which does not count"),
        (300, True, 255, "ignore_index 255 is 'c254' and 'c255', which do not count"),
        (300, True, 65535, None),
    ],
)
def test_classes_that_the_ignored_id_takes_are_told(tmp_path, count, reduce_labels, ignore_index, uncounted):
    classes = ClassFacts({i: f"c{i}" for i in range(count)}, [[0, 0, 0]] * count, reduce_labels)
    assert classes.uncounted(ignore_index) == uncounted
    if reduce_labels:
        return
    model = make_model(tmp_path / "tiny")
    options = RunOptions(output_dir=str(tmp_path / "o"), model_name_or_path=str(model), ignore_index=ignore_index)
    told = [note for note in load_model(options, Recipe(), classes).built.notes if "not count" in note]
    assert told == ([] if uncounted is None else [f"warning: {uncounted}; give --ignore_index an id of no class"])


def make_panoptic(folder):
    """An EoMT whose image processor is that of the published panoptic ones."""
    model_from_config(config_of("eomt", 9)).save_pretrained(folder)
    size = {"shortest_edge": SIDE, "longest_edge": SIDE}
    EomtImageProcessor(size=size, do_split_image=False, do_pad=True).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make", "recipe", "message"),
    [
        (make_panoptic, Recipe(crop_size=(SIDE, SIDE)), "set for panoptic pictures"),
        (make_model, Recipe(eval_scales=(1.0, 0.001)), "the scale 0.001 makes"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_first_step(tmp_path, make, recipe, message):
    data, model = make_scenes(tmp_path / "data"), make(tmp_path / "model")
    options = {"output_dir": str(tmp_path / "out"), "dataset_name": str(data), "model_name_or_path": str(model)}
    options = RunOptions(**options, dataloader_num_workers=0, per_device_train_batch_size=2)
    with pytest.raises(SegZooError, match=message):
        prepare_inputs(options, recipe, Surroundings(options, "no"))
    options = replace(options, do_eval=False)
    prepare_inputs(options, recipe, Surroundings(options, "no"))

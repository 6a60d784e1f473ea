"""The parameter groups of SegNeXt's and DAFormer's trainings, after mmcv's rules on the originals' names.

``norm`` turns decay off where a name holds it, longer keys first: not for the stem's norms, which are numbers in a list
there, nor for those of a head, which are called ``gn`` and ``bn``. ``pos_block`` matches nothing.
"""

import json
from pathlib import Path

import pytest
import torch

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import find_origins
from segzoo.training.optimization import parameter_groups
from segzoo.training.recipes.recipe import load_recipe

RECORDS = Path(__file__).parents[2] / "parity" / "records"


def by_the_originals_name(name):
    """(factor on the learning rate, weight decay)."""
    if "norm" in name:
        return 1.0, 0.0
    return (10.0, 0.01) if "head" in name else (1.0, 0.01)


@pytest.mark.parametrize(
    ("record", "recipe"),
    [
        ("segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512", "segnext_160k_ade20k_512x512"),
        ("original_segnext.tiny.512x512.ade.160k", "segnext_l_160k_cityscapes_1024x1024"),
        ("daformer_mitb5_gta2cs_dacs", "daformer_40k_gta_512x512"),
    ],
)
def test_groups(record, recipe):
    translation = translate_config(json.loads((RECORDS / f"{record}.json").read_text())["config"])
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    options = load_recipe(recipe).optimizer_options
    groups = parameter_groups(
        model,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        no_decay=options.no_decay,
        layer_decay=options.layer_decay,
        head_lr_multiplier=options.head_lr_multiplier,
        parameter_rules=options.parameter_rules,
    )
    found = {id(p): (group["lr"] / 6e-5, group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        original = find_origins(name, translation.components)[0][1]
        assert found[id(parameter)] == pytest.approx(by_the_originals_name(original)), (name, original)

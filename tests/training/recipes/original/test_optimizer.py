"""Layer-wise decay of a training config: where the original counts other layers than a recipe, it is said."""

import pytest

from segzoo import zoo
from segzoo.training.recipes.original.derive import derive_recipe

CONVNEXT, BEIT = (
    "upernet_convnext_tiny_fp16_512x512_160k_ade20k",
    "upernet_beit-base_8x2_640x640_160k_ade20k",
)
STAGES = {"decay_rate": 0.9, "decay_type": "stage_wise", "num_layers": 6}


@pytest.mark.parametrize(
    ("name", "settings", "left"),
    [
        (CONVNEXT, STAGES, {}),
        (CONVNEXT, STAGES | {"num_layers": 12}, {"num_layers": "12 becomes 6"}),
        (CONVNEXT, STAGES | {"decay_type": "layer_wise"}, {"decay_type": "layer_wise becomes stage_wise"}),
        # The original's default.
        (CONVNEXT, {"decay_rate": 0.9, "num_layers": 6}, {"decay_type": "layer_wise becomes stage_wise"}),
        (BEIT, {"layer_decay_rate": 0.9, "num_layers": 12}, {}),
        (BEIT, {"layer_decay_rate": 0.9, "num_layers": 24}, {"num_layers": "24 becomes 12"}),
    ],
)
def test_layer_decay(name, settings, left):
    optimizer = {"type": "AdamW", "lr": 1e-4, "weight_decay": 0.05, "paramwise_cfg": settings}
    optimizer["constructor"] = "LearningRateDecayOptimizerConstructor"
    found = derive_recipe({**zoo.original_config(name), "optimizer": optimizer}, name=name)
    assert found.recipe.layer_decay == 0.9
    start = "paramwise_cfg."
    reasons = {place.removeprefix(start): why for place, why in found.left_out if place.startswith(start)}
    assert set(reasons) == set(left)
    assert all(why in reasons[place] for place, why in left.items())

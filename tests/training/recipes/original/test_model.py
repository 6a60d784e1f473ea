"""The model of a training config: a recipe says of it what all the parts that it sets have in common."""

import copy

import pytest

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.training.models import _apply
from segzoo.training.recipes.original.derive import derive_recipe

FCN, OCRNET, POINT_REND, PIDNET, SWIN = (
    "fcn_r50-d8_512x1024_40k_cityscapes",
    "ocrnet_hr18s_512x1024_40k_cityscapes",
    "pointrend_r50_512x1024_80k_cityscapes",
    "pidnet-s_2xb6-120k_1024x1024-cityscapes",
    "upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K",
)
WEIGHTS = [1.0] * 18 + [5.0]


def heads_of(config, kind):
    found = config["model"].get(kind, [])
    return found if isinstance(found, list) else [found]


def derived(name, *, losses=None, norms=None):
    """What is derived of a zoo config whose losses or norms are changed: {part: what to add to each of its heads'}."""
    config = copy.deepcopy(zoo.original_config(name)) | {"optimizer": {"type": "SGD", "lr": 0.01}}
    for kind, options in (losses or {}).items():
        for head in heads_of(config, kind):
            head["loss_decode"] |= options
    for kind, norm in (norms or {}).items():
        for part in heads_of(config, kind):
            part["norm_cfg"] = norm
    return config, derive_recipe(config, name=name)


def losses_after(config, recipe):
    """The losses of the converted model before and after the recipe."""
    model = SegZooForSemanticSegmentation(translate_config(config).config)
    heads = (*model.decode_heads, *model.auxiliary_heads)
    before = [[loss.to_dict() for loss in head.losses] for head in heads]
    _apply(recipe.model_options, model)
    return before, [[loss.to_dict() for loss in head.losses] for head in heads]


@pytest.mark.parametrize(
    ("name", "losses", "taken"),
    [
        (
            FCN,
            {"decode_head": {"class_weight": WEIGHTS}, "auxiliary_head": {"class_weight": WEIGHTS}},
            "class_weights",
        ),
        (FCN, {"decode_head": {"class_weight": WEIGHTS}}, "losses"),
        (FCN, {"auxiliary_head": {"class_weight": WEIGHTS}}, "auxiliary_losses"),
        (OCRNET, {"decode_head": {"class_weight": WEIGHTS}}, "class_weights"),
        (OCRNET, {"decode_head": {"avg_non_ignore": True}}, None),
        # Losses of details and boundaries have the weights too.
        (PIDNET, {}, "class_weights"),
    ],
)
def test_a_recipe_gives_no_head_the_losses_of_another(name, losses, taken):
    config, found = derived(name, losses=losses)
    said = {key for key in ("class_weights", "losses", "auxiliary_losses") if getattr(found.recipe, key) is not None}
    assert said == ({taken} if taken else set())
    before, after = losses_after(config, found.recipe)
    assert before == after


def test_losses_that_differ_from_head_to_head_are_left_out():
    for name in (OCRNET, POINT_REND):
        config = copy.deepcopy(zoo.original_config(name)) | {"optimizer": {"type": "SGD", "lr": 0.01}}
        dice = {"type": "DiceLoss", "loss_weight": 3.0, "loss_name": "loss_dice"}
        last = config["model"]["decode_head"][-1]
        last["loss_decode"] = [last["loss_decode"], dice]
        found = derive_recipe(config, name=name)
        assert "different losses" in dict(found.left_out)["model.decode_head.loss_decode"]
        before, after = losses_after(config, found.recipe)
        assert before == after and before[0] != before[1]


@pytest.mark.parametrize(
    ("name", "parts", "momentum"),
    [
        (FCN, ("backbone", "decode_head", "auxiliary_head"), 0.01),
        (FCN, ("backbone",), None),
        (FCN, ("decode_head",), None),
        (SWIN, ("decode_head", "auxiliary_head"), 0.01),  # the backbone has no batch norms
    ],
)
def test_the_momentum_of_norms_is_taken_where_all_have_it(name, parts, momentum):
    norm = {"type": "SyncBN", "requires_grad": True, "momentum": 0.01}
    _, found = derived(name, norms=dict.fromkeys(parts, norm))
    assert found.recipe.norm_momentum == momentum
    reason = dict(found.left_out).get("norm_cfg.momentum")
    assert reason == (None if momentum else "0.01, 0.1: a recipe has one for all batch norms")

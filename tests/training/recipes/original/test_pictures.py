"""The steps of a training pipeline: what a recipe has is taken, and the rest is named with its place."""

import pytest

from segzoo.training.recipes.original.derive import derive_recipe

RANDOM_RESIZE = {"type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0), "keep_ratio": True}
CROP = {"type": "RandomCrop", "crop_size": (512, 512)}


def derived(*steps):
    """The recipe of a pipeline of 1.x, and by number of the step what is not in it."""
    config = {
        "model": {"type": "EncoderDecoder", "backbone": {"type": "MyNet"}, "decode_head": {"type": "FCNHead"}},
        "optimizer": {"type": "SGD", "lr": 0.1},
        "train_pipeline": list(steps),
    }
    found = derive_recipe(config, name="mine")
    start = "train_pipeline["
    return found.recipe, {p.removeprefix(start): why for p, why in found.left_out if p.startswith(start)}


@pytest.mark.parametrize(
    ("options", "chance", "left"),
    [
        ({"prob": 0.5}, 0.5, None),
        ({"prob": 0.5, "direction": "vertical"}, 0.0, "vertical (0.5): "),
        (
            {"prob": 0.75, "direction": ["horizontal", "vertical", "diagonal"]},
            0.25,
            "vertical (0.25), diagonal (0.25)",
        ),
        ({"prob": [0.3, 0.5], "direction": ["horizontal", "vertical"]}, 0.3, "vertical (0.5): "),
        ({"prob": [0.25, 0.25], "direction": ["horizontal", "horizontal"]}, 0.5, None),
    ],
)
def test_flips_that_are_not_horizontal_are_left_out(options, chance, left):
    recipe, reasons = derived({"type": "RandomFlip", **options})
    assert recipe.flip_probability == chance
    assert reasons == {} if left is None else reasons["0].direction"].startswith(left)


SHORTEST = {"resize_type": "ResizeShortestEdge", "max_size": 2048}


@pytest.mark.parametrize(
    ("options", "size", "edges", "keep", "left"),
    [
        ({"scales": [256, 512], **SHORTEST}, (256, 2048), (256, 512), True, None),
        ({"scales": [(2048, 768), (2048, 512)], "keep_ratio": True}, (512, 2048), (768, 512), True, None),
        ({"scales": [(512, 256), (1024, 512)], "keep_ratio": True}, (256, 512), (), True, "first scale is taken"),
        ({"scales": [(512, 256), (1024, 512)]}, (256, 512), (), False, "first scale is taken"),
        ({"scales": [(512, 256)]}, (256, 512), (), False, None),
        ({"scales": [(512, 256)], "resize_type": "Mine"}, None, (), True, "'Mine' is not supported"),
    ],
)
def test_a_choice_of_scales(options, size, edges, keep, left):
    recipe, reasons = derived({"type": "RandomChoiceResize", **options})
    assert (recipe.scale_size, recipe.scale_edges, recipe.keep_ratio) == (size, edges, keep)
    assert reasons == {} if left is None else left in reasons["0]"]


def test_options_that_every_recipe_has_alike():
    _, reasons = derived({**RANDOM_RESIZE, "interpolation": "nearest"}, {**CROP, "ignore_index": 0})
    assert reasons == {
        "0].interpolation": "'nearest' becomes 'bilinear', that of every recipe",
        "1].ignore_index": "0 becomes 255, that of every recipe",
    }


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"size": (512, 512), "pad_val": 0, "seg_pad_val": 255}, {}),
        ({"size_divisor": 32, "pad_val": {"img": 0, "seg": 255}}, {}),
        ({"size": (512, 512), "seg_pad_val": 0}, {"0].seg_pad_val": "0 becomes 255, that of every recipe"}),
        ({"size": (512, 512), "pad_val": {"seg": 0}}, {"0].pad_val.seg": "0 becomes 255, that of every recipe"}),
    ],
)
def test_padding_of_masks_that_would_count(options, left):
    assert derived({"type": "Pad", **options})[1] == left


def test_padding_of_masks_by_the_preprocessor():
    for value, count in ((255, 0), (0, 1)):
        config = {
            "model": {"type": "EncoderDecoder", "backbone": {"type": "MyNet"}, "decode_head": {"type": "FCNHead"}},
            "data_preprocessor": {"type": "SegDataPreProcessor", "seg_pad_val": value},
            "optimizer": {"type": "SGD", "lr": 0.1},
            "train_pipeline": [CROP],
        }
        left = dict(derive_recipe(config, name="mine").left_out)
        assert ("data_preprocessor.seg_pad_val" in left) == count


def test_the_order_of_the_steps():
    recipe, reasons = derived(RANDOM_RESIZE, CROP)
    assert (recipe.scale_range, reasons) == ((0.5, 2.0), {})
    _, reasons = derived(CROP, RANDOM_RESIZE)
    assert "it follows the crop of train_pipeline[0]" in reasons["1]"]


def test_of_two_steps_of_a_kind_the_last_is_taken():
    choice = {"type": "RandomChoiceResize", "scales": [256, 512], **SHORTEST}
    recipe, reasons = derived(choice, RANDOM_RESIZE)
    assert (recipe.scale_size, recipe.scale_edges, recipe.scale_range) == ((512, 2048), (), (0.5, 2.0))
    assert reasons == {"0]": "a recipe has one such step; train_pipeline[1] stands in its place"}
    recipe, reasons = derived(
        {"type": "RandomFlip", "prob": 0.5}, {"type": "RandomFlip", "prob": 0.25, "direction": "vertical"}
    )
    assert recipe.flip_probability == 0.5 and list(reasons) == ["1].direction"]

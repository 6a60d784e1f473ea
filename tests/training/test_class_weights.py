import numpy as np
import pytest

from segzoo import SegZooError
from segzoo.data.checks.class_counts import ClassCounts
from segzoo.training.arguments import parse_arguments
from segzoo.training.class_weights import class_weights, weights_in_words
from segzoo.training.recipes.recipe import Recipe

# 900, 100 and no pixels, in 4 and 1 of 4 pictures of 250 pixels each
COUNTS = ClassCounts(
    pixels=np.array([900, 100, 0]),
    images=np.array([4, 1, 0]),
    pixels_beside=np.array([1000, 250, 0]),
    ignored=0,
    ignored_images=0,
    num_images=4,
)


@pytest.mark.parametrize(
    ("rule", "ratio"),
    [
        ("inverse_sqrt", 3.0),
        ("auto", 3.0),
        ("effective_number", (1 - 0.75**4) / (1 - 0.75)),
        ("median_frequency", 0.9 / 0.4),
    ],
)
def test_rarer_classes_weigh_more_by_the_rule(rule, ratio):
    weights = class_weights(COUNTS, rule)
    assert weights[1] / weights[0] == pytest.approx(ratio, rel=1e-3) and weights[2] == 1
    if rule != "median_frequency":
        assert weights[0] + weights[1] == pytest.approx(2, rel=1e-3)
    else:
        assert weights[0] == pytest.approx(0.65 / 0.9, rel=1e-3)


def test_the_weights_are_told_in_one_line():
    text = weights_in_words((0.5, 1.5, 1.0), ["road", "car", "sky"], "auto", COUNTS)
    assert text == "class weights (inverse_sqrt, from 4 masks): road 0.5, car 1.5; 1 that do not occur have 1"


def test_data_without_any_class_have_no_weights():
    none = ClassCounts(*(np.zeros(2, np.int64),) * 3, ignored=5, ignored_images=1, num_images=1)
    with pytest.raises(SegZooError, match="no pixel of the training pictures"):
        class_weights(none)


def test_a_rule_stands_in_the_place_of_the_numbers():
    assert Recipe(class_weights="auto").weights_rule == "auto"
    assert Recipe(class_weights=[1, 2.5]).weights_rule is None and Recipe().weights_rule is None
    with pytest.raises(SegZooError, match="give it alone"):
        Recipe(class_weights=["auto", 2])
    with pytest.raises(SegZooError, match="class_weights is 'rarely'; it must be a number or 'auto'"):
        Recipe(class_weights="rarely")
    for flags, needs in (("--class_weights auto", "class_weights auto"), ("--sampling balanced", "sampling balanced")):
        with pytest.raises(SegZooError, match=f"{needs} counts the classes"):
            parse_arguments(["--output_dir", "o", "--streaming", "--max_train_steps", "1", *flags.split()])

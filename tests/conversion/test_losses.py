"""``loss_decode`` and ``sampler`` of original heads -> the losses that the converted model trains with."""

import re

import pytest
from conversion import tiny
from support.zoo_translations import translations

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError


def translate(loss_decode, sampler=None, **changes):
    changes |= {"model__decode_head__loss_decode": loss_decode, "model__decode_head__sampler": sampler}
    translation = translate_config(tiny.config(**changes))
    notes = [note for note in translation.notes if not note.startswith("classes")]
    return translation.config.decode_head_configs[0].losses, notes


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ({"type": "CrossEntropyLoss"}, [{"type": "cross_entropy"}]),
        ({"type": "mmseg.CrossEntropyLoss", "loss_weight": 0.4}, [{"type": "cross_entropy", "weight": 0.4}]),
        (
            {"type": "CrossEntropyLoss", "class_weight": (1, 2, 3, 4), "avg_non_ignore": True},
            [{"type": "cross_entropy", "class_weights": [1.0, 2.0, 3.0, 4.0], "average": "valid"}],
        ),
        ({"type": "CrossEntropyLoss", "reduction": "sum"}, [{"type": "cross_entropy", "average": "sum"}]),
        ({"type": "CrossEntropyLoss", "use_sigmoid": True}, [{"type": "cross_entropy", "sigmoid": True}]),
        (
            [
                {"type": "CrossEntropyLoss", "loss_name": "loss_ce", "loss_weight": 1.0},
                {"type": "DiceLoss", "loss_name": "loss_dice", "loss_weight": 3.0},
            ],
            [{"type": "cross_entropy"}, {"type": "dice", "weight": 3.0}],
        ),
        ({"type": "DiceLoss", "smooth": 1e-5, "exponent": 1}, [{"type": "dice", "smooth": 1e-5, "exponent": 1.0}]),
        (
            {"type": "FocalLoss", "gamma": 1.5, "alpha": [0.1, 0.2, 0.3, 0.4]},
            [{"type": "focal", "gamma": 1.5, "alpha": [0.1, 0.2, 0.3, 0.4]}],
        ),
        ({"type": "LovaszLoss", "reduction": "none"}, [{"type": "lovasz"}]),
        (
            {"type": "LovaszLoss", "per_image": True, "classes": [0, 2]},
            [{"type": "lovasz", "classes": [0, 2], "per_image": True}],
        ),
    ],
)
def test_losses(original, expected):
    losses, notes = translate(original)
    assert losses == expected and notes == []


def test_dice_has_an_ignored_label_of_its_own():
    dice = {"type": "DiceLoss"}
    assert translate(dice | {"ignore_index": 0})[0] == [{"type": "dice", "ignore_index": 0}]
    assert translate(dice, model__decode_head__ignore_index=0)[0] == [{"type": "dice", "ignore_index": 255}]
    both = translate(dice | {"ignore_index": 0}, model__decode_head__ignore_index=0)[0]
    assert both == [{"type": "dice"}]


def test_hard_example_mining_goes_to_the_cross_entropies():
    both = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
    losses, notes = translate(both, {"type": "OHEMPixelSampler", "thresh": 0.7, "min_kept": 10000})
    assert losses == [{"type": "cross_entropy", "ohem": {"threshold": 0.7, "min_kept": 10000}}, {"type": "dice"}]
    losses, _ = translate(both[0], {"type": "OHEMPixelSampler"})
    assert losses == [{"type": "cross_entropy", "ohem": {"threshold": None, "min_kept": 100_000}}]
    assert notes == []


def test_what_divides_changed_with_version_1():
    weighted = {"type": "CrossEntropyLoss", "class_weight": [1, 2, 3, 4]}
    assert translate(weighted, default_scope="mmseg")[0][0]["average"] == "weighted"
    assert "average" not in translate({"type": "CrossEntropyLoss"}, default_scope="mmseg")[0][0]
    losses, notes = translate({"type": "DiceLoss", "naive_dice": True}, default_scope="mmseg")
    assert losses == [{"type": "dice"}] and "0.x" in notes[0]


@pytest.mark.parametrize(
    ("original", "sampler", "expected", "words"),
    [
        ({"type": "BoundaryLoss"}, None, [{"type": "cross_entropy"}], "with BoundaryLoss"),
        ([{"type": "CrossEntropyLoss"}, {"type": "TverskyLoss"}], None, [{"type": "cross_entropy"}], "TverskyLoss"),
        ({"type": "TverskyLoss", "loss_weight": 0.4}, None, [{"type": "cross_entropy", "weight": 0.4}], "plain cross"),
        ({"type": "CrossEntropyLoss", "use_mask": True}, None, [{"type": "cross_entropy"}], "use_mask=True"),
        ({"type": "LovaszLoss", "loss_type": "binary"}, None, [{"type": "cross_entropy"}], "loss_type='binary'"),
        ({"type": "CrossEntropyLoss", "class_weight": "w.npy"}, None, [{"type": "cross_entropy"}], "w.npy"),
        ({"type": "CrossEntropyLoss", "odd": 1}, None, [{"type": "cross_entropy"}], "CrossEntropyLoss.*odd=1"),
        ({"type": "CrossEntropyLoss", "reduction": "none"}, None, [{"type": "cross_entropy"}], "mean over all pixels"),
        ({"type": "FocalLoss", "reduction": "none"}, None, [{"type": "focal"}], "mean over all pixels"),
        ({"type": "FocalLoss", "reduction": "sum"}, None, [{"type": "cross_entropy"}], "FocalLoss.*reduction='sum'"),
        (
            {"type": "CrossEntropyLoss"},
            {"type": "OHEMPixelSampler", "odd": 1},
            [{"type": "cross_entropy", "ohem": {"threshold": None, "min_kept": 100_000}}],
            "OHEMPixelSampler.*odd=1",
        ),
        ({"type": "CrossEntropyLoss"}, {"type": "OtherSampler"}, [{"type": "cross_entropy"}], "OtherSampler"),
    ],
)
def test_what_is_not_carried_over_is_noted(original, sampler, expected, words):
    losses, notes = translate(original, sampler)
    assert losses == expected
    assert any(re.search(words, note) for note in notes)


def test_weights_for_other_classes_are_an_error():
    with pytest.raises(SegZooError, match="class_weights has 3 entries for 4 classes"):
        translate({"type": "CrossEntropyLoss", "class_weight": [1, 2, 3]})


def test_converted_losses_train():
    values = tiny.config(model__decode_head__loss_decode=[{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}])
    model = SegZooForSemanticSegmentation(translate_config(values).config)
    assert [loss.name for loss in model.decode_heads[0].losses] == ["cross_entropy", "dice"]


def test_losses_of_the_zoo_need_no_note():
    for name, translation in translations().items():
        notes = translation.notes
        assert not [note for note in notes if "loss" in note or "trained with" in note or "sampler" in note], name

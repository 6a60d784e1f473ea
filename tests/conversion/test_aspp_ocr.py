"""Options of ASPPHead, DepthwiseSeparableASPPHead and OCRHead of mmsegmentation."""

import copy

import pytest
from conversion import tiny

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights

FINE = {"type": "DepthwiseSeparableASPPHead", "c1_in_channels": 8, "c1_channels": 4, "num_convs": None}
OCR = {"type": "OCRHead", "ocr_channels": 8, "num_convs": None}


def changed(head, **changes):
    """The head of the tiny model with changes; None takes an option away."""
    merged = {**tiny.MODEL["decode_head"], **head, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def config(head):
    if head["type"] != "OCRHead":
        return tiny.config(model__decode_head=head)
    cascade = [copy.deepcopy(tiny.MODEL["decode_head"]), head]
    values = tiny.config(model__decode_head=cascade, model__type="CascadeEncoderDecoder")
    values["model"]["num_stages"] = 2
    return values


@pytest.mark.parametrize(
    "head",
    [
        changed({"type": "ASPPHead", "num_convs": None}, dilations=(1, 6, 12, 18)),
        changed(FINE),
        changed(FINE, c1_in_channels=0, c1_channels=0),
        changed(OCR),
        changed(OCR, scale=1, use_sep_conv=False, drop_out_ratio=0.05, dropout_ratio=None),
    ],
    ids=["aspp", "fine map", "no fine map", "ocr", "ocr of old versions"],
)
def test_round_trip_of_the_keys(head):
    values = config(head)
    translation = translate_config(values)
    state = tiny.state_dict(values)
    native, match = match_weights(
        state, translation.components, build_without_weights(translation.config).state_dict()
    )
    match.raise_for_problems("tiny")
    assert len(native) == len(state) == len(match.renamed)


def test_what_the_fine_map_is():
    head = translate_config(config(changed(FINE))).config.decode_head_configs[0]
    assert (head.in_index, head.in_channels, head.fine_channels, head.dilations) == (
        [3, 0],
        [64, 8],
        4,
        [1, 6, 12, 18],
    )
    alone = translate_config(config(changed(FINE, c1_in_channels=0, c1_channels=0))).config.decode_head_configs[0]
    assert (alone.in_index, alone.in_channels) == ([3], [64])


def test_dropout_in_the_spelling_of_old_versions():
    head = translate_config(config(changed(OCR, drop_out_ratio=0.05, dropout_ratio=None))).config.decode_head_configs[
        1
    ]
    assert head.dropout == 0.05


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (changed(FINE, c1_in_channels=0), "c1_channels=4"),
        (changed(FINE, c1_channels=None), "'c1_channels' is missing"),
        (changed(FINE, in_channels=[32, 64], in_index=[2, 3], input_transform="resize_concat"), "resize_concat"),
        (changed(OCR, scale=2), "scale=2"),
        (changed(OCR, use_sep_conv=True), "use_sep_conv=True"),
        (changed({"type": "ASPPHead"}), "unknown option num_convs=1"),
    ],
)
def test_what_is_refused(head, named):
    with pytest.raises(ConversionError, match=named):
        translate_config(config(head))

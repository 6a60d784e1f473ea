"""EncHead's loss of the classes that a picture shows, in original configs and checkpoints."""

import pytest
import torch
from conversion import tiny

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict


def translated(**changes):
    head = {**tiny.MODEL["decode_head"], "type": "EncHead", "in_channels": [32, 64], "in_index": [2, 3], **changes}
    for name in ("num_convs", "kernel_size", "concat_input"):
        head.pop(name, None)
    return translate_config(tiny.config(model__decode_head=head))


CE = {"type": "CrossEntropyLoss", "use_sigmoid": True}


@pytest.mark.parametrize(
    ("loss", "weight", "noted"),
    [
        (CE, 1.0, False),
        (CE | {"loss_weight": 3, "loss_name": "loss_se", "class_weight": None, "avg_non_ignore": True}, 3.0, False),
        (CE | {"class_weight": [1.0, 2.0]}, 1.0, True),
        (CE | {"reduction": "sum"}, 1.0, True),
        (CE | {"use_sigmoid": False}, 1.0, True),
        ({"type": "DiceLoss", "loss_weight": 0.5}, 0.5, True),
    ],
)
def test_weight_of_the_loss(loss, weight, noted):
    found = translated(loss_se_decode=loss)
    assert found.config.decode_head_configs[0].se_loss_weight == weight
    assert any("loss_se_decode: it trains on" in note for note in found.notes) is noted


def test_defaults_of_the_original():
    head = translated().config.decode_head_configs[0]
    assert (head.num_codes, head.add_lateral, head.use_se_loss, head.se_loss_weight) == (32, False, True, 0.2)


def test_losses_that_are_none():
    with pytest.raises(ConversionError, match="loss_se_decode"):
        translated(loss_se_decode="CrossEntropyLoss")
    assert (
        not translated(loss_se_decode="CrossEntropyLoss", use_se_loss=False).config.decode_head_configs[0].use_se_loss
    )


def test_one_class_becomes_two():
    found = translated(num_classes=1)
    state = SegZooForSemanticSegmentation(found.config).state_dict()
    key, original = "decode_heads.0.presence.weight", original_state_dict(state, found.components)
    assert len(state[key]) == 2 and len(original["decode_head.se_layer.weight"]) == 1
    native, _ = match_weights(original, found.components, state)
    torch.testing.assert_close(native[key][1] - native[key][0], state[key][1] - state[key][0])
    assert not native[key][0].any()

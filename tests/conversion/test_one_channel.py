"""Originals with one output channel, a sigmoid and a threshold, become models of two classes with the same labels."""

import pytest
import torch
from conversion import tiny

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.one_channel import SecondChannel
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict

SIGMOID = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 2.0}


def binary(num_classes=2, aux=False, **changes):
    head = tiny.MODEL["decode_head"] | {"num_classes": num_classes, "loss_decode": SIGMOID} | changes
    auxiliary = head | {"in_channels": 32, "in_index": 2}
    return tiny.config(model__decode_head=head, model__auxiliary_head=auxiliary if aux else None)


@pytest.fixture(params=[0.3, 0.5, 0.9])
def threshold(request):
    return request.param


def test_label_maps_and_probabilities(threshold, tmp_path):
    values = binary(out_channels=1, threshold=threshold, aux=True)
    state = tiny.state_dict(values)
    assert state["decode_head.conv_seg.weight"].shape == (1, 8, 1, 1)
    path = tiny.save(tmp_path / "binary.pth", values, state=dict(state), CLASSES=("ground", "road"))
    folder = convert_checkpoint(path, output=tmp_path / "model").folder
    model = SegZooForSemanticSegmentation.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "ground", 1: "road"}
    assert model.auxiliary_heads[0].config.num_outputs == 2
    kept = []
    model.decode_heads[0].classifier.register_forward_hook(lambda module, inputs, output: kept.append(inputs[0]))
    with torch.no_grad():
        logits = model(pixel_values=torch.randn(2, 3, 64, 64)).logits
        one = torch.nn.functional.conv2d(
            kept[0], state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"]
        )
    shifted = one[:, 0] - torch.logit(torch.tensor(threshold))
    torch.testing.assert_close(logits.softmax(1)[:, 1], shifted.sigmoid())
    clear = shifted.abs() > 1e-5  # rounding decides the rest
    assert torch.equal((logits.argmax(1) == 1)[clear], (one.sigmoid() > threshold)[:, 0][clear])


def test_the_way_back(threshold):
    values = binary(out_channels=1, threshold=threshold)
    translation, state = translate_config(values), tiny.state_dict(values)
    with torch.device("meta"):
        expected = SegZooForSemanticSegmentation(translation.config).state_dict()
    native, match = match_weights(state, translation.components, expected)
    match.raise_for_problems("a.pth")
    back = original_state_dict(native, translation.components)
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        torch.testing.assert_close(back[key], tensor, rtol=0, atol=1e-6 if key.endswith("conv_seg.bias") else 0)


def test_further_training_moves_both_channels():
    change = SecondChannel(shift=1.5)
    assert change.to_original(torch.tensor([2.0, 5.0])).tolist() == [4.5]


@pytest.mark.parametrize("is_1x", [False, True])
def test_one_class(is_1x):
    values = binary(num_classes=1) | ({"default_scope": "mmseg"} if is_1x else {})
    values |= {"data": {"test": {"type": "CustomDataset", "reduce_zero_label": True}}}
    translation = translate_config(values, class_names=["crack"], palette=[[9, 9, 9]])
    assert translation.config.id2label == {0: "background", 1: "crack"}
    assert translation.config.palette == [[0, 0, 0], [9, 9, 9]]
    assert not translation.classes.reduce_labels  # label files hold 0 for the background
    note = next(note for note in translation.notes if "one output channel" in note)
    assert "threshold 0.3, the original's default" in note and ("argmax" in note) is not is_1x


def test_losses_of_two_classes():
    values = binary(out_channels=1, loss_decode=[SIGMOID | {"class_weight": [0.5]}, {"type": "DiceLoss"}])
    first, second = translate_config(values).config.decode_head_configs[0].losses
    assert first == {"type": "cross_entropy", "weight": 2.0} and second["type"] == "dice"


@pytest.mark.parametrize("threshold", [0, 1, -0.1, "0.3"])
def test_thresholds_out_of_range(threshold):
    with pytest.raises(ConversionError, match="threshold=.* between 0 and 1"):
        translate_config(binary(out_channels=1, threshold=threshold))


def test_weights_with_two_channels_are_not_the_configs(tmp_path):
    path = tiny.save(tmp_path / "two.pth", binary(out_channels=1), state=tiny.state_dict(binary()), CLASSES=None)
    with pytest.raises(ConversionError, match=r"(?s)decode_head.conv_seg.weight.*2x8x1x1.*1x8x1x1"):
        convert_checkpoint(path, output=tmp_path / "model")


def test_a_cascade_that_reads_one_channel():
    head = binary(out_channels=1)["model"]["decode_head"]
    with pytest.raises(ConversionError, match="decode_head.0: one output channel that the next head"):
        translate_config(tiny.config(model__type="CascadeEncoderDecoder", model__decode_head=[head, head]))

"""Options of DAHead, ISAHead, ANNHead and PSAHead of mmsegmentation."""

import pytest
import torch
from conversion import tiny
from support.contract import assert_close

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict

DA = {"type": "DAHead", "pam_channels": 4}
ISA = {"type": "ISAHead", "isa_channels": 4}
ANN = {"type": "ANNHead", "project_channels": 4, "in_channels": [32, 64], "in_index": [2, 3]}
PSA = {"type": "PSAHead", "mask_size": (3, 3)}


def config(head, **changes):
    merged = {**tiny.MODEL["decode_head"], **head, **changes}
    return tiny.config(model__decode_head={k: v for k, v in merged.items() if v is not None and k != "num_convs"})


def state_dict(values):
    state = tiny.state_dict(values)
    for key in [key for key in state if ".context." in key and ".key_project." in key]:
        state[key] = state[key.replace("key_project", "query_project")]
    return state


@pytest.mark.parametrize(
    ("head", "changes", "names"),
    [
        (DA, {}, ["pam.gamma.scale", "cam_conv_seg.bias"]),
        (DA, {"num_classes": 1}, ["pam_conv_seg.weight"]),
        (DA, {"num_classes": 2, "out_channels": 1}, ["pam_conv_seg.weight"]),
        (ISA, {}, ["local_relation.output_project.bn.weight", "global_relation.key_project.1.conv.weight"]),
        (
            ANN,
            {"query_scales": (1, 1)},
            ["fusion.stages.1.key_project.conv.weight", "context.stages.1.out_project.bias"],
        ),
        (PSA, {}, ["attention_p.1.weight", "reduce.conv.weight"]),
        (PSA, {"psa_type": "collect"}, ["attention.1.weight"]),
        (PSA, {"psa_type": "distribute", "compact": True}, ["attention.1.weight"]),
    ],
)
def test_round_trip_of_the_keys(head, changes, names):
    values = config(head, **changes)
    translation = translate_config(values)
    state = state_dict(values)
    assert {f"decode_head.{name}" for name in names} <= state.keys()
    expected = build_without_weights(translation.config).state_dict()
    native, match = match_weights(state, translation.components, expected)
    match.raise_for_problems("tiny")
    back = original_state_dict(native, translation.components)
    assert back.keys() == state.keys()
    for key, tensor in back.items():  # a threshold is subtracted and added again
        assert_close(tensor, state[key], 1e-6)


def test_one_channel_of_danet_becomes_two_in_all_classifiers():
    values = config(DA, num_classes=1, threshold=0.5)
    translation, state = translate_config(values), state_dict(values)
    assert [list(state[f"decode_head.{name}conv_seg.weight"].shape)[0] for name in ("", "pam_", "cam_")] == [1, 1, 1]
    model = SegZooForSemanticSegmentation(translation.config)
    native, _ = match_weights(state, translation.components, model.state_dict())
    model.load_state_dict(native)
    head = model.eval().decode_heads[0]
    features = torch.randn(1, 8, 2, 2)
    for ours, theirs in (("classifier", "conv_seg"), ("position_classifier", "pam_conv_seg")):
        logits = getattr(head, ours)(features)
        score = torch.nn.functional.conv2d(
            features, state[f"decode_head.{theirs}.weight"], state[f"decode_head.{theirs}.bias"]
        )
        assert not logits[:, 0].any()
        assert_close(logits[:, 1:], score)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (config(DA, pam_channels=None), "'pam_channels' is missing"),
        (config(ISA, isa_channels=None), "'isa_channels' is missing"),
        (config(ANN, project_channels=None), "'project_channels' is missing"),
        (config(ANN, query_scales=(2,)), r"query_scales=\(2,\) is not supported"),
        (config(ANN, query_scales=()), "query_scales"),
        (config(ANN, in_channels=64, in_index=3), "must be lists"),
        (config(PSA, psa_type="both"), "psa_type"),
    ],
)
def test_what_is_refused(values, named):
    with pytest.raises(ConversionError, match=named):
        translate_config(values)

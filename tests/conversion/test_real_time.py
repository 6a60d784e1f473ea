"""DDRNet's and PIDNet's configs: options that would change the numbers, and losses of their branches."""

import copy
import json
from pathlib import Path

import pytest

from segzoo.conversion import rules  # noqa: F401  registers every rule
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config

RECORDS = Path(__file__).parents[1] / "parity/records"
PIDNET = "pidnet-s_2xb6-120k_1024x1024-cityscapes"
DDRNET = "ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024"


def original(name):
    return copy.deepcopy(json.loads((RECORDS / f"{name}.json").read_text())["config"])


def head_of(config):
    translation = translate_config(config)
    return translation.config.decode_head_configs[0], " ".join(translation.notes)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (PIDNET, {"norm_cfg": {"type": "SyncBN", "eps": 1e-3}}, "eps=0.001 are not supported"),
        (PIDNET, {"act_cfg": {"type": "GELU"}}, "only ReLU"),
        (PIDNET, {"norm_cfg": None}, "norm_cfg=None"),
        (PIDNET, {"num_stem_blocks": 0}, "stem_blocks=0"),
        (DDRNET, {"norm_cfg": {"type": "GN", "num_groups": 32}}, "'GN' is not supported"),
        (DDRNET, {"dilation": 2}, "unknown option dilation=2"),
    ],
)
def test_options_of_backbones(name, options, words):
    config = original(name)
    config["model"]["backbone"] |= options
    with pytest.raises((ConversionError, ValueError), match=words):
        translate_config(config)


def test_kinds_of_pidnet():
    """Two blocks in the stem make the light network; all others the heavy one."""
    rule = find_rule("backbone", {"type": "PIDNet"}, "model.backbone")
    for blocks, light in ((2, True), (3, False), (1, False)):
        config, table = rule.convert({"type": "PIDNet", "num_stem_blocks": blocks}, Context("model.backbone"))
        assert (config.light, config.stem_blocks, config.channels) == (light, blocks, 64)
        assert (table.to_native("dfm.f_p.conv.weight") is not None) == light
        assert (table.to_native("spp.processes.3.conv.weight") is not None) != light


def test_losses_of_pids_branches():
    config = original(PIDNET)
    config["model"]["decode_head"]["loss_decode"][2]["loss_weight"] = 7.0
    config["train_pipeline"][-2]["edge_width"] = 6
    head, notes = head_of(config)
    hard = {"threshold": 0.9, "min_kept": 131072, "per_batch": True}
    assert [(loss["average"], loss["ohem"]) for loss in head.losses] == [("kept", hard)]
    assert head.boundary_losses == head.losses and (head.boundary_weight, head.boundary_width) == (7.0, 6)
    assert head.detail_losses[0]["weight"] == 0.4 and head.detail_losses[0]["average"] == "weighted"
    assert "loss_decode" not in notes
    config["model"]["decode_head"]["loss_decode"][2] = {"type": "DiceLoss"}
    del config["train_pipeline"]
    head, notes = head_of(config)
    assert "trained with DiceLoss, and are here with BoundaryLoss" in notes and head.boundary_width == 4
    config["model"]["decode_head"]["loss_decode"] = {"type": "CrossEntropyLoss"}
    head, notes = head_of(config)
    assert "loss_decode is not a list of 4" in notes and head.boundary_weight == 20.0


def test_losses_of_ddrs_branches():
    config = original(DDRNET)
    head, _ = head_of(config)
    assert head.detail_losses[0] == head.losses[0] | {"weight": 0.4}
    del config["model"]["decode_head"]["loss_decode"]
    head, notes = head_of(config)
    assert "loss_decode is not a list of 2" in notes and head.losses[0]["average"] == "kept"


@pytest.mark.parametrize("name", [PIDNET, DDRNET])
def test_heads_of_one_channel(name):
    config = original(name)
    config["model"]["decode_head"] |= {"num_classes": 2, "out_channels": 1, "threshold": 0.4}
    config["dataset_type"] = "BaseSegDataset"
    for loss in config["model"]["decode_head"]["loss_decode"]:
        loss.pop("class_weight", None)
    translation = translate_config(config)
    head = build_without_weights(translation.config).decode_heads[0]
    assert head.classifier.out_channels == head.detail_classifier.out_channels == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_channels": [64, 128]}, "in_channels=.* must be an integer"),
        ({"input_transform": "resize_concat"}, "input_transform='resize_concat'"),
        ({"no_such_option": 1}, "unknown option no_such_option"),
    ],
)
def test_options_of_heads(options, words):
    for name in (PIDNET, DDRNET):
        config = original(name)
        config["model"]["decode_head"] |= options
        with pytest.raises(ConversionError, match=words):
            translate_config(config)

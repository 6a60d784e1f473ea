"""Conversion of Mask2Former's head: keys and options of the original in both spellings, and whole checkpoints."""

import copy
import gzip
import json
from pathlib import Path

import pytest
import torch
from conversion import tiny
from parity import synthesis
from transformers import AutoModelForSemanticSegmentation

from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, KeyTable
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.rules.mask2former import MASK2FORMER
from segzoo.conversion.translate import segmentor_type
from segzoo.heads import Mask2FormerHead
from segzoo.losses import MaskClassificationLoss

RECORDS = Path(__file__).parents[1] / "heads" / "records"
RECORD = json.loads((RECORDS / "mask2former.json").read_text())
RELEASED = json.loads(gzip.decompress((RECORDS / "mask2former_released.json.gz").read_bytes()))


def translated(config, train_cfg=None):
    context = Context("model.decode_head", OriginalConfig(train_cfg=train_cfg))
    return MASK2FORMER.translate(config, context), context


@pytest.mark.parametrize("name", RELEASED)
def test_released_heads_convert(name):
    model = RELEASED[name]["model"]
    assert segmentor_type(model) == "EncoderDecoderMask2Former"
    config, context = translated(model["decode_head"], model["train_cfg"])
    with torch.device("meta"):
        head = Mask2FormerHead(config)
    table = MASK2FORMER.key_table(config)
    expected = {key: "x".join(map(str, value.shape)) for key, value in head.state_dict().items()}
    shapes = dict(line.split(" ") for line in RELEASED[name]["keys"])
    assert {table.to_native(key): shape for key, shape in shapes.items()} == expected
    assert all(table.to_original(table.to_native(key)) == key for key in shapes)
    for key in ("conv_seg.weight", "conv_seg.bias"):
        rule, native = table.find(key)
        assert rule is not None and native is None
    assert config.num_labels == (171 if "cocostuff164k" in name else 150)
    assert config.losses == [{"type": "mask_classification"}] and context.notes == []


def test_segmentor_with_augmentation_is_known():
    assert segmentor_type({"type": "EncoderDecoderMask2FormerAug"}) == "EncoderDecoderMask2FormerAug"


def changed(**changes):
    return changed_in(copy.deepcopy(RECORD["config"]), changes)


def changed_in(config, changes):
    for path, value in changes.items():
        *inner, last = path.split("__")
        target = config
        for name in inner:
            target = target[name]
        target[last] = value
    return config


def test_training_options_are_carried_over():
    config, context = translated(
        changed(
            loss_cls__class_weight=[1.0, 2.0, 1.0, 1.0, 1.0, 0.2],
            loss_mask__loss_weight=20.0,
            train_cfg__num_points=100,
            train_cfg__assigner__dice_cost__weight=3.0,
            enforce_decoder_input_project=True,
            pixel_decoder__encoder__transformerlayers__ffn_cfgs__ffn_drop=0.1,
        )
    )
    (loss,) = config.build_losses(config.losses)
    assert loss == MaskClassificationLoss(
        class_weights=[1.0, 2.0, 1.0, 1.0, 1.0],
        no_object_weight=0.2,
        mask_loss_weight=20.0,
        num_points=100,
        dice_cost_weight=3.0,
    )
    assert config.project_levels and config.dropout == 0.1
    assert "dropout" in context.notes[0]
    assert Mask2FormerHead(config).level_convs is not None
    assert MASK2FORMER.key_table(config).to_native("decoder_input_projs.1.bias") == "level_convs.1.bias"


def respelled(**changes):
    """The record's config as mmsegmentation 1.x spells it, with mmdet 3's names."""
    config = changed()
    encoder, decoder = config["pixel_decoder"]["encoder"], config["transformer_decoder"]
    old = encoder.pop("transformerlayers")
    encoder["layer_cfg"] = {"self_attn_cfg": old["attn_cfgs"] | {"batch_first": True}, "ffn_cfg": old["ffn_cfgs"]}
    old = decoder.pop("transformerlayers")
    attention = old["attn_cfgs"] | {"batch_first": True}
    decoder["layer_cfg"] = {"self_attn_cfg": attention, "cross_attn_cfg": dict(attention), "ffn_cfg": old["ffn_cfgs"]}
    assigner = config["train_cfg"]["assigner"]
    costs = [assigner.pop(f"{name}_cost") for name in ("cls", "mask", "dice")]
    assigner.update(type="mmdet.HungarianAssigner", match_costs=costs)
    for name in ("loss_cls", "loss_mask", "loss_dice"):
        config[name]["type"] = f"mmdet.{config[name]['type']}"
    config["strides"] = [4, 8, 16, 32]
    return changed_in(config, changes)


def test_both_spellings_say_the_same():
    (config, rules), context = translated(respelled())
    old, _ = translated(RECORD["config"])
    assert config.resize_masks_first and not old.resize_masks_first
    assert config.to_dict() == old.to_dict() | {"resize_masks_first": True}
    assert context.notes == []
    table = KeyTable((*rules, *MASK2FORMER.key_table(config).rules))
    key = "transformer_decoder.layers.1.self_attn.attn.in_proj_weight"
    assert table.to_native(key) == "layers.1.self_attention.in_proj.weight"
    assert table.to_original("layers.1.self_attention.in_proj.weight") == key
    before = "transformer_decoder.layers.1.attentions.1.attn.in_proj_weight"  # of files that are older than the config
    assert table.to_native(before) == "layers.1.self_attention.in_proj.weight"


def test_early_mmsegmentation_1_resizes_the_masks_first():
    context = Context("model.decode_head", OriginalConfig(is_1x=True))
    assert MASK2FORMER.translate(RECORD["config"], context).resize_masks_first


def test_a_cost_that_is_not_listed_has_no_weight():
    config = respelled()
    del config["train_cfg"]["assigner"]["match_costs"][1]
    (translation, _), _ = translated(config)
    (loss,) = translation.build_losses(translation.losses)
    assert (loss.class_cost_weight, loss.mask_cost_weight, loss.dice_cost_weight) == (2.0, 0.0, 5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer_decoder__layer_cfg__self_attn_cfg__num_heads": 2}, "in the other attention"),
        ({"transformer_decoder__layer_cfg__norm_cfg": {"type": "BN"}}, "norm_cfg=.*only LN"),
        ({"transformer_decoder__layer_cfg__cross_attn_cfg__batch_first": False}, "batch_first=False is not supported"),
        ({"pixel_decoder__encoder__layer_cfg__new_trick": 1}, "layer_cfg: unknown option new_trick=1"),
        ({"train_cfg__assigner__match_costs": [{"type": "mmdet.FocalLossCost"}]}, "costs FocalLossCost are not"),
        ({"train_cfg__assigner__match_costs": [{"type": "DiceCost"}] * 2}, "two costs of the same type"),
    ],
)
def test_other_options_of_the_new_spelling_are_named(changes, message):
    with pytest.raises(ConversionError, match=message):
        translated(respelled(**changes))


def test_a_config_for_inference_alone_trains_as_usual():
    config = changed()
    del config["train_cfg"]
    assert translated(config)[0].losses == [{"type": "mask_classification"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_decoder__type": "PixelDecoder"}, "pixel_decoder: type 'PixelDecoder' is not supported"),
        ({"pixel_decoder__norm_cfg": {"type": "BN"}}, "norm_cfg: type 'BN'"),
        ({"positional_encoding__normalize": False}, "normalize=False"),
        ({"pixel_decoder__encoder__transformerlayers__attn_cfgs__num_levels": 4}, "num_levels=4"),
        ({"transformer_decoder__transformerlayers__ffn_cfgs__num_fcs": 3}, "num_fcs=3"),
        ({"loss_dice__naive_dice": False}, "naive_dice=False"),
        ({"loss_cls__class_weight": [1.0, 0.1]}, "class_weight"),
        ({"num_classes": 0}, "0 classes"),
        ({"new_trick": 1}, "unknown option new_trick=1"),
    ],
)
def test_other_options_are_named(changes, message):
    with pytest.raises(ConversionError, match=message):
        translated(changed(**changes))


def whole_checkpoint():
    head = changed(in_channels=[8, 16, 32, 64], num_things_classes=3, num_stuff_classes=1, num_classes=4)
    head["loss_cls"]["class_weight"] = [1.0] * 4 + [0.1]
    train_cfg, test_cfg = head.pop("train_cfg"), head.pop("test_cfg")
    values = tiny.config(
        model__type="EncoderDecoderMask2Former",
        model__decode_head=head,
        model__train_cfg=train_cfg,
        model__test_cfg=test_cfg | {"mode": "slide", "crop_size": (64, 64), "stride": (32, 32)},
        model__backbone__strides=(1, 2, 2, 2),
        model__backbone__dilations=(1, 1, 1, 1),
    )
    state = tiny.state_dict(values)
    return values, state | {f"decode_head.conv_seg.{name}": torch.zeros(4) for name in ("weight", "bias")}


def test_a_whole_checkpoint_converts(tmp_path):
    values, state = whole_checkpoint()
    conversion = convert_checkpoint(tiny.save(tmp_path / "file.pth", values, state=state), output=tmp_path / "folder")
    assert sorted(conversion.report.keys.left_out) == ["decode_head.conv_seg.bias", "decode_head.conv_seg.weight"]
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "folder")
    assert model.config.window_size == [64, 64] and model.config.window_stride == [32, 32]
    assert torch.equal(model.decode_heads[0].classifier.weight, state["decode_head.cls_embed.weight"])
    logits = model(synthesis.image("whole", [1, 3, 64, 96])).logits
    assert logits.shape == (1, 4, 16, 24) and torch.isfinite(logits).all()


def test_a_checkpoint_of_other_classes_is_named(tmp_path):
    values, state = whole_checkpoint()
    state["decode_head.cls_embed.weight"] = torch.zeros(8, 32)
    path = tiny.save(tmp_path / "file.pth", values, state=state)
    with pytest.raises(ConversionError, match="the config has 4 classes, the weights of decode_head.cls_embed 7"):
        convert_checkpoint(path, output=tmp_path / "folder")

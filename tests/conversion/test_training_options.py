"""Options that act in training alone: a value with which the original trains otherwise than segzoo is a note."""

import re

import pytest
from support.zoo_translations import translations
from transformers import AutoBackbone

from segzoo.conversion import rules  # noqa: F401  registers every rule
from segzoo.conversion.errors import ConfigReadError
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.options import Options, taking_notes
from segzoo.conversion.reading.unreadable import Unreadable

DINOV2 = {"type": "DinoVisionTransformer", "embed_dim": 64, "depth": 3, "num_heads": 2, "init_values": 1e-5}
INTERNVIT = {"type": "InternViT6B", "embed_dim": 64, "depth": 4, "num_heads": 2, "out_indices": (0, 1, 2, 3)}
MMPRETRAIN_VIT = {"type": "VisionTransformer", "arch": "deit-t", "out_type": "featmap"}
RESNET = {"type": "ResNetV1c", "depth": 18}
CONVNEXT = {"type": "mmpretrain.ConvNeXt", "arch": "tiny", "gap_before_final_norm": False, "out_indices": [0, 1, 2, 3]}
BATCH_NORM = {"type": "SyncBN", "requires_grad": True}
FROZEN = {"type": "SyncBN", "requires_grad": False}


def notes(original, kind="backbone"):
    context = Context(f"model.{kind}")
    find_rule(kind, original, context.where).convert(original, context)
    return context.notes


@pytest.mark.parametrize(
    ("original", "words"),
    [
        (RESNET | {"norm_eval": True}, "model.backbone: norm_eval=True: .*--freeze_norms"),
        (RESNET | {"frozen_stages": 0}, "model.backbone: frozen_stages=0: .*--freeze_backbone"),
        (RESNET | {"type": "mmdet.ResNet"}, "norm_eval=True"),
        (RESNET | {"norm_cfg": FROZEN}, "model.backbone.norm_cfg: requires_grad=False: .*requires_grad=False"),
        ({"type": "ResNeSt", "depth": 50, "norm_eval": True}, "norm_eval=True"),
        ({"type": "CGNet", "norm_eval": True}, "norm_eval=True"),
        ({"type": "MobileNetV2", "frozen_stages": 2}, "frozen_stages=2"),
        ({"type": "MobileNetV3", "norm_eval": True}, "norm_eval=True"),
        ({"type": "UNet", "norm_eval": True}, "norm_eval=True"),
        ({"type": "PoolFormer", "out_indices": (0, 2, 4, 6)}, "frozen_stages=0"),
        ({"type": "SwinTransformer", "embed_dims": 96, "frozen_stages": 1}, "frozen_stages=1"),
        (CONVNEXT | {"frozen_stages": 1}, "frozen_stages=1"),
        (MMPRETRAIN_VIT | {"frozen_stages": 3}, "frozen_stages=3"),
        ({"type": "InternImage", "groups": (4, 8, 16, 32), "frozen_stages": 2}, "frozen_stages=2"),
        (
            {"type": "VisionTransformer", "num_layers": 12, "frozen_exclude": ["pos_embed"]},
            r"frozen_exclude=\['pos_emb",
        ),
        (DINOV2 | {"frozen": True}, "frozen=True: .*--freeze_backbone"),
        (INTERNVIT | {"freeze_vit": True}, "freeze_vit=True: .*--freeze_backbone"),
    ],
)
def test_noted(original, words):
    (note,) = notes(original)
    assert re.search(words, note) and "train" in note


@pytest.mark.parametrize(
    "original",
    [
        RESNET | {"norm_eval": False, "frozen_stages": -1, "norm_cfg": BATCH_NORM},
        {"type": "mmdet.ResNet", "depth": 18, "norm_eval": False},
        {"type": "PoolFormer", "out_indices": (0, 2, 4, 6), "frozen_stages": -1},
        CONVNEXT,
        CONVNEXT | {"frozen_stages": -1},
        {"type": "InternImage", "groups": (4, 8, 16, 32), "frozen_stages": -1},
        MMPRETRAIN_VIT | {"frozen_stages": 0},
        {"type": "VisionTransformer", "num_layers": 12, "norm_eval": True},
        DINOV2 | {"frozen": False},
        INTERNVIT | {"freeze_vit": False},
    ],
)
def test_no_note_where_the_original_trains_all(original):
    assert notes(original) == []


def test_norms_of_heads():
    head = {"type": "FCNHead", "in_channels": 8, "channels": 8, "num_classes": 3, "norm_cfg": FROZEN}
    (note,) = notes(head, "head")
    assert note.startswith("model.head.norm_cfg: requires_grad=False: ")


def test_a_value_that_cannot_be_read():
    (note,) = notes(RESNET | {"norm_eval": Unreadable(ConfigReadError("config.py", 3, "f() is called"))})
    assert note.startswith("model.backbone: norm_eval=(cannot be read: config.py")


def test_an_option_of_a_rule_of_ones_own():
    options, found = Options({"shakes": 3}, "model.part"), []
    with taking_notes(found):
        options.in_training("shakes", 0)
    options.finish()
    assert found == ["model.part: shakes=3: it acts in training alone, and is left out"]


@pytest.mark.parametrize(("uniform", "rates"), [(True, [0.3, 0.3, 0.3]), (False, [0.0, 0.15, 0.3])])
def test_drop_path_of_dinov2(uniform, rates):
    original = DINOV2 | {"drop_path_rate": 0.3, "drop_path_uniform": uniform}
    config, _ = find_rule("backbone", original, "model.backbone").convert(original, Context("model.backbone"))
    model = AutoBackbone.from_config(config)
    for name in ("drop_path", "attention_drop_path"):
        assert [getattr(block, name).p for block in model.layers] == rates


def test_rows_of_the_zoo():
    names = "freeze_vit=True", "frozen_stages=0", "norm_eval=True", "requires_grad=False"
    found = {name: {row for row, done in translations().items() if name in "".join(done.notes)} for name in names}
    assert found == {
        "freeze_vit=True": {
            "linear_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5_frozen",
            "upernet_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5_frozen",
        },
        "frozen_stages=0": {
            f"fpn_poolformer_{size}_8xb4-40k_ade20k-512x512" for size in ("s12", "s24", "s36", "m36", "m48")
        },
        "norm_eval=True": {f"maskformer_{depth}-d32_8xb2-160k_ade20k-512x512" for depth in ("r50", "r101")},
        "requires_grad=False": {
            f"mask2former_{depth}_8xb2-{rest}"
            for depth in ("r50", "r101")
            for rest in ("90k_cityscapes-512x1024", "160k_ade20k-512x512")
        },
    }


@pytest.mark.parametrize(
    ("given", "scale"),
    [({}, 0.1), ({"init_values": 0.2}, 0.2), ({"init_values": None}, None), ({"init_values": 0}, None)],
)
def test_an_internvit_may_have_no_learned_scales(given, scale):
    context = Context("model.backbone")
    config, _ = find_rule("backbone", INTERNVIT, context.where).convert(INTERNVIT | given, context)
    assert config.layer_scale == scale
    names = AutoBackbone.from_config(config).state_dict()
    assert any(name.endswith("scale1") for name in names) == (scale is not None)

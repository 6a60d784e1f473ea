"""MaskFormer's head: options of the original, what the records do not have (an encoder), and its loss."""

import pytest
import torch
from parity import synthesis
from support.contract import assert_close, assert_gradients, settle
from torch.nn import functional as F

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.rules.maskformer import MASKFORMER
from segzoo.errors import SegZooError
from segzoo.heads import MaskFormerHead, MaskFormerHeadConfig
from segzoo.heads.queries import combined_logits
from segzoo.layers.pixel_decoder import sine_positions
from segzoo.losses import FocalMaskClassificationLoss, QueryPredictions, build_loss
from segzoo.losses.matching import focal_costs

ATTENTION = {"embed_dims": 16, "num_heads": 2, "attn_drop": 0.1, "proj_drop": 0.1, "batch_first": True}
FFN = {"embed_dims": 16, "feedforward_channels": 24, "num_fcs": 2, "ffn_drop": 0.1, "add_identity": True}
POSITIONS = {"num_feats": 8, "normalize": True}
COSTS = [
    {"type": "mmdet.ClassificationCost", "weight": 1.0},
    {"type": "mmdet.FocalLossCost", "weight": 20.0, "binary_input": True},
    {"type": "mmdet.DiceCost", "weight": 1.0, "pred_act": True, "eps": 1.0},
]
ENCODER = {"num_layers": 2, "layer_cfg": {"self_attn_cfg": ATTENTION, "ffn_cfg": FFN}}


def original(**changes):
    return {
        "type": "MaskFormerHead",
        "in_channels": [8, 16, 32],
        "feat_channels": 16,
        "out_channels": 16,
        "num_classes": 4,
        "num_queries": 6,
        "pixel_decoder": {"type": "mmdet.PixelDecoder", "norm_cfg": {"type": "GN", "num_groups": 4}},
        "positional_encoding": POSITIONS,
        "transformer_decoder": {
            "num_layers": 2,
            "layer_cfg": {"self_attn_cfg": ATTENTION, "cross_attn_cfg": ATTENTION, "ffn_cfg": FFN},
        },
        "loss_cls": {"type": "mmdet.CrossEntropyLoss", "class_weight": [1.0] * 4 + [0.1]},
        "loss_mask": {"type": "mmdet.FocalLoss", "use_sigmoid": True, "loss_weight": 20.0},
        "loss_dice": {"type": "mmdet.DiceLoss", "use_sigmoid": True, "naive_dice": True, "eps": 1.0},
        "train_cfg": {"assigner": {"type": "mmdet.HungarianAssigner", "match_costs": COSTS}},
    } | changes


def with_encoder(**changes):
    norm = {"type": "GN", "num_groups": 4}
    decoder = {"norm_cfg": norm, "positional_encoding": POSITIONS, "encoder": ENCODER} | changes
    return original(pixel_decoder={"type": "mmdet.TransformerEncoderPixelDecoder", **decoder})


def translated(config):
    context = Context("model.decode_head", OriginalConfig())
    return MASKFORMER.translate(config, context), context


def test_options_are_carried_over():
    config, context = translated(original())
    (loss,) = config.build_losses(config.losses)
    assert loss == FocalMaskClassificationLoss() and context.notes == []
    assert (config.resize_masks_first, config.dropout, config.encoder_layers) == (True, 0.1, 0)
    changes = {"loss_weight": 5.0, "gamma": 1.5, "alpha": 0.4}
    costs = [{**COSTS[0], "weight": 3.0}, *COSTS[1:]]
    config, _ = translated(
        original(
            loss_mask={"type": "FocalLoss", "use_sigmoid": True, **changes},
            train_cfg={"assigner": {"type": "HungarianAssigner", "match_costs": costs}},
            in_channels=[8, 16, 16],
            enforce_decoder_input_project=True,
        )
    )
    expected = FocalMaskClassificationLoss(mask_loss_weight=5.0, gamma=1.5, alpha=0.4, class_cost_weight=3.0)
    assert config.build_losses(config.losses) == (expected,)
    assert MaskFormerHead(config).projection is not None
    config.project_always = False
    assert MaskFormerHead(config).projection is None  # the map has the queries' width already


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (original(out_channels=32), "out_channels=32 is not supported"),
        (original(new_trick=1), "unknown option new_trick=1"),
        (original(positional_encoding={"num_feats": 8}), "normalize=False"),
        (
            original(pixel_decoder={"type": "MSDeformAttnPixelDecoder"}),
            "type 'MSDeformAttnPixelDecoder' is not supported",
        ),
        (original(loss_mask={"type": "CrossEntropyLoss"}), "loss_mask: type 'CrossEntropyLoss' is not supported"),
        (
            original(transformer_decoder={"num_layers": 1, "transformerlayers": {}}),
            "the option 'layer_cfg' is missing",
        ),
        (
            original(
                train_cfg={"assigner": {"type": "HungarianAssigner", "match_costs": [{**COSTS[1], "alpha": 0.5}]}}
            ),
            "alpha=0.5 is not supported",
        ),
        (with_encoder(encoder={**ENCODER, "num_layers": 0}), "num_layers=0 is not supported"),
        (with_encoder(positional_encoding={"num_feats": 4, "normalize": True}), "num_feats=4 is not supported"),
    ],
)
def test_other_options_are_named(config, message):
    with pytest.raises(ConversionError, match=message):
        translated(config)


def conv_norm(x, conv, norm, padding=0):
    return F.group_norm(F.conv2d(x, conv, padding=padding), 4, *norm, 1e-5)


@torch.no_grad()
def test_a_pixel_decoder_with_an_encoder():
    """The original's keys, and its numbers, computed from the state dict by torch's own layers."""
    config, _ = translated(with_encoder())
    head = settle(MaskFormerHead(config)).double().eval()
    table, native = MASKFORMER.key_table(config), head.state_dict()
    state = {table.to_original(key): value for key, value in native.items()}
    assert all(table.to_native(key) in native for key in state)
    assert {key.split(".")[1] for key in state if key.startswith("pixel_decoder.")} == {
        "lateral_convs",
        "output_convs",
        "encoder",
        "encoder_in_proj",
        "encoder_out_proj",
        "mask_feature",
    }
    assert not any(key.startswith("decoder_input_proj") for key in state)
    maps = [torch.randn(2, c, 12 // 2**i, 20 // 2**i, dtype=torch.float64) for i, c in enumerate([8, 16, 32])]

    def part(name):
        prefix = f"pixel_decoder.{name}."
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    projection = part("encoder_in_proj")
    x = F.conv2d(maps[-1], projection["weight"], projection["bias"])
    positions = sine_positions(3, 5, 16, dtype=torch.float64, device="cpu").flatten(2).transpose(1, 2)
    tokens = x.flatten(2).transpose(1, 2)
    for i in range(2):
        layer = part(f"encoder.layers.{i}")
        attention = torch.nn.MultiheadAttention(16, 2, batch_first=True, dtype=torch.float64)
        own = {key.removeprefix("self_attn.attn."): value for key, value in layer.items() if "self_attn" in key}
        attention.load_state_dict(own)
        placed = tokens + positions
        tokens = tokens + attention(placed, placed, tokens, need_weights=False)[0]
        tokens = F.layer_norm(tokens, (16,), layer["norms.0.weight"], layer["norms.0.bias"])
        hidden = F.linear(tokens, layer["ffn.layers.0.0.weight"], layer["ffn.layers.0.0.bias"]).relu()
        tokens = tokens + F.linear(hidden, layer["ffn.layers.1.weight"], layer["ffn.layers.1.bias"])
        tokens = F.layer_norm(tokens, (16,), layer["norms.1.weight"], layer["norms.1.bias"])
    memory = tokens.transpose(1, 2).unflatten(2, (3, 5))
    found_features, found_memory = head.pixel_decoder(maps)
    assert_close(found_memory, memory, 1e-12)

    last = part("encoder_out_proj")
    x = conv_norm(memory, last["conv.weight"], (last["gn.weight"], last["gn.bias"]), 1).relu()
    for i in (1, 0):
        lateral, output = part(f"lateral_convs.{i}"), part(f"output_convs.{i}")
        finer = conv_norm(maps[i], lateral["conv.weight"], (lateral["gn.weight"], lateral["gn.bias"]))
        x = finer + F.interpolate(x, size=finer.shape[-2:], mode="nearest")
        x = conv_norm(x, output["conv.weight"], (output["gn.weight"], output["gn.bias"]), 1).relu()
    features = part("mask_feature")
    assert_close(found_features, F.conv2d(x, features["weight"], features["bias"], padding=1), 1e-12)


def model_of(**options):
    head = MaskFormerHeadConfig.tiny()
    head.in_channels, head.encoder_layers = None, 0
    for name, value in options.items():
        setattr(head, name, value)
    return settle(
        SegZooForSemanticSegmentation(
            SegZooConfig.from_backbone(ResNetConfig.tiny(), head, auxiliary=False, num_labels=5)
        )
    )


def test_training_and_logits_at_the_images_size():
    model = model_of(resize_masks_first=True, dropout=0.0).train()
    pixels = synthesis.image("maskformer", [2, 3, 50, 70])
    labels = synthesis.labels("maskformer", [2, 50, 70], 5, 8)
    output = model(pixels, labels)
    parts = {f"{layer}query_{part}" for layer in ("layer_0.", "") for part in ("class", "mask", "dice")}
    assert set(output.losses) == {f"decode_0.{name}" for name in parts}
    output.loss.backward()
    assert_gradients(model.decode_heads[0])
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.decode_heads[0].layers)
    model(pixels, labels).loss.backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert_close(parameter.grad, gradient)
    ignored = model(pixels, torch.full_like(labels, 255))
    assert torch.isfinite(ignored.loss) and ignored.losses["decode_0.query_mask"].item() == 0.0
    with torch.no_grad():
        output = model.eval()(pixels)
    expected = combined_logits(output.class_queries_logits, output.masks_queries_logits, (50, 70))
    assert torch.equal(output.logits, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 30}, "multiple of 4"),
        ({"encoder_layers": -1}, "encoder_layers=-1 must be 0 at least"),
        ({"in_channels": [8]}, "reads 1 map, and needs 2"),
    ],
)
def test_options_that_make_no_head(options, message):
    with pytest.raises(SegZooError, match=message):
        MaskFormerHeadConfig(**({"channels": 64} | options))


def test_wrong_options_of_the_loss_are_named():
    for option, value in (("gamma", -1), ("alpha", 1.5), ("mask_loss_weight", float("nan")), ("num_points", 5)):
        with pytest.raises(SegZooError, match=option):
            build_loss({"type": "focal_mask_classification", option: value})


def test_costs_are_the_focal_loss_of_each_pair():
    logits = torch.randn(3, 10, dtype=torch.float64)
    targets = (torch.rand(2, 10) > 0.5).double()
    for query in range(3):
        for mask in range(2):
            p = torch.where(targets[mask] > 0, logits[query].sigmoid(), 1 - logits[query].sigmoid())
            alpha = torch.where(targets[mask] > 0, 0.25, 0.75)
            assert_close(focal_costs(logits, targets)[query, mask], (-alpha * (1 - p) ** 2 * p.log()).mean(), 1e-9)
    assert torch.isfinite(focal_costs(1e4 * logits, targets)).all()


def test_labels_at_another_size_than_the_masks():
    """Each class finds the query whose mask is its own, and ignored pixels are outside every mask."""
    labels = torch.zeros(1, 16, 24, dtype=torch.int64)
    labels[:, :, 12:], labels[:, :4] = 1, 255
    wanted = torch.stack([labels[0] == 1, labels[0] == 0]).double()  # of the queries 0 and 1
    features = F.interpolate(40 * wanted[None] - 20, size=(4, 6), mode="nearest")
    classes = torch.tensor([[[-9.0, 9.0, -9.0], [9.0, -9.0, -9.0]]], dtype=torch.float64)
    layer = QueryPredictions(classes, torch.eye(2, dtype=torch.float64)[None])
    loss = FocalMaskClassificationLoss()
    present = [torch.tensor([0, 1])]
    ((queries, positions),) = loss.match(layer, features, labels, present, None)
    assert queries.tolist() == [0, 1] and positions.tolist() == [1, 0]
    found = loss.parts([layer], features, labels)
    logits = F.interpolate(features, size=(16, 24), mode="bilinear", align_corners=False)[0]
    p = torch.where(wanted > 0, logits.sigmoid(), 1 - logits.sigmoid())
    focal = (
        torch.where(wanted > 0, 0.25, 0.75)
        * (1 - p) ** 2
        * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    )
    assert_close(found["query_mask"], 20 * focal.mean(), 1e-9)

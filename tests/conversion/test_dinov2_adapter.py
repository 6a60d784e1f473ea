"""DINOv2's Mask2Former over ViT-g: its adapter has a class token, gated feed-forward parts and patches of 14 pixels."""

import json
import math

import pytest
import torch
from conversion import tiny
from conversion.adapter_reference import Reference, adapter_maps, centres, tokens
from parity import synthesis
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation

from segzoo import zoo
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import original_state_dict

NAME = "dinov2_vitg14_ade20k_m2f"
HEADS, DEPTH = 2, 8


def small_config():
    """The released model's config with a narrow backbone and a narrow head."""
    config = zoo.original_config(NAME)
    model = config["model"]
    model["backbone"] |= {"embed_dim": 64, "num_heads": HEADS, "depth": DEPTH, "img_size": 56, "pretrain_size": 56}
    model["backbone"] |= {"deform_num_heads": 16, "interaction_indexes": [[0, 1], [2, 3], [4, 5], [6, 7]]}
    head = json.dumps(model["decode_head"])
    for old, new in (("1536", "64"), ("6144", "64"), ('"num_feats": 768', '"num_feats": 32')):
        head = head.replace(old, new)
    model["decode_head"] = json.loads(head)
    return config


def test_the_whole_model_without_weights():
    translation = translate_config(zoo.original_config(NAME))
    model = build_without_weights(translation.config)
    state = original_state_dict(model.state_dict(), translation.components)
    backbone = {key.removeprefix("backbone."): tuple(x.shape) for key, x in state.items()}
    assert backbone["pos_embed"] == (1, 37 * 37 + 1, 1536) and backbone["cls_token"] == (1, 1, 1536)
    assert backbone["blocks.39.mlp.w1.weight"] == backbone["blocks.39.mlp.w2.weight"] == (4096, 1536)
    assert backbone["blocks.39.mlp.w3.weight"] == (1536, 4096) and backbone["blocks.0.gamma2"] == (1536,)
    assert backbone["interactions.3.extra_extractors.1.attn.value_proj.weight"] == (768, 1536)
    assert "norm.weight" not in backbone and "mask_token" not in backbone


def interaction(ref, pixels):
    """``interact`` of the reference: the ViT reads from the branch before each quarter of its blocks."""
    x = ref.conv(pixels, "patch_embed.proj", stride=14)
    grid = tuple(x.shape[2:])
    places = ref.state["pos_embed"]
    resized = F.interpolate(places[:, 1:].transpose(1, 2).unflatten(2, (4, 4)), grid, mode="bicubic")
    x = tokens(x) + tokens(resized)
    x = torch.cat([(ref.state["cls_token"] + places[:, :1]).expand(len(x), -1, -1), x], dim=1)

    def interact(i, c, sizes):
        nonlocal x
        name, patches = f"interactions.{i}.injector", x[:, 1:]
        query, read = ref.norm(patches, f"{name}.query_norm"), ref.norm(c, f"{name}.feat_norm")
        found = ref.deformable(f"{name}.attn", query, centres([grid]), read, sizes)
        x = torch.cat([x[:, :1], patches + ref.state[f"{name}.gamma"] * found], dim=1)
        for block in (f"blocks.{2 * i}", f"blocks.{2 * i + 1}"):
            qkv = ref.linear(ref.norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=-1)
            q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkv)
            mixed = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
            mixed = ref.linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.proj")
            x = x + ref.state[f"{block}.gamma1"] * mixed
            hidden = ref.norm(x, f"{block}.norm2")
            hidden = F.silu(ref.linear(hidden, f"{block}.mlp.w1")) * ref.linear(hidden, f"{block}.mlp.w2")
            x = x + ref.state[f"{block}.gamma2"] * ref.linear(hidden, f"{block}.mlp.w3")
        return x[:, 1:]

    return interact, grid


@torch.no_grad()
def test_a_small_file_becomes_the_published_backbone(tmp_path):
    values = small_config()
    narrow = values["model"]["decode_head"]
    narrow["pixel_decoder"]["encoder"]["num_layers"] = narrow["transformer_decoder"]["num_layers"] = 1
    state = tiny.state_dict(values)
    tiny.save(tmp_path / "model.pth", values, state=state, CLASSES=None)
    convert_checkpoint(tmp_path / "model.pth", output=tmp_path / "model")
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model", dtype=torch.float64).eval()
    ref = Reference({key.removeprefix("backbone."): x for key, x in state.items() if key.startswith("backbone.")})
    pixels = synthesis.image("pixels", [1, 3, 64, 96]).double()  # 4 x 6 whole patches, and a rest that is not read
    interact, grid = interaction(ref, pixels)
    assert grid == (4, 6)
    for found, expected in zip(
        model.backbone(pixels).feature_maps, adapter_maps(ref, pixels, grid, interact), strict=True
    ):
        assert (found - expected).abs().max() < 1e-9 * expected.abs().max()
    assert model(pixels).logits.shape == (1, 150, 16, 24)
    assert not any(parameter.requires_grad for parameter in model.backbone.vit.parameters())


@pytest.mark.parametrize("option", ["use_cls", "freeze_vit", "ffn_type", "pre_norm", "memeff"])
def test_each_of_its_own_options_tells_it_from_vit_adapters(option):
    original = zoo.original_config("upernet_deit_adapter_tiny_512_160k_ade20k")["model"]["backbone"]
    rule, context = find_rule("backbone", original, "here"), Context("here")
    vit = rule.translate(original, context).vit_config
    assert not vit.class_token and vit.pad
    given = {"use_cls": True, "freeze_vit": True, "ffn_type": "swiglu", "pre_norm": True, "memeff": True}
    config = rule.translate(original | {option: given[option]}, context)
    vit = config.vit_config
    assert vit.class_token and not vit.pad and config.freeze_vit == (option == "freeze_vit")
    assert (vit.gated, vit.pre_norm, vit.patch_bias) == (
        option == "ffn_type",
        option == "pre_norm",
        option != "pre_norm",
    )
    assert not rule.translate(original | {"use_cls": False}, context).vit_config.class_token

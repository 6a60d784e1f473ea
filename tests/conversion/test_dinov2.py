"""DINOv2's ViTs and heads: files in two parts, and the same maps as transformers' from the same weights."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSemanticSegmentation, Dinov2Backbone, Dinov2Config

from segzoo import AutoBackbone, zoo
from segzoo.backbones import ViTConfig
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.rules.dinov2 import dinov2_keys
from segzoo.conversion.translate import translate_config
from segzoo.conversion.translation import ComponentKeys
from segzoo.conversion.weights import original_state_dict

WIDTH, DEPTH, SIDE = 128, 2, 56


def vit(gated):
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        mlp_ratio=4.0,
        gated=gated,
        image_size=SIDE,
        patch_size=14,
        layer_scale=1e-5,
        interpolation_offset=0.1,
        pad_around=True,
        final_norm=True,
        out_features=["stage1", "stage2"],
    )
    model = AutoBackbone.from_config(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def published(model):
    """The file of a ViT as its publisher writes it."""
    table = KeyTable(dinov2_keys(gated=model.config.gated))
    state = original_state_dict(model.state_dict(), [ComponentKeys("", "", table, "", model.config)])
    return state | {"mask_token": torch.zeros(1, WIDTH)}


@pytest.mark.parametrize("gated", [False, True])
def test_maps_are_those_of_transformers(gated, tmp_path):
    ours = vit(gated)
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        use_swiglu_ffn=gated,
        out_features=["stage1", "stage2"],
    )
    names = {  # those of the Hub's files, which every version of transformers reads
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "encoder.layer.",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
        "mlp.w12": "mlp.weights_in",
        "mlp.w3": "mlp.weights_out",
        "attn.proj": "attention.output.dense",
    }
    state = {}
    for key, tensor in published(ours).items():
        for old, new in names.items():
            key = key.replace(old, new)
        if key.startswith("norm."):
            key = f"layer{key}"
        if ".attn.qkv." in key:
            for part, share in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[key.replace("attn.qkv", f"attention.attention.{part}")] = share
        else:
            state[key] = tensor
    config.save_pretrained(tmp_path)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "model.safetensors")
    theirs = Dinov2Backbone.from_pretrained(tmp_path, dtype=torch.float64).eval()
    pixels = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(ours(pixels).feature_maps, theirs(pixels).feature_maps, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_zeros_are_around_the_picture():
    model = vit(False)
    pixels = torch.randn(1, 3, SIDE - 3, SIDE - 8, dtype=torch.float64)
    padded = torch.nn.functional.pad(pixels, (4, 4, 1, 2))
    with torch.no_grad():
        assert torch.equal(model(pixels).feature_maps[1], model(padded).feature_maps[1])


def config_text(width):
    sizes = f"img_size={SIDE}, patch_size=14, embed_dim={width}, depth={DEPTH}, num_heads=2, init_values=1e-5, block_chunks=0"
    return (
        f"model = dict(type='EncoderDecoder', backbone=dict(type='DinoVisionTransformer', {sizes}, out_indices=[0, 1]), "
        f"decode_head=dict(type='BNHead', in_channels=[{width}], in_index=[1], input_transform='resize_concat', "
        f"channels={width}, dropout_ratio=0, num_classes=3, norm_cfg=dict(type='SyncBN')), test_cfg=dict(mode='whole'))\n"
        "dataset_type = 'Mine'\n"
    )


def test_a_vit_and_its_head_in_two_files(tmp_path):
    model, norm = vit(False).float(), torch.nn.BatchNorm2d(WIDTH)
    norm.running_mean.normal_()
    head = {f"decode_head.bn.{name}": tensor for name, tensor in norm.state_dict().items()}
    head |= {"decode_head.conv_seg.weight": torch.randn(3, WIDTH, 1, 1), "decode_head.conv_seg.bias": torch.randn(3)}
    torch.save(published(model), tmp_path / "vit.pth")
    torch.save({"meta": {"config": config_text(WIDTH)}, "state_dict": head}, tmp_path / "head.pth")
    done = convert_checkpoint(tmp_path / "vit.pth", tmp_path / "head.pth", output=tmp_path / "model")
    assert done.report.keys.left_out == ["backbone.mask_token"]
    loaded, pixels = (
        AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model").eval(),
        torch.randn(1, 3, 42, 50),
    )
    with torch.no_grad():
        last = norm.eval()(model(pixels).feature_maps[1])
        expected = torch.nn.functional.conv2d(last, *list(head.values())[-2:])
        assert torch.allclose(loaded(pixels).logits, expected, atol=1e-4)
    assert convert_checkpoint(tmp_path / "vit.pth", tmp_path / "head.pth", output=done.folder, keep=True).kept
    head["decode_head.conv_seg.bias"] += 1
    torch.save({"meta": {"config": config_text(WIDTH)}, "state_dict": head}, tmp_path / "second.pth")
    with pytest.raises(ConversionError, match="another conversion"):
        convert_checkpoint(tmp_path / "vit.pth", tmp_path / "second.pth", output=done.folder, keep=True)
    alone = convert_checkpoint(tmp_path / "vit.pth", output=tmp_path / "alone")
    assert AutoBackbone.from_pretrained(alone.folder).config.interpolation_offset == 0.1
    with pytest.raises(ConversionError, match="give the backbone first"):
        convert_checkpoint(tmp_path / "head.pth", tmp_path / "vit.pth", output=tmp_path / "other")
    with pytest.raises(ConversionError, match="belongs to a ViT of DINOv2"):
        convert_checkpoint(tmp_path / "head.pth", tmp_path / "head.pth", output=tmp_path / "other")


def test_the_head_tells_which_released_vit_it_is():
    config = zoo.original_config("dinov2_vitg14_voc2012_ms")
    whole = translate_config(config).config.backbone_config
    config["model"]["backbone"] = {"type": "DinoVisionTransformer", "out_indices": [36, 37, 38, 39]}
    assert translate_config(config).config.backbone_config.to_dict() == whole.to_dict()
    assert whole.gated and whole.num_hidden_layers == 40
    config["model"]["decode_head"]["in_channels"] = [100] * 4
    with pytest.raises(ConversionError, match="the width of no released ViT"):
        translate_config(config)

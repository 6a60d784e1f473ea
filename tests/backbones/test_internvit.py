"""InternViT: equal to transformers' where that can be, rounding in bfloat16, and images of other sizes."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForSemanticSegmentation, InternVLVisionConfig, InternVLVisionModel

from segzoo import AutoBackbone, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import InternViTBackbone, InternViTConfig, ViTAdapterBackbone, internvit
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig, UPerHeadConfig
from segzoo.layers import RMSNorm
from segzoo.necks import PyramidNeckConfig

PARAMETERS = {48: 5_903_450_000, 45: 5_534_000_000}  # published as 5.9 and 5.5 billion


def tiny(**options):
    torch.manual_seed(0)
    defaults = {
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "mlp_ratio": 2.0,
        "image_size": [56, 84],
    }
    backbone = InternViTBackbone(InternViTConfig(**(defaults | options))).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone


@pytest.mark.parametrize("name", internvit.VARIANTS)
def test_published_sizes(name):
    with torch.device("meta"):
        backbone = InternViTBackbone(InternViTConfig(**internvit.VARIANTS[name]))
    config, width = backbone.config, 3200
    assert (config.hidden_size, config.num_attention_heads, config.patch_size) == (width, 25, 14)
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(
        PARAMETERS[config.num_hidden_layers], rel=1e-3
    )
    assert config.image_size == (224 if name.endswith("224px") else 448)
    assert isinstance(backbone.norm, nn.Identity)


def transformers_names(state):
    """Our weights under the names of transformers' encoder, which has three projections for the fused one."""
    names = {"class_token": "embeddings.cls_token", "position_embeddings": "embeddings.position_embeddings"}
    for part in ("weight", "bias"):
        names[f"patch_embedding.{part}"] = f"embeddings.patch_embeddings.projection.{part}"
    parts = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "scale1": "lambda_1",
        "scale2": "lambda_2",
        "attention.proj": "attention.projection_layer",
        "attention.q_norm": "attention.q_norm",
        "attention.k_norm": "attention.k_norm",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    renamed = {}
    for name, value in state.items():
        if name in names:
            renamed[names[name]] = value
            continue
        _, layer, inner = name.split(".", 2)
        if inner == "attention.qkv.weight":
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed[f"encoder.layer.{layer}.attention.{part}_proj.weight"] = third
            continue
        old = next(part for part in parts if inner == part or inner.startswith(f"{part}."))
        renamed[f"encoder.layer.{layer}.{parts[old]}{inner.removeprefix(old)}"] = value
    return renamed


def test_same_maps_as_transformers():
    ours = tiny(image_size=56).double()
    config = InternVLVisionConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=48,
        image_size=[56, 56],
        patch_size=[14, 14],
        norm_type="rms_norm",
        use_qk_norm=True,
        attention_bias=False,
        use_mean_pooling=True,
        hidden_act="gelu",
    )
    theirs = InternVLVisionModel(config).double().eval()
    theirs.load_state_dict(transformers_names(ours.state_dict()))
    x = torch.randn(2, 3, 56, 56, dtype=torch.double)
    with torch.no_grad():
        maps = ours(x, output_hidden_states=True).hidden_states[1:5]
        states = theirs(x, output_hidden_states=True).hidden_states[1:]
    for found, wanted in zip(maps, states, strict=True):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), wanted[:, 1:], rtol=1e-5, atol=1e-5)


def test_rms_norm_rounds_before_it_multiplies():
    norm = RMSNorm(64, eps=1e-6).to(torch.bfloat16)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(5, 64).to(torch.bfloat16)
    wide = x.float()
    normalised = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert norm(x).dtype == torch.bfloat16 and torch.equal(norm(x), norm.weight * normalised.to(torch.bfloat16))
    doubled = norm.double()(x.double())
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(doubled, exact, rtol=1e-14, atol=0)


def test_queries_and_keys_are_normalised_over_all_heads():
    attention = tiny().layers[0].attention
    qkv = torch.randn(2, 7, 72)
    query, key, value = attention.heads(qkv)
    wanted = (
        qkv[..., 24:48] / (qkv[..., 24:48].square().mean(-1, keepdim=True) + 1e-6).sqrt() * attention.k_norm.weight
    )
    torch.testing.assert_close(key.transpose(1, 2).flatten(2), wanted)
    assert torch.equal(value.transpose(1, 2).flatten(2), qkv[..., 48:]) and query.shape == (2, 3, 7, 8)


def model_with(head, **options):
    config = SegZooConfig(
        backbone_config=tiny(out_features=["stage1", "stage2", "stage3", "stage4"]).config,
        decode_head_configs=[head],
        num_labels=5,
        **options,
    )
    return SegZooForSemanticSegmentation(config).eval()


def test_backbone_in_bfloat16_and_heads_in_float32(tmp_path):
    neck = PyramidNeckConfig(norm="layer_norm", norm_eps=1e-6)
    auxiliary = FCNHeadConfig(channels=8, in_index=[2], num_convs=1, concat_input=False)
    model_with(
        UPerHeadConfig(channels=8, pool_scales=[1, 2]), neck_config=neck, auxiliary_head_configs=[auxiliary]
    ).save_pretrained(tmp_path)
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    seen = {}

    def watch(name):
        def hook(module, inputs, output):
            maps = inputs[0] if isinstance(inputs[0], list) else inputs[:1]
            seen[name] = maps[0].dtype, output.dtype

        return hook

    for name, module in model.named_modules():
        if isinstance(module, (RMSNorm, nn.ConvTranspose2d, nn.LayerNorm, nn.BatchNorm2d, nn.Conv2d)):
            module.register_forward_hook(watch(name))
    x, labels = torch.randn(1, 3, 56, 84), torch.randint(0, 5, (1, 56, 84))
    output = model(x, labels=labels)
    assert output.logits.dtype == torch.float32 and output.loss.dtype == torch.float32
    half, full = (torch.bfloat16,) * 2, (torch.float32,) * 2
    assert {
        seen[f"backbone.layers.3.{norm}"] for norm in ("norm1", "norm2", "attention.q_norm", "attention.k_norm")
    } == {half}
    assert {seen[f"neck.upsample_4x.{i}"] for i in (0, 1, 3)} | {seen["neck.upsample_2x"]} == {half}
    heads = {name: dtypes for name, dtypes in seen.items() if "_heads." in name}
    assert set(heads.values()) == {full} and any(name.startswith("auxiliary_heads.0") for name in heads)
    assert {p.dtype for p in model.backbone.parameters()} | {p.dtype for p in model.neck.parameters()} == {
        torch.bfloat16
    }
    everything = model.to(torch.bfloat16)(x.to(torch.bfloat16)).logits
    assert everything.dtype == torch.bfloat16


def test_images_of_other_sizes():
    backbone = tiny()
    x = torch.randn(1, 3, 70, 84)
    with pytest.raises(SegZooError, match=r"made for images of 56x84, and was given 70x84; .*resize_positions=True"):
        backbone(x)
    backbone.config.resize_positions = True
    maps = backbone(x).feature_maps
    backbone.config.resize_positions = False
    positions = backbone.position_embeddings.detach().clone()
    backbone.fit_images((60, 84))  # up to whole patches
    assert backbone.config.image_size == [70, 84] and backbone.position_embeddings.shape == (1, 31, 24)
    for found, wanted in zip(backbone(x).feature_maps, maps, strict=True):
        torch.testing.assert_close(found, wanted)
    old = positions[:, 1:].transpose(1, 2).reshape(1, 24, 4, 6)
    new = nn.functional.interpolate(old, size=(5, 6), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    assert torch.equal(backbone.position_embeddings[:, 1:], new)
    assert torch.equal(backbone.position_embeddings[:, :1], positions[:, :1])


def test_kernels_of_other_patches():
    backbone = tiny(patch_size=16, image_size=64)
    kernels = backbone.patch_embedding.weight.detach().clone()
    backbone.resize_image(56, patch_size=14)
    resized = nn.functional.interpolate(kernels, size=(14, 14), mode="bicubic", align_corners=False)
    assert torch.equal(backbone.patch_embedding.weight, resized) and backbone.config.grid == (4, 4)
    assert backbone(torch.randn(1, 3, 56, 56)).feature_maps[0].shape == (1, 24, 4, 4)


def test_under_an_adapter(tmp_path):
    """The weights of an encoder for patches of 14, in an adapter with patches of 16, as the published one had them."""
    tiny(image_size=56).save_pretrained(tmp_path)
    adapter = ViTAdapterBackbone.from_vit(
        tmp_path,
        vit_options={"patch_size": 16, "image_size": 64},
        branch_channels=4,
        deform_num_heads=2,
        deform_num_points=1,
        extra_extractors=0,
    )
    maps = adapter.eval()(torch.randn(1, 3, 64, 64)).feature_maps
    assert [tuple(x.shape) for x in maps] == [(1, 24, side, side) for side in (16, 8, 4, 2)]
    trained = AutoBackbone.from_pretrained(tmp_path)
    assert torch.equal(adapter.vit.layers[2].mlp.fc1.weight, trained.layers[2].mlp.fc1.weight)
    adapter.fit_images((72, 64))
    assert adapter.config.vit_config.grid == (5, 4) and adapter.train()(torch.randn(2, 3, 72, 64)).feature_maps

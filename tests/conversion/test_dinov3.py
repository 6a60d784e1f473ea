"""DINOv3's ViT, adapter and Mask2Former head: keys of the released model, and maps against the published description.

The reference below is written from DINOv3's segmentation code and from the papers of ViT-Adapter and Mask2Former, in
float64; segzoo's code is not used.
"""

import math

import pytest
import torch
from conversion import tiny
from conversion.adapter_reference import Reference, adapter_maps, as_map, centres, resized, tokens
from parity import synthesis
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from segzoo import zoo
from segzoo.commands.cli import main
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import find_native, original_state_dict

NAME = "dinov3_vit7b16_ade20k_m2f"
ADAPTER, HEAD = "segmentation_model.0.", "segmentation_model.1."
SMALL = {"embed_dim": 64, "depth": 4, "num_heads": 2, "hidden": 128, "registers": 4}
HIDDEN, CLASSES, PATCH, HEADS, QUERIES, FFN = 64, 5, 16, 16, 100, 4096


def layer(name, *shape, bias=True):
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def batch_norm(name, width):
    statistics = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}
    return layer(name, width) | statistics


def vit_shapes(*, embed_dim, depth, num_heads, hidden, registers):
    shapes = {
        "cls_token": (1, 1, embed_dim),
        "storage_tokens": (1, registers, embed_dim),
        "mask_token": (1, embed_dim),
    }
    shapes |= {"rope_embed.periods": (embed_dim // num_heads // 4,)}
    shapes |= layer("patch_embed.proj", embed_dim, 3, PATCH, PATCH)
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= layer(f"{block}.norm1", embed_dim) | layer(f"{block}.norm2", embed_dim)
        shapes |= layer(f"{block}.attn.qkv", 3 * embed_dim, embed_dim, bias=False)
        shapes |= layer(f"{block}.attn.proj", embed_dim, embed_dim)
        shapes |= {f"{block}.ls{i}.gamma": (embed_dim,) for i in (1, 2)}
        shapes |= layer(f"{block}.mlp.w1", hidden, embed_dim) | layer(f"{block}.mlp.w2", hidden, embed_dim)
        shapes |= layer(f"{block}.mlp.w3", embed_dim, hidden)
    return shapes | layer("norm", embed_dim) | layer("local_cls_norm", embed_dim)


def reading(name, width, heads, levels, points, values):
    count = heads * levels * points
    shapes = layer(f"{name}.sampling_offsets", 2 * count, width) | layer(f"{name}.attention_weights", count, width)
    return shapes | layer(f"{name}.value_proj", values, width) | layer(f"{name}.output_proj", width, values)


def adapter_shapes(width):
    shapes = {"level_embed": (3, width)} | layer("up", width, width, 2, 2)
    for i, (into, out) in enumerate([(3, 64), (64, 64), (64, 64)]):
        shapes |= layer(f"spm.stem.{3 * i}", out, into, 3, 3, bias=False) | batch_norm(f"spm.stem.{3 * i + 1}", out)
    for i, (into, out) in enumerate([(64, 128), (128, 256), (256, 256)], start=2):
        shapes |= layer(f"spm.conv{i}.0", out, into, 3, 3, bias=False) | batch_norm(f"spm.conv{i}.1", out)
    for i, into in enumerate([64, 128, 256, 256], start=1):
        shapes |= layer(f"spm.fc{i}", width, into, 1, 1) | batch_norm(f"norm{i}", width)
    for name in [*(f"{i}.extractor" for i in range(4)), "3.extra_extractors.0", "3.extra_extractors.1"]:
        place = f"interactions.{name}"
        shapes |= layer(f"{place}.query_norm", width) | layer(f"{place}.feat_norm", width)
        shapes |= reading(f"{place}.attn", width, 16, 1, 4, width // 2) | layer(f"{place}.ffn_norm", width)
        shapes |= layer(f"{place}.ffn.fc1", width // 4, width) | layer(f"{place}.ffn.fc2", width, width // 4)
        shapes |= layer(f"{place}.ffn.dwconv.dwconv", width // 4, 1, 3, 3)
    return shapes


def head_shapes(width, channels, classes):
    shapes, decoder = {}, "pixel_decoder"
    for i in range(3):
        shapes |= layer(f"{decoder}.input_convs.{i}.0", channels, width, 1, 1)
        shapes |= layer(f"{decoder}.input_convs.{i}.1", channels)
    for name, into, side in (("lateral_convs", width, 1), ("output_convs", channels, 3)):
        shapes |= layer(f"{decoder}.{name}.0", channels, into, side, side, bias=False)
        shapes |= layer(f"{decoder}.{name}.0.norm", channels)
    shapes |= {f"{decoder}.encoder.level_encoding": (3, channels)}
    shapes |= layer(f"{decoder}.mask_feature", channels, channels, 1, 1)
    for i in range(6):
        place = f"{decoder}.encoder.encoder.layers.{i}"
        shapes |= reading(f"{place}.self_attn", channels, HEADS, 3, 4, channels)
        shapes |= layer(f"{place}.norm1", channels) | layer(f"{place}.norm2", channels)
        shapes |= layer(f"{place}.linear1", FFN, channels) | layer(f"{place}.linear2", channels, FFN)
    for i in range(9):
        for kind, attention in (("self", "self_attn"), ("cross", "multihead_attn")):
            place = f"predictor.transformer_{kind}_attention_layers.{i}"
            shapes |= {f"{place}.{attention}.in_proj_weight": (3 * channels, channels)}
            shapes |= {f"{place}.{attention}.in_proj_bias": (3 * channels,)}
            shapes |= layer(f"{place}.{attention}.out_proj", channels, channels) | layer(f"{place}.norm", channels)
        place = f"predictor.transformer_ffn_layers.{i}"
        shapes |= layer(f"{place}.linear1", FFN, channels) | layer(f"{place}.linear2", channels, FFN)
        shapes |= layer(f"{place}.norm", channels)
    shapes |= {f"predictor.{name}.weight": (QUERIES, channels) for name in ("query_feat", "query_embed")}
    shapes |= {"predictor.level_embed.weight": (3, channels)} | layer("predictor.post_norm", channels)
    shapes |= layer("predictor.class_embed", classes + 1, channels)
    for i in range(3):
        shapes |= layer(f"predictor.mask_embed.layers.{i}", channels, channels)
    return shapes


def in_prefix(prefix, shapes):
    return {prefix + name: shape for name, shape in shapes.items()}


def test_keys_of_the_released_model():
    """The whole model of 7 billion weights, on the meta device."""
    translation = translate_config(zoo.original_config(NAME))
    model = build_without_weights(translation.config)
    state = model.state_dict()
    vit = {"embed_dim": 4096, "depth": 40, "num_heads": 32, "hidden": 8192, "registers": 4}
    wanted = in_prefix("backbone.", in_prefix("backbone.", vit_shapes(**vit)) | adapter_shapes(4096))
    wanted |= in_prefix("decode_head.", head_shapes(4096, 2048, 150))
    written = {key: tuple(x.shape) for key, x in original_state_dict(state, translation.components).items()}
    left_out = {key for key in wanted if find_native(key, translation.components)[1] is None}
    assert left_out == {f"backbone.backbone.{name}" for name in (
        "rope_embed.periods", "local_cls_norm.weight", "local_cls_norm.bias"
    )}  # fmt: skip
    assert written == {key: shape for key, shape in wanted.items() if key not in left_out}
    assert sum(x.numel() for x in model.parameters()) == zoo.find(NAME).parameters
    processor = translation.processor
    assert processor["size"] == {"shortest_edge": 896} and processor["channel_order"] == "rgb"
    assert (translation.config.window_size, translation.config.window_stride) == ([896, 896], [596, 596])


def rotations(height, width, channels):
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    places = 2 * torch.stack([y, x], dim=-1).flatten(0, 1) - 1
    periods = 100.0 ** (torch.arange(channels // 4) * 2 / (channels // 2))
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
    return angles.sin().double(), angles.cos().double()


def rotated(x, sin, cos):
    prefix, patches = x[:, :, : -len(sin)], x[:, :, -len(sin) :]
    first, second = patches.chunk(2, dim=-1)
    return torch.cat([prefix, patches * cos + torch.cat([-second, first], dim=-1) * sin], dim=2)


def vit_maps(ref, pixels, heads, depth):
    """The patches after each block, normalised."""
    x = ref.conv(pixels, "patch_embed.proj", stride=PATCH)
    sin, cos = rotations(x.shape[2], x.shape[3], x.shape[1] // heads)
    first = [ref.state[name].expand(len(x), -1, -1) for name in ("cls_token", "storage_tokens")]
    x, found = torch.cat([*first, tokens(x)], dim=1), []
    for i in range(depth):
        block = f"blocks.{i}"
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ref.linear(ref.norm(x, f"{block}.norm1", 1e-5), f"{block}.attn.qkv").chunk(3, dim=-1)
        )
        q, k = rotated(q, sin, cos), rotated(k, sin, cos)
        mixed = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        mixed = ref.linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + ref.state[f"{block}.ls1.gamma"] * mixed
        hidden = ref.norm(x, f"{block}.norm2", 1e-5)
        hidden = F.silu(ref.linear(hidden, f"{block}.mlp.w1")) * ref.linear(hidden, f"{block}.mlp.w2")
        x = x + ref.state[f"{block}.ls2.gamma"] * ref.linear(hidden, f"{block}.mlp.w3")
        found.append(ref.norm(x, "norm", 1e-5)[:, -len(sin) :])
    return found


def sines(height, width, channels):
    half = channels // 2
    waves = 10000 ** (2 * (torch.arange(half).double() // 2) / half)

    def along(side):
        phases = torch.arange(1, side + 1).double()[:, None] / (side + 1e-6) * 2 * math.pi / waves
        return torch.stack([phases[:, ::2].sin(), phases[:, 1::2].cos()], dim=-1).flatten(1)

    rows, columns = along(height)[:, None].expand(-1, width, -1), along(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def scores(ref, maps, channels, size):
    """Class probabilities of an image of this size, from the maps, finest first."""
    coarse = maps[:0:-1]
    sizes = [tuple(x.shape[2:]) for x in coarse]
    place, levels = "pixel_decoder", []
    for i, x in enumerate(coarse):
        name = f"{place}.input_convs.{i}"
        levels.append(tokens(ref.group_norm(ref.conv(x, f"{name}.0"), f"{name}.1")))
    positions = [sines(*size_of, channels) for size_of in sizes]
    encoding = ref.state[f"{place}.encoder.level_encoding"]
    added = torch.cat([p + encoding[i] for i, p in enumerate(positions)])
    x, places = torch.cat(levels, dim=1), centres(sizes)
    for i in range(6):
        name = f"{place}.encoder.encoder.layers.{i}"
        x = ref.norm(x + ref.deformable(f"{name}.self_attn", x + added, places, x, sizes), f"{name}.norm1", 1e-5)
        x = ref.norm(x + ref.linear(ref.linear(x, f"{name}.linear1").relu(), f"{name}.linear2"), f"{name}.norm2", 1e-5)
    levels = list(x.split([h * w for h, w in sizes], dim=1))
    fine = ref.group_norm(ref.conv(maps[0], f"{place}.lateral_convs.0"), f"{place}.lateral_convs.0.norm")
    fine = fine + resized(as_map(levels[-1], sizes[-1]), fine.shape[2:])
    fine = ref.group_norm(ref.conv(fine, f"{place}.output_convs.0", padding=1), f"{place}.output_convs.0.norm")
    features = ref.conv(fine.relu(), f"{place}.mask_feature")

    state, batch = ref.state, len(features)
    query, query_place = (
        state[f"predictor.{name}.weight"].expand(batch, -1, -1) for name in ("query_feat", "query_embed")
    )
    values = [x + state["predictor.level_embed.weight"][i] for i, x in enumerate(levels)]

    def predicted():
        x = ref.norm(query, "predictor.post_norm", 1e-5)
        mask = x
        for i in range(3):
            mask = ref.linear(mask, f"predictor.mask_embed.layers.{i}")
            mask = mask.relu() if i < 2 else mask
        return ref.linear(x, "predictor.class_embed"), torch.einsum("bqc,bchw->bqhw", mask, features)

    classes, masks = predicted()
    for i in range(9):
        level = i % 3
        hidden = resized(masks, sizes[level]).flatten(2).sigmoid() < 0.5
        hidden = hidden & ~hidden.all(-1, keepdim=True)
        name = f"predictor.transformer_cross_attention_layers.{i}"
        keys = values[level] + positions[level]
        mixed = ref.attention(f"{name}.multihead_attn", query + query_place, keys, values[level], HEADS, hidden)
        query = ref.norm(query + mixed, f"{name}.norm", 1e-5)
        name = f"predictor.transformer_self_attention_layers.{i}"
        placed = query + query_place
        query = ref.norm(
            query + ref.attention(f"{name}.self_attn", placed, placed, query, HEADS), f"{name}.norm", 1e-5
        )
        name = f"predictor.transformer_ffn_layers.{i}"
        mixed = ref.linear(ref.linear(query, f"{name}.linear1").relu(), f"{name}.linear2")
        query = ref.norm(query + mixed, f"{name}.norm", 1e-5)
        classes, masks = predicted()
    return torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :-1], resized(masks, size).sigmoid())


def small_config():
    config = zoo.original_config(NAME)
    sizes = {"embed_dim": SMALL["embed_dim"], "depth": SMALL["depth"], "num_heads": SMALL["num_heads"]}
    config["model"]["backbone"]["backbone"] |= sizes
    config["model"]["backbone"]["interaction_indexes"] = [0, 1, 2, 3]
    shapes = config["model"]["decode_head"]["input_shape"]
    for shape in shapes.values():
        shape[0] = SMALL["embed_dim"]
    config["model"]["decode_head"] |= {"hidden_dim": HIDDEN, "num_classes": CLASSES}
    return config | {"dataset_type": "Mine"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(folder, the ViT's weights, the head's) of a small model in the two files that Meta writes."""
    folder = tmp_path_factory.mktemp("dinov3")
    vit = {name: synthesis.tensor(name, shape) for name, shape in vit_shapes(**SMALL).items()}
    shapes = in_prefix(ADAPTER, adapter_shapes(SMALL["embed_dim"]))
    shapes |= in_prefix(HEAD, head_shapes(SMALL["embed_dim"], HIDDEN, CLASSES))
    head = {name: synthesis.tensor(name, shape) for name, shape in shapes.items()}
    torch.save(vit, folder / "vit.pth")
    torch.save(head, folder / "head.pth")
    (folder / "config.py").write_text(tiny.config_text(small_config()))
    return folder, vit, head


@torch.no_grad()
def test_two_files_become_the_published_model(files, capsys):
    folder, vit, head = files
    paths = [str(folder / name) for name in ("vit.pth", "head.pth")]
    options = ["--config", str(folder / "config.py"), "--output", str(folder / "model")]
    assert main(["convert", *paths, *options]) == 0
    assert AutoImageProcessor.from_pretrained(folder / "model").size["shortest_edge"] == 896
    model = AutoModelForSemanticSegmentation.from_pretrained(folder / "model", dtype=torch.float64).eval()
    pixels = synthesis.image("pixels", [2, 3, 64, 96]).double()
    patches = vit_maps(Reference(vit), pixels, SMALL["num_heads"], SMALL["depth"])
    inside = {
        prefix: {k.removeprefix(prefix): v for k, v in head.items() if k.startswith(prefix)}
        for prefix in (ADAPTER, HEAD)
    }
    maps = adapter_maps(Reference(inside[ADAPTER]), pixels, (4, 6), lambda i, c, sizes: patches[i])
    for found, expected in zip(model.backbone(pixels).feature_maps, maps, strict=True):
        assert (found - expected).abs().max() < 1e-6 * expected.abs().max()
    expected = scores(Reference(inside[HEAD]), maps, HIDDEN, (64, 96))
    found = model(pixels).logits
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-6 * expected.abs().max()
    assert not any(parameter.requires_grad for parameter in model.backbone.vit.parameters())


def test_files_that_do_not_belong_together(files, capsys):
    folder, *_ = files
    released = folder / "dinov3_vit7b16_ade20k_m2f_head-bf307cb1.pth"
    released.symlink_to(folder / "head.pth")
    assert main(["convert", str(folder / "vit.pth"), str(released), "--output", str(folder / "other")]) != 0
    assert f"carries no config; its file name is that of {NAME}: try --name {NAME}" in capsys.readouterr().err
    vit, head, config = (str(folder / name) for name in ("vit.pth", "head.pth", "config.py"))
    for pair, message in (((head, vit), "the two files are swapped"), ((head, head), "belongs to a ViT of DINOv3")):
        assert main(["convert", *pair, "--config", config, "--output", str(folder / "other")]) != 0
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv_bias": True}, "qkv_bias=True"),
        ({"layerscale_init": None}, "without learned scales"),
        ({"norm_layer": "rmsnorm"}, "norm_layer='rmsnorm'"),
        ({"pos_embed_rope_normalize_coords": "max"}, "normalize_coords"),
    ],
)
def test_vits_that_are_refused(change, message):
    config = small_config()
    config["model"]["backbone"]["backbone"] |= change
    with pytest.raises(ConversionError, match=message):
        translate_config(config)


def test_a_vit_without_gates():
    config = small_config()
    config["model"]["backbone"]["backbone"] |= {"ffn_layer": "mlp", "ffn_ratio": 4, "norm_layer": "layernorm"}
    translation = translate_config(config)
    assert translation.config.backbone_config.vit_config.layer_norm_eps == 1e-6
    keys = original_state_dict(build_without_weights(translation.config).state_dict(), translation.components)
    assert keys["backbone.backbone.blocks.3.mlp.fc1.weight"].shape == (256, 64)

"""Plain ViTs and their adapters in their authors' spelling: keys, maps, and options that tell originals apart."""

import pytest
import torch
from conversion import tiny
from parity import synthesis
from torch.nn import functional as F

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict
from segzoo.layers import resize, to_map

DEPTH, WIDTH, HIDDEN, HEADS, PATCH = 4, 32, 64, 2, 16
GRID = (2, 3)
PIXELS = torch.linspace(-2, 2, 3 * 32 * 48, dtype=torch.double).sin().reshape(1, 3, 32, 48)
SIZES = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 2}
BEIT = SIZES | {
    "img_size": (32, 48),
    "qkv_bias": True,
    "use_abs_pos_emb": False,
    "use_rel_pos_bias": True,
    "init_values": 0.1,
    "out_indices": [0, 1, 2, 3],
}
MMSEG_BEIT = {
    "type": "BEiT",
    "img_size": (32, 48),
    "embed_dims": WIDTH,
    "num_layers": DEPTH,
    "num_heads": HEADS,
    "mlp_ratio": 2,
    "out_indices": (0, 1, 2, 3),
    "norm_cfg": {"type": "LN", "eps": 1e-6},
    "init_values": 0.1,
}
ADAPTER = SIZES | {
    "conv_inplane": 8,
    "n_points": 2,
    "deform_num_heads": 2,
    "deform_ratio": 0.5,
    "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
}
LIGHT = {"interaction_indexes": [[0, 3]], "with_cffn": False, "use_extra_extractor": False, "add_vit_feature": False}


def layer(name, *shape):
    """Shapes of a layer with a bias of as many entries as its weight has outputs."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name, width=WIDTH, *, batch=False):
    more = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}
    return layer(name, width) | (more if batch else {})


def upsample(name):
    return {f"{name}.weight": (WIDTH, WIDTH, 2, 2), f"{name}.bias": (WIDTH,)}


def timm_blocks(*, beit):
    shapes = {"cls_token": (1, 1, WIDTH)} if beit else {"pos_embed": (1, 5, WIDTH)}
    shapes |= layer("patch_embed.proj", WIDTH, 3, PATCH, PATCH)
    for i in range(DEPTH):
        block, scale = f"blocks.{i}", "gamma_" if beit else "gamma"
        shapes |= norm(f"{block}.norm1") | norm(f"{block}.norm2") | layer(f"{block}.attn.proj", WIDTH, WIDTH)
        shapes |= layer(f"{block}.mlp.fc1", HIDDEN, WIDTH) | layer(f"{block}.mlp.fc2", WIDTH, HIDDEN)
        shapes |= {f"{block}.{scale}1": (WIDTH,), f"{block}.{scale}2": (WIDTH,)}
        if beit:
            shapes |= {f"{block}.attn.q_bias": (WIDTH,), f"{block}.attn.v_bias": (WIDTH,)}
            shapes |= {f"{block}.attn.qkv.weight": (3 * WIDTH, WIDTH)}
            shapes |= {
                f"{block}.attn.relative_position_bias_table": ((2 * GRID[0] - 1) * (2 * GRID[1] - 1) + 3, HEADS)
            }
            shapes |= {f"{block}.attn.relative_position_index": (7, 7)}
        else:
            shapes |= layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
    return shapes


def fpn():
    return upsample("fpn1.0") | norm("fpn1.1", batch=True) | upsample("fpn1.3") | upsample("fpn2.0")


def vit_pyramid():
    shapes = upsample("up1.0") | norm("up1.1") | upsample("up1.3") | upsample("up2")
    return shapes | {key: shape for i in (1, 2, 3, 4) for key, shape in norm(f"norm{i}").items()}


def uniperceiver():
    shapes = layer("visual_embed.patch_embed.proj", WIDTH, 3, PATCH, PATCH) | norm("visual_embed.embeddings_norm")
    shapes["visual_embed.patch_embed.spatial_pos_embed.weight"] = (4, WIDTH)
    shapes["visual_embed.patch_embed.temporal_pos_embed.weight"] = (8, WIDTH)
    for i in range(DEPTH):
        block = f"layers.{i}"
        shapes |= layer(f"{block}.self_attn.in_proj", 3 * WIDTH, WIDTH)
        shapes |= layer(f"{block}.self_attn.out_proj", WIDTH, WIDTH)
        shapes |= layer(f"{block}.linear1", HIDDEN, WIDTH) | layer(f"{block}.linear2", WIDTH, HIDDEN)
        shapes |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        shapes |= {f"{block}.gamma_1": (WIDTH,), f"{block}.gamma_2": (WIDTH,)}
    return shapes


def branch(*, interactions=4, extra=2, mlp=True):
    shapes = {"level_embed": (3, WIDTH)}
    for name, into, out in (("spm.stem.0", 3, 8), ("spm.stem.3", 8, 8), ("spm.stem.6", 8, 8)):
        shapes[f"{name}.weight"] = (out, into, 3, 3)
        shapes |= norm(f"{name[:-1]}{int(name[-1]) + 1}", out, batch=True)
    for i, (into, out) in enumerate([(8, 16), (16, 32), (32, 32)], start=2):
        shapes[f"spm.conv{i}.0.weight"] = (out, into, 3, 3)
        shapes |= norm(f"spm.conv{i}.1", out, batch=True)
    for i, width in enumerate([8, 16, 32, 32], start=1):
        shapes |= layer(f"spm.fc{i}", WIDTH, width, 1, 1) | norm(f"norm{i}", batch=True)
    readers = {f"interactions.{i}.injector": 3 for i in range(interactions)}
    readers |= {f"interactions.{i}.extractor": 1 for i in range(interactions)}
    readers |= {f"interactions.{interactions - 1}.extra_extractors.{i}": 1 for i in range(extra)}
    for name, levels in readers.items():
        shapes |= norm(f"{name}.query_norm") | norm(f"{name}.feat_norm")
        shapes |= layer(f"{name}.attn.sampling_offsets", 2 * levels * 2 * 2, WIDTH)
        shapes |= layer(f"{name}.attn.attention_weights", 2 * levels * 2, WIDTH)
        shapes |= layer(f"{name}.attn.value_proj", WIDTH // 2, WIDTH)
        shapes |= layer(f"{name}.attn.output_proj", WIDTH, WIDTH // 2)
        if "injector" in name:
            shapes[f"{name}.gamma"] = (WIDTH,)
        elif mlp:
            shapes |= (
                layer(f"{name}.ffn.fc1", 8, WIDTH) | layer(f"{name}.ffn.fc2", WIDTH, 8) | norm(f"{name}.ffn_norm")
            )
            shapes |= layer(f"{name}.ffn.dwconv.dwconv", 8, 1, 3, 3)
    return shapes | upsample("up")


def config(backbone, **changes):
    head = tiny.MODEL["decode_head"] | {"in_channels": WIDTH}
    return tiny.config(**{"model__backbone": backbone, "model__decode_head": head} | changes)


def loaded(values, shapes):
    """(state dict, model in float64) of a checkpoint with these keys of the backbone; every key is accounted for."""
    state = {f"backbone.{name}": synthesis.tensor(name, shape) for name, shape in shapes.items()}
    state |= {key: value for key, value in tiny.state_dict(values).items() if key.startswith("decode_head.")}
    return state, load(values, state)


def load(values, state):
    translation = translate_config(values)
    model = SegZooForSemanticSegmentation(translation.config)
    native, match = match_weights(state, translation.components, model.state_dict())
    assert not match.missing and not match.unexpected and not match.wrong_shapes
    back = original_state_dict(native, translation.components)
    assert back.keys() == state.keys() - set(match.left_out)
    assert all(torch.equal(back[key], state[key]) for key in back)
    model.load_state_dict(native)
    return model.double().eval()


def tensors(state, *names):
    """Function that gives weight and bias of a layer of the backbone, in float64."""
    return [[state[f"backbone.{name}.{part}"].double() for part in ("weight", "bias")] for name in names]


def close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-10 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["BEiT", "BEiTBaseline"])
def test_beit_rescales_its_maps_inside(kind):
    state, model = loaded(config({"type": kind} | BEIT), timm_blocks(beit=True) | fpn())
    four, two, one, half = model.backbone(PIXELS).feature_maps
    assert four.shape[2:] == GRID and model.config.backbone_config.norm_eps == 1e-6
    first, between, last, up = tensors(state, "fpn1.0", "fpn1.1", "fpn1.3", "fpn2.0")
    statistics = [state[f"backbone.fpn1.1.running_{part}"].double() for part in ("mean", "var")]
    four = F.gelu(F.batch_norm(F.conv_transpose2d(four, *first, stride=2), *statistics, *between, eps=1e-5))
    expected = [
        F.conv_transpose2d(four, *last, stride=2), F.conv_transpose2d(two, *up, stride=2), one, F.max_pool2d(half, 2)
    ]  # fmt: skip
    for found, wanted in zip(model.forward_maps(PIXELS)[0], expected, strict=True):
        close(found, wanted)


@torch.no_grad()
def test_beit_of_mmsegmentation_is_the_same_network():
    state, model = loaded(config({"type": "BEiT"} | BEIT), timm_blocks(beit=True) | fpn())
    other = load(config(MMSEG_BEIT, model__neck=NECK), renamed(state))
    assert torch.equal(model(PIXELS).logits, other(PIXELS).logits)


MMSEG_NAMES = {
    "backbone.fpn1.": "neck.upsample_4x.", "backbone.fpn2.": "neck.upsample_2x.", ".blocks.": ".layers.",
    ".norm1.": ".ln1.", ".norm2.": ".ln2.", ".mlp.fc1.": ".ffn.layers.0.0.", ".mlp.fc2.": ".ffn.layers.1.",
    "patch_embed.proj.": "patch_embed.projection.",
}  # fmt: skip
NECK = {"type": "Feature2Pyramid", "embed_dim": WIDTH, "rescales": [4, 2, 1, 0.5]}


def renamed(state, names=MMSEG_NAMES):
    """The same tensors with parts of their names replaced."""
    found = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        found[key] = value
    return found


def mae_blocks():
    shapes = {key: shape for key, shape in timm_blocks(beit=True).items() if not key.endswith(("q_bias", "v_bias"))}
    biases = {f"blocks.{i}.attn.qkv.bias": (3 * WIDTH,) for i in range(DEPTH)}
    return shapes | biases | {"pos_embed": (1, 1 + GRID[0] * GRID[1], WIDTH)}


@torch.no_grad()
def test_mae_of_its_authors_and_of_mmsegmentation_are_one_network():
    original = {"type": "MAE"} | BEIT | {"use_abs_pos_emb": True}
    state, model = loaded(config(original), mae_blocks() | fpn())
    backbone = model.config.backbone_config
    assert backbone.absolute_positions and backbone.relative_positions and backbone.key_bias
    mmseg = MMSEG_BEIT | {"type": "MAE"}
    other = load(config(mmseg, model__neck=NECK), renamed(state))
    assert torch.equal(model(PIXELS).logits, other(PIXELS).logits)
    positions = model.backbone.position_embeddings
    assert torch.equal(positions.float(), state["backbone.pos_embed"])


def test_cae_has_the_biases_of_beit():
    shapes = timm_blocks(beit=True) | fpn() | {"pos_embed": (1, 1 + GRID[0] * GRID[1], WIDTH)}
    _, model = loaded(config({"type": "CAE"} | BEIT | {"use_abs_pos_emb": True}), shapes)
    assert not model.config.backbone_config.key_bias and model.config.backbone_config.absolute_positions
    shapes = {key: shape for key, shape in shapes.items() if "relative" not in key}
    _, model = loaded(config({"type": "BEiT"} | BEIT | {"use_abs_pos_emb": True, "use_rel_pos_bias": False}), shapes)
    assert not model.config.backbone_config.relative_positions


IBOT = SIZES | {"type": "VisionTransformer", "img_size": [32], "qkv_bias": True, "out_indices": [0, 1, 2, 3]}


@torch.no_grad()
def test_ibot_shifts_its_positions_and_cuts_partial_patches():
    shapes = {key: shape for key, shape in timm_blocks(beit=False).items() if "gamma" not in key}
    shapes["cls_token"] = (1, 1, WIDTH)
    state, model = loaded(config(IBOT | {"out_with_norm": True}), shapes | fpn() | norm("norm"))
    pixels = F.pad(PIXELS, (0, 9, 0, 15))  # 47 x 57: 2 x 3 patches, the rest is not read
    found = model.backbone(pixels).feature_maps
    for x, wanted in zip(found, model.backbone(pixels[..., :32, :48]).feature_maps, strict=True):
        assert torch.equal(x, wanted) and x.shape[2:] == GRID
    positions = state["backbone.pos_embed"].double()[:, 1:].transpose(1, 2).reshape(1, WIDTH, 2, 2)
    places = F.interpolate(positions, scale_factor=(2.1 / 2, 3.1 / 2), mode="bicubic").flatten(2).transpose(1, 2)
    patches = F.conv2d(PIXELS, *tensors(state, "patch_embed.proj")[0], stride=PATCH).flatten(2).transpose(1, 2)
    close(model.backbone.embed(PIXELS)[0][:, 1:], patches + places)
    raw = [to_map(x[:, 1:], GRID) for x in _tokens(model.backbone)]
    weight, bias = tensors(state, "norm")[0]
    for x, wanted in zip(found, raw, strict=True):
        close(x, F.layer_norm(wanted.movedim(1, -1), (WIDTH,), weight, bias, 1e-6).movedim(-1, 1))
    assert [x.shape[2:] for x in model.forward_maps(PIXELS)[0]] == [(8, 12), (4, 6), (2, 3), (1, 1)]


def _tokens(backbone):
    tokens, grid = backbone.embed(PIXELS)
    for layer_of in backbone.layers:
        tokens = layer_of(tokens, grid)
        yield tokens


def test_ibot_without_its_pyramid():
    shapes = {key: shape for key, shape in timm_blocks(beit=False).items() if "gamma" not in key}
    shapes["cls_token"] = (1, 1, WIDTH)
    _, model = loaded(config(IBOT | {"with_fpn": False}), shapes)
    assert model.config.neck_config is None and not model.config.backbone_config.final_norm


MMPRETRAIN = {
    "type": "mmpretrain.VisionTransformer",
    "arch": {"embed_dims": WIDTH, "num_layers": DEPTH, "num_heads": HEADS, "feedforward_channels": HIDDEN},
    "img_size": (32, 48),
    "out_type": "featmap",
    "layer_scale_init_value": 0.1,
    "out_indices": (0, 1, 2, -1),
}
MMSEG_VIT = {key: value for key, value in MMSEG_BEIT.items() if key != "init_values"} | {
    "type": "VisionTransformer",
    "final_norm": True,
}


@torch.no_grad()
def test_mmpretrains_vit_is_mmsegmentations_with_scales():
    shapes = timm_blocks(beit=False) | norm("ln1") | {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 7, WIDTH)}
    state = {f"backbone.{name}": synthesis.tensor(name, shape) for name, shape in shapes.items()}
    state = renamed(state, MMSEG_NAMES | {"gamma1": "attn.gamma1.weight", "gamma2": "ffn.gamma2.weight"})
    heads = tiny.state_dict(config(MMPRETRAIN))
    state |= {key: value for key, value in heads.items() if key.startswith("decode_head.")}
    model = load(config(MMPRETRAIN), state)
    backbone = model.config.backbone_config
    assert (backbone.norm_eps, backbone.normed_maps, backbone.out_features[-1]) == (1e-6, "last", "stage4")
    names = {".attn.qkv.": ".attn.attn.in_proj_", ".attn.proj.": ".attn.attn.out_proj."}
    plain = renamed({key: value for key, value in state.items() if "gamma" not in key}, names)
    other = load(config(MMSEG_VIT), plain)
    for layer_of in model.backbone.layers:
        layer_of.scale1.fill_(1.0)
        layer_of.scale2.fill_(1.0)
    assert torch.equal(model(PIXELS).logits, other(PIXELS).logits)


def translated(**original):
    return find_rule("backbone", original, "here").translate(original, Context("here"))


def test_options_of_mmsegmentations_vit():
    """What the records of released models do not have."""
    config = translated(**MMSEG_VIT | {"with_cls_token": False, "interpolate_mode": "bilinear"})
    assert (config.class_token, config.interpolation) == (False, "bilinear")
    config = translated(**MMSEG_VIT | {"output_cls_token": True, "out_indices": (1, 3)})
    assert config.out_features == ["stage2", "stage4", "token2", "token4"]
    config = translated(**MMSEG_VIT | {"out_origin": True, "out_indices": [2], "patch_pad": 0, "pre_norm": True})
    assert (config.out_features, config.pad, config.pre_norm, config.patch_bias) == (
        ["stem", "stage3"], False, True, True
    )  # fmt: skip
    context = Context("here", OriginalConfig(is_1x=True))
    original = MMSEG_VIT | {"out_indices": -1}
    config = find_rule("backbone", original, "here").translate(original, context)
    assert not config.patch_bias, "1.x has none by default"
    dino = translated(type="VisionTransformer", arch="deit-s", out_type="featmap", pre_norm=True)
    assert (dino.hidden_size, dino.patch_bias, dino.out_features) == (384, False, ["stage12"])
    assert translated(type="VisionTransformer", arch="b", output_cls_token=False).final_norm


@pytest.mark.parametrize("is_1x", [False, True])
def test_drop_path_of_mmsegmentations_blocks(is_1x):
    """1.x drops the branches with the feed-forward parts alone, what trained the checkpoints of 0.x both."""
    context = Context("here", OriginalConfig(is_1x=is_1x))
    head = {"type": "SegmenterMaskTransformerHead", "embed_dims": 8, "num_heads": 2, "num_layers": 2}
    head |= {"in_channels": 8, "channels": 8, "num_classes": 3}
    for kind, original in (("backbone", MMSEG_VIT), ("head", head)):
        assert find_rule(kind, original, "here").translate(original, context).drop_attention == (not is_1x)
    assert translated(type="VisionTransformer", arch="b", output_cls_token=False).drop_attention, "mmpretrain's"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"qkv_bias": False}, "qkv_bias=False"),
        ({"patch_norm": True}, "patch_norm=True"),
        ({"num_fcs": 3}, "num_fcs=3"),
        ({"act_cfg": {"type": "QuickGELU"}}, "QuickGELU"),
        ({"interpolate_mode": "nearest"}, "interpolate_mode='nearest'"),
        ({"patch_pad": 2}, "patch_pad=2"),
        ({"arch": "base"}, "out_type='cls_token' is not supported"),
        ({"arch": "eva-g", "out_type": "featmap"}, "arch='eva-g' is not supported"),
        ({"arch": "b", "out_type": "featmap", "with_cls_token": False}, "with_cls_token=False"),
        (IBOT | {"use_mean_pooling": True}, "use_mean_pooling=True"),
        (IBOT | {"img_size": [32, 64]}, "side of a square"),
        (IBOT | {"patch_size": 14}, "patches of another size"),
    ],
)
def test_vits_that_are_refused(options, words):
    original = options if options.get("type") or "arch" in options else MMSEG_VIT | options
    with pytest.raises(ConversionError, match=words):
        translated(**{"type": "VisionTransformer"} | original)


@pytest.mark.parametrize(
    ("options", "scales", "keys"),
    [
        ({"patch_size": 8}, [2.0, 1.0, 0.5, 0.25], {"fpn1.0"}),
        ({"out_indices": [1, 3]}, [4.0, 2.0], {"fpn1.0", "fpn1.1", "fpn1.3", "fpn2.0"}),
        ({"out_indices": [3]}, [4.0], {"fpn1.0", "fpn1.1", "fpn1.3"}),
    ],
)
def test_other_pyramids_of_beit(options, scales, keys):
    head = tiny.MODEL["decode_head"] | {"in_channels": WIDTH, "in_index": 0}
    values = config({"type": "BEiTBaseline"} | BEIT | options) | {}
    values["model"]["decode_head"] = head
    assert translate_config(values).config.neck_config.scales == scales
    found = {key.removeprefix("backbone.") for key in tiny.state_dict(values) if "fpn" in key}
    assert {name.rpartition(".")[0] for name in found} == keys


@torch.no_grad()
def test_vit_baseline_normalises_and_rescales_its_maps_inside():
    backbone = {"type": "ViTBaseline", "pretrain_size": 32} | SIZES
    state, model = loaded(config(backbone), timm_blocks(beit=False) | vit_pyramid())
    maps = []
    for i, x in enumerate(model.backbone(PIXELS).feature_maps, start=1):
        x = F.layer_norm(x.permute(0, 2, 3, 1), (WIDTH,), *tensors(state, f"norm{i}")[0], 1e-6)
        maps.append(x.permute(0, 3, 1, 2))
    first, between, last, up = tensors(state, "up1.0", "up1.1", "up1.3", "up2")
    maps[0] = F.gelu(F.group_norm(F.conv_transpose2d(maps[0], *first, stride=2), 32, *between, 1e-5))
    maps[0] = F.conv_transpose2d(maps[0], *last, stride=2)
    maps[1], maps[3] = F.conv_transpose2d(maps[1], *up, stride=2), F.max_pool2d(maps[3], 2)
    for found, wanted in zip(model.forward_maps(PIXELS)[0], maps, strict=True):
        close(found, wanted)


def test_vit_baseline_reads_every_quarter_and_takes_windows():
    original = {"type": "ViTBaseline", "depth": 24, "window_attn": [True, False] * 12, "window_size": 7}
    found = find_rule("backbone", original, "here").translate(original, Context("here"))
    assert found.out_features == ["stage6", "stage12", "stage18", "stage24"] and not found.class_token
    assert found.windows == [7, 0] * 12 and found.layer_scale == 1.0
    every = {"type": "ViTBaseline", "window_attn": True, "layer_scale": False}
    found = find_rule("backbone", every, "here").translate(every, Context("here"))
    assert found.windows == [14] * 12 and found.layer_scale is None


@torch.no_grad()
def test_uniperceiver_adapter():
    """The encoder's blocks are computed again from the original's weights; the branch is that of the other adapters."""
    backbone = {"type": "UniPerceiverAdapter", "img_size": 32, "window_attn": [False] * 4, "window_size": [None] * 4}
    state, model = loaded(config(backbone | ADAPTER), uniperceiver() | branch())
    vit, seen = model.backbone.vit, []
    for block in vit.layers:
        block.register_forward_hook(lambda _, arguments, output: seen.append((arguments[0], output)))
    assert [x.shape for x in model.forward_maps(PIXELS)[0]] == [
        (1, WIDTH, *size) for size in ((8, 12), (4, 6), (2, 3), (1, 2))
    ]

    x = F.conv2d(PIXELS, *tensors(state, "visual_embed.patch_embed.proj")[0], stride=PATCH)
    embed = "backbone.visual_embed.patch_embed"
    positions = state[f"{embed}.spatial_pos_embed.weight"].double().t().reshape(1, WIDTH, 2, 2)
    x = (
        x
        + F.interpolate(positions, GRID, mode="bicubic")
        + state[f"{embed}.temporal_pos_embed.weight"][0][:, None, None]
    )
    x = F.layer_norm(x.flatten(2).transpose(1, 2), (WIDTH,), *tensors(state, "visual_embed.embeddings_norm")[0], 1e-5)
    close(vit.embed(PIXELS)[0], x)
    for i, (x, output) in enumerate(seen):  # injectors change the tokens between two blocks
        block = f"layers.{i}"
        into, out, up, down, norm1, norm2 = tensors(
            state, *(f"{block}.{name}" for name in ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")),
            f"{block}.norm1", f"{block}.norm2"
        )  # fmt: skip
        scale1, scale2 = (state[f"backbone.{block}.gamma_{j}"].double() for j in (1, 2))
        qkv = F.linear(F.layer_norm(x, (WIDTH,), *norm1, 1e-5), *into).reshape(1, 6, 3, HEADS, WIDTH // HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        x = x + scale1 * F.linear((weights @ value).transpose(1, 2).reshape(1, 6, WIDTH), *out)
        x = x + scale2 * F.linear(F.gelu(F.linear(F.layer_norm(x, (WIDTH,), *norm2, 1e-5), *up)), *down)
        close(output, x)
    assert {m.eps for m in model.backbone.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    depths = {name: model.backbone.parameter_depth(f"vit.{name}") for name, _ in vit.named_parameters()}
    assert all(depth == (int(n.split(".")[1]) + 1 if n.startswith("layers.") else 0) for n, depth in depths.items())


@torch.no_grad()
def test_without_the_features_of_the_vit():
    backbone = {"type": "BEiTAdapter"} | BEIT | ADAPTER
    del backbone["out_indices"]
    shapes = timm_blocks(beit=True) | branch()
    _, model = loaded(config(backbone), shapes)
    _, without = loaded(config(backbone | {"add_vit_feature": False}), shapes)
    tokens = []
    for block in model.backbone.vit.layers:
        block.register_forward_hook(lambda _, arguments, output: tokens.append(output))
    for network in (model, without):
        network.backbone.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    maps, others = (network.forward_maps(PIXELS)[0] for network in (model, without))
    for x, other, state in zip(maps, others, tokens, strict=True):
        own = state[:, 1:].transpose(1, 2).reshape(1, WIDTH, *GRID)
        close(x - other, resize(own, x.shape[-2:]))


@torch.no_grad()
def test_the_light_adapter_has_one_interaction_without_feed_forward_parts():
    backbone = {"type": "ViTAdapter", "pretrain_size": 32} | ADAPTER | LIGHT
    _, model = loaded(config(backbone), timm_blocks(beit=False) | branch(interactions=1, extra=0, mlp=False))
    assert [x.shape for x in model.forward_maps(PIXELS)[0]] == [
        (1, WIDTH, *size) for size in ((8, 12), (4, 6), (2, 3), (1, 2))
    ]

    assert not any("mlp" in name for name, _ in model.backbone.interactions.named_parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__neck": {"type": "Feature2Pyramid", "embed_dim": WIDTH}}, "Feature2Pyramid after BEiT"),
        ({"model__backbone": {"type": "BEiTAdapter", "use_abs_pos_emb": True} | ADAPTER}, "use_abs_pos_emb"),
        ({"model__backbone": {"type": "BEiTAdapter", "use_rel_pos_bias": False} | ADAPTER}, "use_rel_pos_bias"),
        ({"model__backbone__use_shared_rel_pos_bias": True}, "use_shared_rel_pos_bias=True"),
        ({"model__backbone__patch_size": 14}, "patches of another size"),
        ({"model__backbone__out_indices": [0, 1, 2, 3, 3, 4]}, "more than four maps"),
        ({"model__backbone": {"type": "ViTBaseline", "depth": 6}}, "depth=6 must be a multiple of 4"),
        ({"model__backbone": {"type": "ViTBaseline", "window_attn": [True], "depth": 4}}, "each of 4 blocks"),
        (
            {"model__backbone": {"type": "ViTAdapter"} | ADAPTER | {"interaction_indexes": [[0, 3]]}},
            "must be four groups, unless add_vit_feature=False",
        ),
        (
            {"model__backbone": {"type": "ViTAdapter"} | ADAPTER | {"interaction_indexes": [[0, 1], [3, 3]]}},
            "one behind the other",
        ),
        ({"model__backbone": {"type": "UniPerceiverAdapter", "window_attn": True} | ADAPTER}, "window_attn"),
        ({"model__backbone": MMSEG_BEIT | {"final_norm": True}}, "final_norm=True"),
        ({"model__backbone": MMSEG_BEIT | {"norm_cfg": {"type": "BN"}}}, "norm type 'BN'"),
    ],
)
def test_what_would_change_the_numbers_is_refused(changes, words):
    with pytest.raises(ConversionError, match=words):
        translate_config(config({"type": "BEiT"} | BEIT, **changes))


def test_defaults_are_those_of_each_class():
    adapter = translated(type="BEiTAdapter", interaction_indexes=ADAPTER["interaction_indexes"], depth=4).vit_config
    assert (adapter.image_size, adapter.qkv_bias, adapter.layer_scale) == (512, False, 0.0)
    inside = translated(type="BEiT", use_rel_pos_bias=True, use_abs_pos_emb=False)
    assert (inside.image_size, inside.qkv_bias, inside.layer_scale) == (224, False, None)
    mmseg = translated(type="BEiT", embed_dims=768)
    assert (mmseg.qkv_bias, mmseg.layer_scale, mmseg.norm_eps, mmseg.out_features) == (True, 0.1, 1e-5, ["stage12"])


def test_a_stride_longer_than_the_window_is_cut():
    """BEiT's configs are trained at other sizes by changing crop_size alone; the original then has gaps, or one window."""
    windows = {"mode": "slide", "crop_size": (32, 480), "stride": (426, 426)}
    translation = translate_config(config({"type": "BEiT"} | BEIT, model__test_cfg=windows))
    assert (translation.config.window_size, translation.config.window_stride) == ([32, 480], [32, 426])
    assert (
        "model.test_cfg: stride=[426, 426] is longer than crop_size=[32, 480]; [32, 426] is taken" in translation.notes
    )

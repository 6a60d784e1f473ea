"""Pre-training files of plain ViTs, small and synthetic, in their publishers' layouts, become equal backbones."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo import AutoBackbone
from segzoo.backbones import BeitBackbone, ViTAdapterBackbone, ViTBackbone
from segzoo.commands.cli import main
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.pretrained.vit import read_npz, translate_pretrained_vit

WIDTH, DEPTH, PATCH, SIDE = 192, 2, 16, 4  # three heads; 4 x 4 patches


def shapes_of_timm() -> dict[str, tuple[int, ...]]:
    """Names and shapes of timm's VisionTransformer, which DeiT, AugReg's .pth and MAE share."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + SIDE * SIDE, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        for name, shape in {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
    return shapes | {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def head(classes: int = 10) -> dict[str, tuple[int, ...]]:
    return {"head.weight": (classes, WIDTH), "head.bias": (classes,)}


def beit_shapes(*, shared_table: bool = False, pooled: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of BEiT and BEiTv2: no positions, no bias on keys, scales, tables."""
    rows = (2 * SIDE - 1) ** 2 + 3
    shapes = {name: shape for name, shape in shapes_of_timm().items() if "qkv.bias" not in name}
    shapes.pop("pos_embed")
    for i in range(DEPTH):
        shapes[f"blocks.{i}.attn.q_bias"] = shapes[f"blocks.{i}.attn.v_bias"] = (WIDTH,)
        shapes[f"blocks.{i}.gamma_1"] = shapes[f"blocks.{i}.gamma_2"] = (WIDTH,)
        if not shared_table:
            shapes[f"blocks.{i}.attn.relative_position_bias_table"] = (rows, WIDTH // 64)
    if shared_table:
        shapes["rel_pos_bias.relative_position_bias_table"] = (rows, WIDTH // 64)
    if pooled:
        shapes |= {"fc_norm.weight": shapes.pop("norm.weight"), "fc_norm.bias": shapes.pop("norm.bias")}
    return shapes


def convert(path, tmp_path):
    """`segzoo convert` of a file, and the backbone that it makes."""
    assert main(["convert", str(path), "--output", str(tmp_path / "vit")]) == 0
    return AutoBackbone.from_pretrained(tmp_path / "vit").double().eval()


def reference(state: dict[str, Tensor], x: Tensor, *, positions: Tensor | None = None, bias=None) -> Tensor:
    """What the original computes: the last block's tokens, through the last norm where there is one, as a map."""
    state = {name: value.double() for name, value in state.items()}
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    grid = x.shape[2:]
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
    if positions is not None:
        x = x + positions.double()
    for i in range(DEPTH):
        part = {n.removeprefix(f"blocks.{i}."): v for n, v in state.items() if n.startswith(f"blocks.{i}.")}
        y = F.layer_norm(x, (WIDTH,), part["norm1.weight"], part["norm1.bias"], 1e-6)
        if "attn.q_bias" in part:
            zero = torch.zeros(WIDTH, dtype=torch.float64)
            qkv_bias = torch.cat([part["attn.q_bias"], zero, part["attn.v_bias"]])
        else:
            qkv_bias = part["attn.qkv.bias"]
        q, k, v = F.linear(y, part["attn.qkv.weight"], qkv_bias).unflatten(2, (3, 3, 64)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) / 8
        if bias is not None:
            scores = scores + bias(part["attn.relative_position_bias_table"])
        y = F.linear(
            (scores.softmax(-1) @ v).transpose(1, 2).flatten(2), part["attn.proj.weight"], part["attn.proj.bias"]
        )
        x = x + y * part.get("gamma_1", 1)
        y = F.layer_norm(x, (WIDTH,), part["norm2.weight"], part["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
        x = x + F.linear(y, part["mlp.fc2.weight"], part["mlp.fc2.bias"]) * part.get("gamma_2", 1)
    if "norm.weight" in state:
        x = F.layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
    return x[:, 1:].transpose(1, 2).unflatten(2, grid)


def image() -> Tensor:
    return torch.randn(
        2, 3, SIDE * PATCH, SIDE * PATCH, dtype=torch.float64, generator=torch.Generator().manual_seed(6)
    )


def assert_same(model, expected: Tensor) -> None:
    with torch.no_grad():
        found = model(image()).feature_maps[-1]
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("layout", ["deit", "augreg", "mae", "mae with decoder"])
def test_timm_layouts(layout, tmp_path):
    state = weights(shapes_of_timm())
    extra = {"deit": head(), "augreg": head() | {"pre_logits.fc.weight": (8, WIDTH), "pre_logits.fc.bias": (8,)}}
    mae = {"mask_token": (1, 1, 32), "decoder_pos_embed": (1, 17, 32), "decoder_embed.weight": (32, WIDTH)}
    extra["mae with decoder"] = mae | {"decoder_blocks.0.norm1.weight": (32,), "decoder_pred.bias": (768,)}
    saved = state | weights(extra.get(layout, {}))
    torch.save(saved if layout == "augreg" else {"model": saved}, tmp_path / "vit.pth")
    model = convert(tmp_path / "vit.pth", tmp_path)
    assert type(model) is ViTBackbone and model.config.image_size == 64 and model.config.layer_scale is None
    assert_same(model, reference(state, image(), positions=state["pos_embed"]))


def test_a_dry_run_and_class_names(tmp_path, capsys):
    torch.save(weights(shapes_of_timm()), tmp_path / "vit.pth")
    arguments = ["convert", "--dry_run", str(tmp_path / "vit.pth")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "segzoo_vit" in out and "classes:" not in out and "all found in the file" in out
    assert main([*arguments, "--classes", "a,b"]) == 1
    assert "a backbone has no classes; leave --classes out" in capsys.readouterr().err


def test_distilled_deit_loses_its_token(tmp_path, capsys):
    state = weights(shapes_of_timm())
    positions = torch.cat([state["pos_embed"][:, :1], torch.ones(1, 1, WIDTH), state["pos_embed"][:, 1:]], 1)
    more = weights({"dist_token": (1, 1, WIDTH), "head_dist.weight": (10, WIDTH), "head_dist.bias": (10,)} | head())
    torch.save({"model": state | more | {"pos_embed": positions}}, tmp_path / "deit.pth")
    model = convert(tmp_path / "deit.pth", tmp_path)
    assert "distillation" in capsys.readouterr().err
    assert_same(model, reference(state, image(), positions=state["pos_embed"]))


def flax_arrays(state: dict[str, Tensor], heads: int = 3) -> dict[str, Tensor]:
    """The same weights as AugReg's .npz files have them."""
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": torch.zeros(WIDTH, 10),
        "head/bias": torch.zeros(10),
        "pre_logits/kernel": torch.zeros(WIDTH, WIDTH),
        "pre_logits/bias": torch.zeros(WIDTH),
    }
    for i in range(DEPTH):
        old, new = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        for a, b in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{new}/{b}/scale"], arrays[f"{new}/{b}/bias"] = (
                state[f"{old}.{a}.weight"],
                state[f"{old}.{a}.bias"],
            )
        attention = f"{new}/MultiHeadDotProductAttention_1"
        kernels = state[f"{old}.attn.qkv.weight"].chunk(3)
        biases = state[f"{old}.attn.qkv.bias"].chunk(3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            arrays[f"{attention}/{part}/kernel"] = kernel.t().unflatten(1, (heads, WIDTH // heads))
            arrays[f"{attention}/{part}/bias"] = bias.unflatten(0, (heads, WIDTH // heads))
        arrays[f"{attention}/out/kernel"] = state[f"{old}.attn.proj.weight"].t().unflatten(0, (heads, WIDTH // heads))
        arrays[f"{attention}/out/bias"] = state[f"{old}.attn.proj.bias"]
        for j in (0, 1):
            arrays[f"{new}/MlpBlock_3/Dense_{j}/kernel"] = state[f"{old}.mlp.fc{j + 1}.weight"].t()
            arrays[f"{new}/MlpBlock_3/Dense_{j}/bias"] = state[f"{old}.mlp.fc{j + 1}.bias"]
    return arrays


def test_augreg_npz(tmp_path):
    state = weights(shapes_of_timm())
    arrays = flax_arrays(state)
    np.savez(tmp_path / "L_16.npz", **{name: value.numpy() for name, value in arrays.items()})
    model = convert(tmp_path / "L_16.npz", tmp_path)
    assert_same(model, reference(state, image(), positions=state["pos_embed"]))

    del arrays["cls"]
    np.savez(tmp_path / "broken.npz", **{name: value.numpy() for name, value in arrays.items()})
    with pytest.raises(ConversionError, match="array 'cls' is missing"):
        translate_pretrained_vit(read_npz(tmp_path / "broken.npz"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "L_16.npz").read_bytes()[:5000])
    with pytest.raises(ConversionError, match="cut.npz"):
        read_npz(tmp_path / "cut.npz")


def bias_by_index(table: Tensor) -> Tensor:
    """The bias of a square grid, written with BEiT's own table of indices."""
    y, x = (c.flatten() for c in torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"))
    index = torch.empty(SIDE * SIDE + 1, SIDE * SIDE + 1, dtype=torch.long)
    index[1:, 1:] = (y[:, None] - y + SIDE - 1) * (2 * SIDE - 1) + (x[:, None] - x + SIDE - 1)
    index[0, :], index[:, 0], index[0, 0] = len(table) - 3, len(table) - 2, len(table) - 1
    return table[index].permute(2, 0, 1)


# timm's names -> those of mmsegmentation's ViT, and of mmpretrain's.
OPENMMLAB = {
    ".mlp.fc1.": ".ffn.layers.0.0.", ".mlp.fc2.": ".ffn.layers.1.", "blocks.": "layers.", "norm1.": "ln1.",
    "norm2.": "ln2.", "patch_embed.proj.": "patch_embed.projection.",
}  # fmt: skip
MMSEG = OPENMMLAB | {"attn.qkv.": "attn.attn.in_proj_", "attn.proj.": "attn.attn.out_proj."}


@pytest.mark.parametrize(("names", "prefix"), [(MMSEG, ""), (OPENMMLAB, "backbone.")], ids=["mmseg", "mmpretrain"])
def test_openmmlab_layouts(names, prefix, tmp_path):
    state = weights(shapes_of_timm())
    saved = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        saved[prefix + (f"ln1{key[4:]}" if key.startswith("norm.") else key)] = value
    torch.save({"state_dict": saved | weights(head())}, tmp_path / "vit.pth")
    model = convert(tmp_path / "vit.pth", tmp_path)
    assert type(model) is ViTBackbone and model.config.image_size == 64
    assert_same(model, reference(state, image(), positions=state["pos_embed"]))
    assert find_kind(saved | {"decode_head.conv_seg.weight": torch.zeros(2, 8, 1, 1)}) is None  # a whole model


def test_beit_with_absolute_positions_and_a_bias_on_keys(tmp_path):
    state = {key: value for key, value in weights(beit_shapes(pooled=False)).items() if not key.endswith("_bias")}
    more = {"pos_embed": (1, 1 + SIDE * SIDE, WIDTH)} | {
        f"blocks.{i}.attn.qkv.bias": (3 * WIDTH,) for i in range(DEPTH)
    }
    state |= weights(more)
    torch.save({"model": state}, tmp_path / "mae.pth")
    assert_same(
        convert(tmp_path / "mae.pth", tmp_path),
        reference(state, image(), positions=state["pos_embed"], bias=bias_by_index),
    )


@pytest.mark.parametrize("kind", ["fine-tuned", "masked only"])
def test_beit(kind, tmp_path):
    pretrained_only = kind == "masked only"  # one table for all blocks, a mask token, a head over visual words
    state = weights(beit_shapes(shared_table=pretrained_only, pooled=not pretrained_only))
    if pretrained_only:
        saved = state | weights({"mask_token": (1, 1, WIDTH), "lm_head.weight": (20, WIDTH), "lm_head.bias": (20,)})
        table = state.pop("rel_pos_bias.relative_position_bias_table")
        state |= {f"blocks.{i}.attn.relative_position_bias_table": table for i in range(DEPTH)}
    else:
        indices = {
            f"blocks.{i}.attn.relative_position_index": torch.zeros(17, 17, dtype=torch.int64) for i in range(DEPTH)
        }
        saved = state | weights(head()) | indices
    torch.save({"model": saved}, tmp_path / "beit.pth")
    model = convert(tmp_path / "beit.pth", tmp_path)
    assert type(model) is BeitBackbone and model.config.image_size == 64
    state = {name: value for name, value in state.items() if not name.startswith("fc_norm")}
    assert_same(model, reference(state, image(), bias=bias_by_index))


def test_an_adapter_over_a_converted_file(tmp_path):
    state = weights(shapes_of_timm() | head())
    for i in (2, 3):  # four interactions need four blocks
        state |= {
            n.replace("blocks.0.", f"blocks.{i}."): v.clone() for n, v in state.items() if n.startswith("blocks.0.")
        }
    torch.save({"model": state}, tmp_path / "deit.pth")
    convert(tmp_path / "deit.pth", tmp_path)
    adapter = ViTAdapterBackbone.from_vit(
        tmp_path / "vit", vit_options={"class_token": False, "layer_scale": 1.0}, deform_num_heads=2
    )
    assert torch.equal(adapter.vit.layers[3].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])
    assert adapter.vit.class_token is None and (adapter.vit.layers[1].scale1 == 1).all()
    assert len(adapter(torch.randn(1, 3, 64, 96)).feature_maps) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), "blocks.1.mlp.fc2.bias"),
        (lambda s: s.update({"blocks.0.attn.q_norm.weight": torch.ones(64)}), "blocks.0.attn.q_norm.weight"),
        (lambda s: s.update(pos_embed=torch.zeros(1, 16, WIDTH)), "15 positions are no square"),
        (lambda s: s.pop("pos_embed"), "no pos_embed"),
        (lambda s: s.update({"blocks.0.norm1.bias": torch.zeros(7)}), "blocks.0.norm1.bias"),
    ],
)
def test_files_that_are_no_plain_vit(change, words, tmp_path):
    state = weights(shapes_of_timm())
    change(state)
    torch.save({"model": state}, tmp_path / "vit.pth")
    with pytest.raises(ConversionError, match=f"(?s)vit.pth: .*{words}"):
        convert_checkpoint(tmp_path / "vit.pth", output=tmp_path / "out")


@pytest.mark.parametrize("heads", [2, 3, 4])
def test_an_npz_file_tells_its_heads(heads):
    done = translate_pretrained_vit(flax_arrays(weights(shapes_of_timm()), heads), "vit.npz")
    assert done.config.num_attention_heads == heads


def test_what_an_npz_file_holds_beside_the_backbone_is_reported(tmp_path):
    arrays = flax_arrays(weights(shapes_of_timm()))
    np.savez(tmp_path / "L_16.npz", **{name: value.numpy() for name, value in arrays.items()})
    report = convert_checkpoint(tmp_path / "L_16.npz", output=tmp_path / "out").report
    assert sorted(report.keys.left_out) == ["head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel"]
    assert any("left out: 4 tensors" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("conv_root/kernel", "hybrid of a ResNet and a ViT is not supported"),
        ("gn_root/scale", "hybrid of a ResNet and a ViT is not supported"),
        ("block1/unit1/conv1/kernel", "no plain ViT has: block1/unit1/conv1/kernel"),
    ],
)
def test_npz_files_with_more_than_a_vit(name, words):
    arrays = flax_arrays(weights(shapes_of_timm())) | {name: torch.zeros(3)}
    with pytest.raises(ConversionError, match=words):
        translate_pretrained_vit(arrays, "vit.npz")


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (1280, 16), (128, None), (1408, None)])
def test_the_width_tells_the_heads_of_published_models(width, heads, monkeypatch):
    monkeypatch.setitem(globals(), "WIDTH", width)
    monkeypatch.setitem(globals(), "DEPTH", 1)
    state = weights(shapes_of_timm())
    if heads is None:
        with pytest.raises(ConversionError, match=f"no published ViT has its width {width}"):
            translate_pretrained_vit(state, "vit.pth")
    else:
        assert translate_pretrained_vit(state, "vit.pth").config.num_attention_heads == heads

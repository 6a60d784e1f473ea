"""InternViT's published .pth files, small and synthetic, become equal backbones from every form that they have."""

import pytest
import torch

from segzoo import AutoBackbone
from segzoo.commands.cli import main
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError

WIDTH, DEPTH, SIDE = 128, 2, 4


def weights():
    """Multiples of 1/64 of up to six bits, which float16 and bfloat16 hold exactly."""
    shapes = {
        "pos_embed": (1, 1 + SIDE * SIDE, WIDTH),
        "cls_token": (1, 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        for name in (
            "norm1.weight",
            "attn.q_norm.weight",
            "attn.k_norm.weight",
            "ls1.gamma",
            "norm2.weight",
            "ls2.gamma",
        ):
            shapes[f"blocks.{i}.{name}"] = (WIDTH,)
        shapes[f"blocks.{i}.attn.qkv.weight"] = (3 * WIDTH, WIDTH)
        for name, rows, columns in (("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"blocks.{i}.{name}.weight"] = (rows * WIDTH, columns * WIDTH)
            shapes[f"blocks.{i}.{name}.bias"] = (rows * WIDTH,)
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randint(-63, 64, shape, generator=generator) / 64 for name, shape in shapes.items()}


def converted(content, folder):
    folder.mkdir()
    torch.save(content, folder / "intern_vit.pth")
    report = convert_checkpoint(folder / "intern_vit.pth", output=folder / "vit").report
    return AutoBackbone.from_pretrained(folder / "vit"), report


def test_every_form_gives_the_same_backbone(tmp_path):
    state = {name: value.to(torch.bfloat16) for name, value in weights().items()}
    bare, report = converted(state, tmp_path / "bare")
    assert {p.dtype for p in bare.parameters()} == {torch.bfloat16} and not report.notes
    config = bare.config
    assert (config.image_size, config.patch_size, config.num_attention_heads) == (56, 14, 1)
    assert (config.num_hidden_layers, config.mlp_ratio) == (DEPTH, 4.0)
    assert torch.equal(bare.layers[1].attention.qkv.weight, state["blocks.1.attn.qkv.weight"])
    forms = {
        "wrapped": {"module": state},
        "prefixed": {f"module.{name}": value for name, value in state.items()},
        "fp16": {name: value.to(torch.float16) for name, value in state.items()},
        "more": state | {"head.weight": torch.zeros(10, WIDTH), "clip_projector.norm1_q.weight": torch.zeros(WIDTH)},
    }
    for name, content in forms.items():
        other, report = converted(content, tmp_path / name)
        assert any("stored as bfloat16" in note for note in report.notes) == (name == "fp16")
        assert any("left out: 2 tensors" in note for note in report.notes) == (name == "more")
        assert other.config.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {"_name_or_path": ""}
        ours, wanted = other.state_dict(), bare.state_dict()
        assert ours.keys() == wanted.keys()
        assert all(torch.equal(ours[key], wanted[key]) and ours[key].dtype == wanted[key].dtype for key in wanted)
    full, _ = converted({name: value.float() for name, value in state.items()}, tmp_path / "fp32")
    assert {p.dtype for p in full.parameters()} == {torch.float32}


def test_a_row_of_the_zoo_names_it(tmp_path, capsys):
    torch.save(weights(), tmp_path / "intern_vit_6b_224px.pth")
    command = ["convert", str(tmp_path / "intern_vit_6b_224px.pth"), "--name", "intern_vit_6b_224px"]
    assert main([*command, "--output", str(tmp_path / "vit")]) == 0
    assert (
        main(
            [
                "convert",
                str(tmp_path / "intern_vit_6b_224px.pth"),
                "--output",
                str(tmp_path / "v"),
                "--name",
                "upernet_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5",
            ]
        )
        == 1
    )
    assert "without a decode head" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["blocks.0.attn.qkv.bias", "pos_embed"])
def test_other_encoders_are_refused(wrong, tmp_path):
    torch.save(weights() | {wrong: torch.zeros(1, 4, WIDTH)}, tmp_path / "vit.pth")
    with pytest.raises(ConversionError, match="no published InternViT"):
        convert_checkpoint(tmp_path / "vit.pth", output=tmp_path / "out")

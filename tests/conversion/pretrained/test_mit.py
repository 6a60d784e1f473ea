"""ImageNet files of MiT, in the layouts of its authors and of mmsegmentation."""

import json
from pathlib import Path

import pytest
import torch
from parity import synthesis
from support.key_lists import key_list

from segzoo import AutoBackbone
from segzoo.backbones import MiTConfig
from segzoo.backbones.mit import VARIANTS
from segzoo.conversion import ConversionError, convert_checkpoint

RECORD = Path(__file__).parents[2] / "parity/records/segformer.b0.512x512.ade.160k.json"
CLASSIFIER = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}


def backbone_of(lines):
    state = synthesis.state_dict([line for line in lines if line.startswith("backbone.")])
    return {key.removeprefix("backbone."): tensor for key, tensor in state.items()}


def test_the_authors_file(tmp_path):
    state = backbone_of(json.loads(RECORD.read_text())["keys"])
    torch.save({**state, **CLASSIFIER}, tmp_path / "mit_b0.pth")
    report = convert_checkpoint(tmp_path / "mit_b0.pth", output=tmp_path / "out").report
    assert report.keys.renamed.keys() == state.keys() and sorted(report.keys.left_out) == sorted(CLASSIFIER)
    model = AutoBackbone.from_pretrained(tmp_path / "out")
    assert model.config.to_diff_dict() == MiTConfig(**VARIANTS["mit_b0"]).to_diff_dict() | {
        "architectures": ["MiTBackbone"], "dtype": "float32", "auto_map": model.config.auto_map
    }  # fmt: skip
    assert torch.equal(model.stages[1].blocks[1].attention.kv.weight, state["block2.1.attn.kv.weight"])
    with pytest.raises(ConversionError, match="1 missing.*\n.*block3.0.attn.kv.bias"):
        del state["block3.0.attn.kv.bias"]
        torch.save(state, tmp_path / "mit_b0.pth")
        convert_checkpoint(tmp_path / "mit_b0.pth", output=tmp_path / "other")


def test_mmsegmentations_file(tmp_path):
    state = backbone_of(key_list("segformer_mit-b0_512x512_160k_ade20k"))
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "mit_b0_20220624-7e0fe6dd.pth")
    convert_checkpoint(tmp_path / "mit_b0_20220624-7e0fe6dd.pth", output=tmp_path / "out")
    model = AutoBackbone.from_pretrained(tmp_path / "out")
    assert (model.config.norm_eps, model.config.patch_norm_eps) == (1e-6, 1e-6)
    attention = model.stages[2].blocks[0].attention
    joined = torch.cat([attention.q.weight, attention.kv.weight])
    assert torch.equal(joined, state["layers.2.1.0.attn.attn.in_proj_weight"])

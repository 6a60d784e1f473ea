"""ImageNet files of PoolFormer, VAN, PVT and PVT v2, small and synthetic, in the layouts of their authors."""

import pytest
import torch

from segzoo import AutoBackbone
from segzoo.backbones import MiTConfig, PoolFormerConfig, PVTConfig, VANConfig
from segzoo.conversion import ConversionError, convert_checkpoint
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.rules.mit import original_mit_keys
from segzoo.conversion.rules.poolformer import poolformer_keys
from segzoo.conversion.rules.pvt import pvt_keys
from segzoo.conversion.rules.van import van_keys

SMALL = {"channels": [64, 64, 128, 128], "depths": [1, 2, 1, 1], "mlp_ratios": [2, 2, 1, 1]}
HEAD = {"head.weight": torch.zeros(4, 4), "norm.weight": torch.zeros(4)}
FILES = {
    "poolformer": (PoolFormerConfig(**SMALL), poolformer_keys, HEAD, "network.4.0.mlp.fc2.bias"),
    "van": (
        VANConfig(**SMALL, drop_path_rate=0.1),
        van_keys,
        {"head.weight": torch.zeros(4)},
        "block2.1.attn.proj_2.bias",
    ),
    "pvt": (
        PVTConfig(**SMALL, num_heads=[1, 1, 2, 2], image_size=64, drop_path_rate=0.1),
        pvt_keys,
        HEAD | {"cls_token": torch.zeros(1, 1, 128)},
        "block2.1.attn.kv.bias",
    ),
    "pvt_v2": (
        MiTConfig(**SMALL, num_heads=[1, 1, 2, 2]),
        original_mit_keys,
        {"head.weight": torch.zeros(4)},
        "block2.1.attn.kv.bias",
    ),
    "pvt_v2_b2_li": (
        MiTConfig(**SMALL, num_heads=[1, 1, 2, 2], reductions=[1] * 4, pooled_grid=7),
        original_mit_keys,
        {"head.weight": torch.zeros(4)},
        "block4.0.attn.sr.bias",
    ),
}


def options_of(config):
    return {name: value for name, value in config.to_diff_dict().items() if name not in ("architectures", "dtype")}


@pytest.mark.parametrize("name", FILES)
def test_the_authors_file(name, tmp_path):
    config, keys, head, needed = FILES[name]
    model = AutoBackbone.from_config(config).eval()
    table = KeyTable(keys(config))
    state = {table.to_original(key): tensor for key, tensor in model.state_dict().items() if "norms." not in key}
    assert needed in state
    torch.save(state | head, tmp_path / "file.pth")
    report = convert_checkpoint(tmp_path / "file.pth", output=tmp_path / "out").report
    assert sorted(report.keys.left_out) == sorted(head)
    loaded = AutoBackbone.from_pretrained(tmp_path / "out").eval()
    assert options_of(loaded.config) == options_of(config)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(loaded(x).feature_maps, model(x).feature_maps, strict=True):
            assert torch.equal(found, expected)
    if name == "poolformer":
        assert any("norms of maps" in note for note in report.notes)
    del state[needed]
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=needed):
        convert_checkpoint(tmp_path / "file.pth", output=tmp_path / "other")


def test_mmpretrains_file(tmp_path):
    config, keys, _, _ = FILES["poolformer"]
    model = AutoBackbone.from_config(config)
    table = KeyTable(keys(config))
    state = {f"backbone.{table.to_original(key)}": tensor for key, tensor in model.state_dict().items()}
    state = {key: tensor for key, tensor in state.items() if not key.startswith(("backbone.norm0", "backbone.norm2"))}
    torch.save({"state_dict": state | {"head.fc.weight": torch.zeros(4)}}, tmp_path / "file.pth")
    convert_checkpoint(tmp_path / "file.pth", output=tmp_path / "out")
    loaded = AutoBackbone.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())

"""ImageNet files of DDRNet and PIDNet, synthetic, in the layouts of their authors and of mmsegmentation."""

import pytest
import torch

from segzoo import AutoBackbone
from segzoo.backbones import DDRNetConfig, PIDNetConfig
from segzoo.conversion import ConversionError, convert_checkpoint
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.pretrained.dual_resolution import _authors_keys
from segzoo.conversion.rules.ddrnet import DDRNET
from segzoo.conversion.rules.pidnet import PIDNET

CONFIGS = {
    "ddrnet": DDRNetConfig(channels=8),
    "pidnet_s": PIDNetConfig(channels=8),
    "pidnet_l": PIDNetConfig(channels=8, stem_blocks=3, branch_blocks=4, light=False, pooling_channels=112),
}
NEW = ("pooling.", "boundaries.", "differences.", "fusion.")


def file_of(model, table):
    """What a classifier's file holds of a backbone, and its last layer."""
    kept = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(NEW)}
    return {table.to_original(key): tensor.clone() for key, tensor in kept.items()} | {
        "linear.weight": torch.zeros(4, 8)
    }


def made(name):
    torch.manual_seed(3)
    model = AutoBackbone.from_config(CONFIGS[name])
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return model.eval()


def options_of(config):
    return {name: value for name, value in config.to_diff_dict().items() if name not in ("architectures", "dtype")}


@pytest.mark.parametrize("name", ["ddrnet", pytest.param("pidnet_s", marks=pytest.mark.slow), "pidnet_l"])
@torch.no_grad()
def test_the_authors_file(name, tmp_path):
    """The stem's convolutions have biases there."""
    model = made(name)
    state = file_of(model, KeyTable(_authors_keys(model.config)))
    assert {"conv1.0.weight", "conv1.4.running_mean", "layer5_.0.bn3.weight", "compression4.1.bias"} <= state.keys()
    for conv, norm in (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4")):
        bias = torch.randn(8)
        state |= {f"{conv}.bias": bias, f"{norm}.running_mean": state[f"{norm}.running_mean"] + bias}
    torch.save({"state_dict": state}, tmp_path / "file.pth.tar")
    report = convert_checkpoint(tmp_path / "file.pth.tar", output=tmp_path / "out").report
    assert report.keys.left_out == ["linear.weight"]
    assert any("pooling: a classifier has none" in note or "pooling" in note for note in report.notes)
    loaded = AutoBackbone.from_pretrained(tmp_path / "out").eval()
    expected = options_of(model.config) | {"pooling_channels": loaded.config.pooling_channels}  # which no weight tells
    assert options_of(loaded.config) == expected
    x = torch.randn(1, 3, 64, 96)
    found, expected = loaded(x).feature_maps[0], model(x).feature_maps[0]  # the details need none of the new parts
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    del state["layer4_.0.conv2.weight"]
    torch.save({"state_dict": state}, tmp_path / "file.pth.tar")
    with pytest.raises(ConversionError, match="layer4_.0.conv2.weight"):
        convert_checkpoint(tmp_path / "file.pth.tar", output=tmp_path / "other")


@pytest.mark.parametrize(("name", "rule"), [("ddrnet", DDRNET), ("pidnet_l", PIDNET)])
def test_mmsegmentations_file(name, rule, tmp_path):
    model = made(name)
    state = file_of(model, rule.key_table(model.config))
    torch.save(state, tmp_path / "file.pth")
    convert_checkpoint(tmp_path / "file.pth", output=tmp_path / "out")
    loaded = AutoBackbone.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[key], t) for key, t in model.state_dict().items() if not key.startswith(NEW))


def test_what_is_neither():
    assert find_kind({"conv1.0.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}) is None

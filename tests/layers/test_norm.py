import re

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from segzoo.auto import BACKBONES, HEADS, NECKS
from segzoo.base import BatchNormConfig
from segzoo.errors import SegZooError
from segzoo.layers import BatchNorm2d

WITH_NORMS = {
    name: entry
    for name, entry in (BACKBONES | NECKS | HEADS).items()
    if issubclass(entry.config, BatchNormConfig) and getattr(entry.config.tiny(), "norm", None) in ("batch_norm", None)
}
# Norms with a config of their own, and those that the originals make without their options of norms.
OTHERS = {
    "segzoo_icnet": r"resnet\.",
    "segzoo_stdc": r"encoder\.|context_path\.refinements\.|fusion\.",
    "segzoo_ddrnet": r"pooling\.|(stem\.[24]|context\.\d|details\.\d)\.0\.conv",
    "segzoo_pidnet": r"pooling\.|attention\.|(stem\.[24]|context\.\d|details\.\d)\.\d\.conv|boundaries\.\d\.conv",
}


@pytest.mark.parametrize("reentrant", [False, True])
def test_statistics_move_once_under_checkpointing(reentrant):
    """Output, gradients and running statistics equal plain BatchNorm without checkpointing."""
    reference, norm = nn.BatchNorm2d(4), BatchNorm2d(4)
    for _ in range(3):
        x = torch.randn(2, 4, 5, 5)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected, output = reference(a), checkpoint(norm, b, use_reentrant=reentrant)
        torch.testing.assert_close(output, expected)
        expected.square().sum().backward()
        output.square().sum().backward()
        torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(dict(norm.named_buffers()), dict(reference.named_buffers()))


def test_becomes_sync_batch_norm():
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(BatchNorm2d(4)))
    assert type(converted[0]) is nn.SyncBatchNorm


def test_one_value_a_channel():
    norm, point = BatchNorm2d(4), torch.randn(1, 4, 1, 1)
    with pytest.raises(SegZooError, match="batch of at least 2"):
        norm(point)
    assert norm.eval()(point).shape == point.shape


@pytest.mark.parametrize("training", [True, False])
def test_weights_in_half_precision_beside_float32_statistics(training):
    """As FSDP2 casts them."""
    expected, norm = (BatchNorm2d(4).train(training) for _ in range(2))
    norm.weight.data, norm.bias.data = norm.weight.data.bfloat16(), norm.bias.data.bfloat16()
    x = torch.randn(2, 4, 5, 6).bfloat16()
    assert torch.equal(norm(x), expected(x)) and norm(x).dtype == torch.bfloat16
    expected(x)
    assert all(map(torch.equal, norm.buffers(), expected.buffers()))


@pytest.mark.parametrize("model_type", sorted(WITH_NORMS))
def test_the_momentum_of_a_config_is_that_of_all_its_batch_norms(model_type):
    entry = WITH_NORMS[model_type]
    options = {**entry.config.tiny().to_diff_dict(), "norm_momentum": 0.03}
    options.pop("model_type")
    if hasattr(entry.config, "norm"):
        options["norm"] = "batch_norm"
    if model_type == "segzoo_fcn_head":
        options["with_norm"] = True
    model = entry.model(entry.config(**options))
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    others = {name for name in norms if model_type in OTHERS and re.match(OTHERS[model_type], name)}
    own = norms.keys() - others
    assert {name for name, norm in norms.items() if norm.momentum != 0.03} == others
    assert own or model_type in ("segzoo_deeplabv2_head", "segzoo_segmenter_head")  # which have no norms of maps

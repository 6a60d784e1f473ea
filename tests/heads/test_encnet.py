"""EncNet's encoding, its loss of the classes that a picture shows, and what it holds in memory."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.errors import SegZooError
from segzoo.heads import EMAHeadConfig, EncHead, EncHeadConfig
from segzoo.heads.encnet import Encoding


def by_definition(encoding, x):
    """Every pixel's offset from every code word, which the layer never holds."""
    offsets = x.flatten(2).transpose(1, 2)[:, :, None] - encoding.codewords  # (B, H * W, codes, channels)
    shares = (encoding.scale * offsets.square().sum(3)).softmax(2)
    return (shares[..., None] * offsets).sum(1)


def wide():
    """A layer of the released width, with features as large and code words as close as in training."""
    torch.manual_seed(0)
    encoding = Encoding(512, 32)
    torch.nn.init.uniform_(encoding.scale, -0.05, -0.01)
    torch.nn.init.normal_(encoding.codewords, std=0.5)
    return encoding, torch.randn(2, 512, 12, 12).relu()


def test_products_of_matrices_round_no_worse_than_offsets():
    encoding, x = wide()
    exact = Encoding(512, 32).double()
    exact.load_state_dict(encoding.state_dict())
    with torch.no_grad():
        expected = by_definition(exact, x.double())
        assert_close(exact(x.double()), expected, 1e-12)
        scale = float(expected.abs().max())
        errors = [float((found - expected).abs().max()) / scale for found in (encoding(x), by_definition(encoding, x))]
    assert errors[0] < max(2 * errors[1], 2e-6), errors


def test_gradients_are_the_definitions():
    encoding = Encoding(6, 4).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, 6, dtype=torch.float64)
    inputs = (x, encoding.codewords, encoding.scale)
    found = torch.autograd.grad((encoding(x) * weight).sum(), inputs)
    for one, other in zip(
        found, torch.autograd.grad((by_definition(encoding, x) * weight).sum(), inputs), strict=True
    ):
        assert_close(one, other, 1e-10)


def test_half_precision_compares_pixels_in_float32():
    """Squared distances of some hundreds would be off by units."""
    encoding, x = wide()
    with torch.no_grad():
        expected = encoding(x.bfloat16().float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(encoding(x.bfloat16()).float(), expected, 5e-3)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_nothing_of_pixels_times_codes_times_channels():
    encoding, x = wide()
    with Largest() as largest:
        encoding(x).sum().backward()
    assert largest.elements == x.numel()


def test_initial_values():
    encoding = EncHead(EncHeadConfig(in_channels=[8], channels=64, num_labels=3)).encoding
    bound = (32 * 64) ** -0.5
    assert 0.9 * bound < encoding.codewords.max() <= bound and -bound <= encoding.codewords.min() < -0.9 * bound
    assert -1 <= encoding.scale.min() < -0.6 and -0.4 < encoding.scale.max() <= 0


@torch.no_grad()
@pytest.mark.parametrize("lateral", [False, True])
def test_the_encoding_says_which_channels_count(lateral):
    head = EncHead(EncHeadConfig(in_channels=[8, 16], in_index=[0, 1], channels=16, add_lateral=lateral, num_labels=5))
    settle(head).eval().double()
    fine, last = torch.randn(2, 8, 6, 5).double(), torch.randn(2, 16, 6, 5).double()
    x = head.reduction(last)
    if lateral:
        x = head.fusion.activation(
            head.fusion.norm(F.conv2d(torch.cat([x, head.laterals[0](fine)], 1), head.fusion.conv.weight, padding=1))
        )
    codes = by_definition(head.encoding, head.encoding_conv(x))
    norm = head.codes_norm  # over the codes
    mean, variance, weight, bias = (
        value[:, None] for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    encoded = F.relu((codes - mean) / (variance + 1e-5).sqrt() * weight + bias).mean(1)
    x = F.relu(x * (1 + head.gate(encoded).sigmoid()[:, :, None, None]))
    output = head([fine, last])
    assert_close(output.logits, head.classifier(x), 1e-12)
    assert_close(output.presence, head.presence(encoded), 1e-12)


def test_presence_counts_each_class_that_is_shown_once():
    head = settle(EncHead(EncHeadConfig.tiny())).eval()
    output = head(**head.config.tiny_inputs(3))
    labels = torch.full((3, 8, 8), 4)
    labels[0, 0, 0], labels[0, 1:3] = 0, 2
    labels[0, 3], labels[1] = 255, 255  # ignored pixels show nothing, and nothing is known of the second picture
    scores = output.presence.detach()
    shown = torch.tensor([[1.0, 0, 1, 0, 1], [0, 0, 0, 0, 1]])
    loss = F.binary_cross_entropy_with_logits(scores[[0, 2]], shown, reduction="sum") / scores.numel()
    found = head.compute_loss(output, labels, 255)
    assert found.keys() == {"cross_entropy", "presence"}
    torch.testing.assert_close(found["presence"], 0.2 * loss)
    head.config.se_loss_weight = 1.0
    torch.testing.assert_close(head.compute_loss(output, labels, 255)["presence"], loss)


def test_ignored_labels_may_be_a_class():
    head = settle(EncHead(EncHeadConfig.tiny())).eval()
    output = head(**head.config.tiny_inputs(1))
    labels = torch.tensor([[[0, 1], [1, 3]]])
    wanted = F.binary_cross_entropy_with_logits(output.presence, torch.tensor([[1.0, 0, 0, 1, 0]]))
    torch.testing.assert_close(head.compute_loss(output, labels, 1)["presence"], 0.2 * wanted)


def test_without_the_loss_there_is_no_layer():
    head = EncHead(EncHeadConfig(in_channels=[8], channels=16, use_se_loss=False, num_labels=5)).eval()
    output = head([torch.randn(1, 8, 4, 4)])
    assert output.presence is None and not any("presence" in name for name, _ in head.named_parameters())
    assert head.compute_loss(output, torch.zeros(1, 8, 8, dtype=torch.int64), 255).keys() == {"cross_entropy"}


def test_a_weight_that_is_none():
    with pytest.raises(SegZooError, match="se_loss_weight=-1"):
        EncHeadConfig(se_loss_weight=-1.0)


@pytest.mark.parametrize(
    "head",
    [
        EncHeadConfig(in_index=[1, 2], channels=16, num_codes=8),
        EMAHeadConfig(channels=16, ema_channels=16, num_bases=8),
    ],
    ids=["EncNet", "EMANet"],
)
def test_twenty_steps_on_four_pictures(head):
    model = SegZooForSemanticSegmentation(SegZooConfig.from_backbone(ResNetConfig.tiny(), head, num_labels=4)).train()
    stripes = torch.arange(4).repeat_interleave(16).expand(64, 64)
    labels = torch.stack([stripes, stripes.mT, stripes // 2, 2 + stripes // 2])  # two pictures show two classes alone
    images = F.one_hot(labels, 4).permute(0, 3, 1, 2)[:, :3] + 0.3 * torch.randn(4, 3, 64, 64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    history = []
    for _ in range(20):
        output = model(images, labels=labels)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({name: value.item() for name, value in output.losses.items()})
    for name, first in history[0].items():
        assert sum(losses[name] for losses in history[-3:]) / 3 < 0.9 * first, name

"""DANet's head: the formulas of both attentions, and its three losses."""

import pytest
import torch
from support.contract import assert_close, settle

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.heads import DAHead, DAHeadConfig
from segzoo.heads.danet import ChannelAttention

LABELS = torch.randint(0, 5, (2, 64, 96), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_both_attentions():
    head = settle(DAHead(DAHeadConfig.tiny())).eval().double()
    x = torch.randn(2, 32, 6, 5).double()
    position, attention = head.position_in(x), head.position.attention
    query, key, value = (layer(position).flatten(2) for layer in (attention.query, attention.key, attention.value))
    shares = torch.einsum("bcp,bcq->bpq", query, key).softmax(-1)  # not scaled
    found = torch.einsum("bpq,bcq->bcp", shares, value).unflatten(2, (6, 5))
    position = head.position_out(position + head.position.gamma * found)

    channel = head.channel_in(x)
    products = torch.einsum("bcp,bdp->bcd", channel.flatten(2), channel.flatten(2))
    shares = (products.max(-1, keepdim=True).values - products).softmax(-1)
    found = torch.einsum("bcd,bdp->bcp", shares, channel.flatten(2)).unflatten(2, (6, 5))
    channel = head.channel_out(channel + head.channel.gamma * found)

    output = head([x, x, x])
    assert_close(output.logits, head.classifier(position + channel), 1e-12)
    assert_close(output.position_features, position, 1e-12)
    assert_close(output.channel_features, channel, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_products_of_channels_keep_float32(dtype):
    """They are sums over all pixels: half precision would round them before a softmax, and float16 has none so large."""
    attention = ChannelAttention()
    attention.gamma.fill_(1.0)
    small = torch.randn(1, 8, 64, 64).relu().to(dtype)
    large = (torch.randn(1, 8, 64, 64).relu() + 5).to(dtype)
    assert (large.float().square().sum((2, 3)) > torch.finfo(torch.float16).max).all()
    for x in (small, large):
        expected = attention(x.float())
        with torch.autocast("cpu", dtype=dtype):
            assert_close(attention(x).float(), expected, 0.01)
        assert_close(attention.to(dtype)(x).float(), expected, 0.01)
        attention.float()


def test_both_attentions_begin_with_nothing():
    head, x = DAHead(DAHeadConfig.tiny()).eval(), torch.randn(2, 16, 6, 5)
    assert torch.equal(head.position(x), x) and torch.equal(head.channel(x), x)
    assert head.position.attention.query.weight.abs().max() <= 16**-0.5  # as PyTorch begins
    assert head.position_classifier.weight.abs().max() <= 16**-0.5
    assert head.position_classifier.weight.std() > 5 * head.classifier.weight.std()


def test_three_losses_share_the_dropout_and_evaluation_has_one_classifier():
    config = DAHeadConfig.tiny()
    config.dropout = 0.5
    head, inputs, ran = settle(DAHead(config)), config.tiny_inputs(), []
    parts = {
        name: getattr(head, name) for name in ("dropout", "classifier", "position_classifier", "channel_classifier")
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    head.eval()(**inputs)
    assert ran == ["dropout", "classifier"]
    output = head.train()(**inputs)
    losses = head.compute_loss(output, LABELS, 255)
    assert list(losses) == ["cross_entropy", "position.cross_entropy", "channel.cross_entropy"]
    assert ran[2:] == ["dropout", "classifier", "dropout", "position_classifier", "dropout", "channel_classifier"]
    assert (parts["dropout"](output.channel_features).flatten(2) == 0).all(2).any()  # whole channels
    alone = DAHead(DAHeadConfig(**{**config.to_diff_dict(), "own_outputs": 3}))
    assert alone.compute_loss(alone(**inputs), LABELS, 255) == {}


def test_four_pictures_are_learnt():
    torch.manual_seed(0)
    head = DAHeadConfig(channels=16, pam_channels=8, dropout=0.0)
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), head, num_labels=5)
    model = SegZooForSemanticSegmentation(config).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pixels = torch.randn(4, 3, 64, 64)
    labels = (pixels.mean(1) > 0).long() + torch.arange(4)[:, None, None]
    labels = labels[:, ::32, ::32].repeat_interleave(32, 1).repeat_interleave(32, 2)
    losses = []
    for _ in range(20):
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    (trained,) = model.decode_heads
    assert trained.position.gamma.item() != 0 and trained.channel.gamma.item() != 0

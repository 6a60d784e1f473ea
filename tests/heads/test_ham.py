"""SegNeXt's head: the factorisation beside its formula, and where its first bases come from."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import HamHead, HamHeadConfig
from segzoo.heads.ham import NonNegativeFactorization


def rebuilt(pixels, bases, steps):
    """Multiplicative updates, by hand, of one part of one picture: pixels (C, N), bases (C, R)."""
    bases = bases / bases.norm(dim=0)
    shares = torch.einsum("cn,cr->nr", pixels, bases).softmax(1)
    for step in range(steps + 1):
        shares = shares * torch.einsum("cn,cr->nr", pixels, bases) / (shares @ (bases.T @ bases) + 1e-6)
        if step < steps:
            bases = bases * (pixels @ shares) / (bases @ (shares.T @ shares) + 1e-6)
    return bases @ shares.T


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_factorisation_is_the_formula(training, monkeypatch):
    layer = NonNegativeFactorization(6, num_bases=4, num_parts=2, train_steps=2, eval_steps=3).train(training)
    asked, rand = [], torch.rand

    def recorded(shape, **options):
        asked.append(rand(shape, **options))
        return asked[-1]

    monkeypatch.setattr(torch, "rand", recorded)
    x = torch.randn(3, 6, 5, 4, dtype=torch.double).relu()
    found = layer(x)
    (bases,) = asked
    assert bases.shape == ((6, 3, 4) if training else (2, 3, 4))
    bases = bases.double().view(-1, 2, 3, 4).expand(3, -1, -1, -1)
    for picture in range(3):
        for part in range(2):
            pixels = x[picture, 3 * part : 3 * part + 3]
            expected = rebuilt(pixels.flatten(1), bases[picture, part], 2 if training else 3).view(3, 5, 4)
            assert_close(found[picture, 3 * part : 3 * part + 3], expected, 1e-12)


@torch.no_grad()
def test_a_picture_gives_the_same_logits_each_time_except_in_training():
    head = settle(HamHead(HamHeadConfig.tiny())).eval()
    head.dropout.eval()
    maps = head.config.tiny_inputs()["feature_maps"]
    state = torch.get_rng_state()
    first, second = head(maps).logits, head(maps).logits
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    other = HamHead(HamHeadConfig.tiny()).eval()
    other.load_state_dict(head.state_dict())  # which holds no bases
    assert torch.equal(other(maps).logits, first)
    head.train().dropout.eval()
    torch.manual_seed(0)
    first, second = head(maps).logits, head(maps).logits
    assert (first - second).abs().max() > 1e-3 * first.abs().max()
    torch.manual_seed(0)
    assert torch.equal(head(maps).logits, first)


def test_graphs_hold_the_bases_that_evaluation_draws():
    layer = NonNegativeFactorization(6, num_bases=4, num_parts=2, train_steps=1, eval_steps=2).eval()
    x = torch.rand(2, 6, 5, 4)
    program = torch.export.export(layer, (x,))
    assert not [node for node in program.graph.nodes if "rand" in str(node.target)]
    assert_close(program.module()(x), layer(x))
    traced = torch.jit.trace(layer, (x,))
    for _ in range(2):
        assert_close(traced(x), layer(x))


@torch.no_grad()
def test_it_is_the_formula():
    config = HamHeadConfig.tiny()
    config.align_corners = True
    head = settle(HamHead(config)).eval().double()
    fine, coarse = torch.randn(2, 8, 9, 7, dtype=torch.double), torch.randn(2, 12, 5, 4, dtype=torch.double)
    coarse_enlarged = F.interpolate(coarse, size=(9, 7), mode="bilinear", align_corners=True)
    x = head.squeeze([torch.cat([fine, coarse_enlarged], 1)])
    assert isinstance(head.squeeze.norm, torch.nn.GroupNorm) and head.squeeze.norm.num_groups == 4
    rebuilt = head.factorization(head.ham_in(x).relu())
    expected = head.classifier(head.align((x + head.ham_out(rebuilt)).relu()))
    assert_close(head([fine, coarse]).logits, expected, 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ham_channels": 10, "num_parts": 4}, "num_parts=4"),
        ({"num_bases": 0}, "num_bases=0"),
        ({"eval_steps": 1001}, "eval_steps=1001"),
        ({"train_steps": -1}, "train_steps=-1"),
        ({"norm_groups": 0}, "norm_groups=0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(SegZooError, match=message):
        HamHeadConfig(**options)

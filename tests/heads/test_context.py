"""The blocks of NonLocal, DNLNet, GCNet and CCNet, written from the formulas, and how they begin."""

import json
import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo import AutoHead
from segzoo.errors import SegZooError
from segzoo.heads import (
    CCHead,
    CCHeadConfig,
    DNLHead,
    DNLHeadConfig,
    FCNHead,
    GCHead,
    GCHeadConfig,
    NonLocalHead,
    NonLocalHeadConfig,
)

HEADS = [(NonLocalHead, NonLocalHeadConfig), (DNLHead, DNLHeadConfig), (GCHead, GCHeadConfig), (CCHead, CCHeadConfig)]
OPTIONS = {"in_channels": [32], "in_index": [2], "channels": 16, "num_labels": 5}
X = torch.randn(2, 16, 6, 5, generator=torch.Generator().manual_seed(3)).double()


def block_of(head, config, **options):
    """The block of a head that looks trained."""
    return settle(head(config(**OPTIONS | options))).double().eval().context


@torch.no_grad()
def pair_weights(block, mode, query, key, scale):
    """The weights of all pairs, (B, N, M), of queries (B, C, N) and keys (B, C, M)."""
    if mode == "concatenation":
        shape = (*query.shape, key.shape[2])
        pairs = torch.cat([query[..., None].expand(shape), key[:, :, None].expand(shape)], dim=1)
        return F.relu(F.conv2d(pairs, block.pair.weight)[:, 0]) / key.shape[2]
    products = torch.einsum("bcn,bcm->bnm", query, key)
    return products / key.shape[2] if mode == "dot_product" else (products * scale).softmax(-1)


@pytest.mark.parametrize(
    ("mode", "sub_sample"),
    list(product(["gaussian", "embedded_gaussian", "dot_product", "concatenation"], [False, True])),
)
@pytest.mark.parametrize(("use_scale", "reduction"), [(True, 2), (False, 1)])
@torch.no_grad()
def test_every_pair_of_pixels(mode, sub_sample, use_scale, reduction):
    options = {"mode": mode, "sub_sample": sub_sample, "use_scale": use_scale, "reduction": reduction}
    block = block_of(NonLocalHead, NonLocalHeadConfig, **options)
    pool = (lambda x: F.max_pool2d(x, 2)) if sub_sample else (lambda x: x)
    query, key = (X, X) if mode == "gaussian" else (block.query(X), block.key(X))
    scale = (16 // reduction) ** -0.5 if mode == "embedded_gaussian" and use_scale else 1
    weights = pair_weights(block, mode, query.flatten(2), pool(key).flatten(2), scale)
    mixed = torch.einsum("bnm,bcm->bcn", weights, pool(block.value(X)).flatten(2)).unflatten(2, (6, 5))
    assert block.value.out_channels == 16 // reduction
    assert_close(block(X), X + block.out.norm(block.out.conv(mixed)), 1e-12)


def test_a_map_too_small_to_sub_sample():
    head = NonLocalHead(NonLocalHeadConfig(**OPTIONS, sub_sample=True)).eval()
    with pytest.raises(SegZooError, match="got one of 1x3; use larger images"):
        head([torch.randn(1, 32, 1, 3)] * 3)
    assert head([torch.randn(1, 32, 2, 3)] * 3).logits.shape == (1, 5, 2, 3)


@pytest.mark.parametrize("mode", ["embedded_gaussian", "dot_product", "concatenation"])
@torch.no_grad()
def test_pixels_differ_from_the_mean_and_a_part_is_the_same_for_all(mode):
    block = block_of(DNLHead, DNLHeadConfig, mode=mode, temperature=0.5)
    query, key, value = (part(X).flatten(2) for part in (block.query, block.key, block.value))
    query, key = (part - part.mean(2, keepdim=True) for part in (query, key))
    weights = pair_weights(block, mode, query, key, 8**-0.5 / 0.5)
    mixed = torch.einsum("bnm,bcm->bcn", weights, value)
    mixed += torch.einsum("bn,bcn->bc", block.mask(X).flatten(1).softmax(1), value)[..., None]
    assert_close(block(X), X + block.out.norm(block.out.conv(mixed.unflatten(2, (6, 5)))), 1e-12)


@pytest.mark.parametrize("pooling", ["att", "avg"])
@pytest.mark.parametrize("uses", [["channel_add"], ["channel_mul"], ["channel_add", "channel_mul"]])
@torch.no_grad()
def test_one_vector_of_the_map(pooling, uses):
    block = block_of(GCHead, GCHeadConfig, pooling_type=pooling, fusion_types=uses, ratio=0.5)
    shares = (
        torch.full((2, 30), 1 / 30, dtype=torch.float64) if pooling == "avg" else block.mask(X).flatten(1).softmax(1)
    )
    vector = torch.einsum("bn,bcn->bc", shares, X.flatten(2))
    expected = X

    def made_by(part):
        inner = part.reduction.weight[..., 0, 0] @ vector.T + part.reduction.bias[:, None]
        inner = F.layer_norm(inner.T, (8,), part.norm.weight, part.norm.bias)
        return part.expansion(inner.relu()[..., None, None])

    if "channel_mul" in uses:
        expected = expected * made_by(block.factor).sigmoid()
    if "channel_add" in uses:
        expected = expected + made_by(block.summand)
    assert_close(block(X), expected, 1e-12)
    assert (block.mask is None) == (pooling == "avg")


@pytest.mark.parametrize("recurrence", [0, 1, 3])
@torch.no_grad()
def test_rows_and_columns(recurrence):
    block = block_of(CCHead, CCHeadConfig, recurrence=recurrence)
    expected = X
    for _ in range(recurrence):
        query, key, value, y = block.query(expected), block.key(expected), block.value(expected), expected.clone()
        for row, column in product(range(6), range(5)):
            seen = [(row, j) for j in range(5)] + [(i, column) for i in range(6) if i != row]
            keys, values = (torch.stack([part[:, :, i, j] for i, j in seen], dim=2) for part in (key, value))
            weights = torch.einsum("bc,bcn->bn", query[:, :, row, column], keys).softmax(1)
            y[:, :, row, column] += block.gamma * torch.einsum("bn,bcn->bc", weights, values)
        expected = y
    assert_close(block(X), expected, 1e-12)


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        found = operator(*args, **kwargs or {})
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("head", "config", "options"),
    [
        (CCHead, CCHeadConfig, {}),
        (DNLHead, DNLHeadConfig, {}),
        (NonLocalHead, NonLocalHeadConfig, {}),
        (NonLocalHead, NonLocalHeadConfig, {"mode": "gaussian"}),
        (NonLocalHead, NonLocalHeadConfig, {"mode": "dot_product"}),
    ],
)
def test_no_tensor_has_all_pairs_of_pixels(head, config, options, layout):
    block = block_of(head, config, **options).float().to(memory_format=layout)
    x = torch.randn(1, 16, 30, 20).to(memory_format=layout).requires_grad_()
    with Largest() as largest:
        block(x).sum().backward()
    assert 16 * 600 <= largest.elements <= 50 * 600


@pytest.mark.parametrize(("head", "config"), HEADS)
@torch.no_grad()
def test_the_block_stands_between_the_convolutions(head, config):
    model = settle(head(config.tiny())).eval()
    x = torch.randn(1, 32, 6, 5)
    features = model.convs[1](model.context(model.convs[0](x)))
    expected = model.classifier(model.conv_cat(torch.cat([x, features], dim=1)))
    assert_close(model([x, x, x]).logits, expected)


@pytest.mark.parametrize(("head", "config"), HEADS)
@pytest.mark.parametrize("norm", ["batch_norm", None])
@torch.no_grad()
def test_the_block_begins_as_the_identity(head, config, norm):
    """The model trains from FCN's function; ``channel_mul`` begins with the sigmoid of 0."""
    options = {"fusion_types": ["channel_add"]} if config is GCHeadConfig else {}
    model = head(config(**OPTIONS | options | {"norm": norm})).eval()
    x = torch.randn(2, 16, 6, 5)
    assert torch.equal(model.context(x), x)
    fcn = FCNHead.features(model, y := torch.randn(1, 32, 6, 5))
    assert torch.equal(model.features(y), fcn)


def test_initial_weights():
    """Narrow where the original says so; torch's own elsewhere, for which a mask of one output is not steep."""
    torch.manual_seed(0)
    wide = OPTIONS | {"channels": 256}
    for head, config in HEADS[:2]:
        block = head(config(**wide)).context
        for conv in (block.query, block.key, block.value):
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05) and not conv.bias.any()
        assert block.out.conv.weight.any() and not block.out.norm.weight.any()
    block = DNLHead(DNLHeadConfig(**wide)).context
    assert 0.05 < block.mask.weight.abs().max() <= 256**-0.5 and block.mask.bias.any()
    block = GCHead(GCHeadConfig(**wide)).context
    assert block.mask.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.15) and not block.mask.bias.any()
    assert 0.05 < block.summand.reduction.weight.abs().max() <= 256**-0.5
    block = CCHead(CCHeadConfig(**wide)).context
    for conv in (block.query, block.key, block.value):
        assert 0.05 < conv.weight.abs().max() <= 256**-0.5 and conv.bias.any()


@pytest.mark.parametrize(("head", "config"), HEADS)
def test_a_head_without_its_block_is_initialised(head, config, tmp_path):
    """What a file lacks gets the same initial values as a new head's."""
    from safetensors.torch import load_file, save_file

    model = settle(head(config.tiny()))
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("context.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = AutoHead.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.convs[0].conv.weight, model.convs[0].conv.weight)
    x = torch.randn(1, 16, 6, 5)
    factor = 0.5 if config is GCHeadConfig else 1.0  # its tiny config has factors too
    assert_close(loaded.context(x), factor * x)


@torch.no_grad()
def test_layers_that_an_adapter_replaced_are_called():
    class Doubled(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 2 * self.layer(x)

    block = block_of(NonLocalHead, NonLocalHeadConfig, mode="concatenation")
    before = block(X)
    block.pair.weight *= 2
    expected = block(X)
    block.pair.weight /= 2
    block.pair = Doubled(block.pair)
    assert not torch.equal(before, expected)
    assert_close(block(X), expected, 1e-12)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (NonLocalHeadConfig, {"num_convs": 0, "in_channels": [16]}, "num_convs=0"),
        (DNLHeadConfig, {"temperature": 0.0}, "temperature=0.0 must be positive"),
        (GCHeadConfig, {"ratio": 0.01}, "ratio=0.01 of channels=16"),
        (GCHeadConfig, {"fusion_types": []}, "fusion_types is empty"),
        (CCHeadConfig, {"channels": 7}, "channels=7"),
    ],
)
def test_options_that_do_not_fit(config, options, words):
    with pytest.raises(SegZooError, match=words):
        config(**OPTIONS | options)


MEASURE = """
import json, sys
from pathlib import Path
import torch
from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**20

torch.set_num_threads(1)
config = translate_config(zoo.original_config(sys.argv[1])).config
model = SegZooForSemanticSegmentation(config).eval()
with torch.no_grad():
    model(torch.randn(1, 3, 64, 64))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    start = resident("VmRSS")
    shape = model(torch.randn(1, 3, 1024, 2048)).logits.shape
print(json.dumps([list(shape), resident("VmHWM") - start]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak can be reset on Linux only")
@pytest.mark.parametrize("name", ["ccnet", "dnl"])
def test_memory_of_a_large_picture(name):
    """Weights of all pairs of 128x256 pixels would take 4 GiB; the limits hold without them."""
    row = f"{name}_r50-d8_512x1024_80k_cityscapes"
    done = subprocess.run([sys.executable, "-c", MEASURE, row], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    shape, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{row} at 1024x2048: {peak:.2f} GiB above the model")
    assert shape == [1, 19, 128, 256]
    assert peak * 2**30 < 2.5e9

"""Attention with one weight for three projections: the numbers of PyTorch's, with adapters and quantised layers too."""

import pytest
import torch
from support.contract import assert_close
from torch import nn

from segzoo.layers.masked_attention import Attention, PackedLinear

CHANNELS, HEADS = 8, 2


def inputs():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, tokens, CHANNELS, generator=generator, dtype=torch.float64) for tokens in (3, 5, 5)
    )
    visible = torch.rand(2, 3, 5, generator=generator) < 0.6
    return query, key, value, visible | ~visible.any(-1, keepdim=True)


def attention():
    torch.manual_seed(1)
    made = Attention(CHANNELS, HEADS, dropout=0.0).double().eval()
    nn.init.normal_(made.in_proj.bias)
    return made


def test_numbers_are_those_of_torch():
    own, (query, key, value, visible) = attention(), inputs()
    theirs = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True).double().eval()
    state = own.state_dict()
    theirs.load_state_dict({name.replace("in_proj.", "in_proj_"): x for name, x in state.items()})
    expected, _ = theirs(query, key, value, attn_mask=~visible.repeat_interleave(HEADS, 0))
    assert_close(own(query, key, value, visible), expected, 1e-12)


def test_one_projection_is_that_part_of_all():
    layer = PackedLinear(CHANNELS)
    x = torch.randn(2, 3, CHANNELS)
    assert layer(x).shape == (2, 3, 3 * CHANNELS)
    for part, whole in enumerate(layer(x).chunk(3, dim=-1)):
        assert_close(layer(x, part), whole)


def test_a_layer_in_its_place_that_makes_all_three_gives_the_same():
    own, given = attention(), inputs()
    expected = own(*given)
    plain = nn.Linear(CHANNELS, 3 * CHANNELS).double()
    plain.load_state_dict(own.in_proj.state_dict())
    own.in_proj = plain
    assert_close(own(*given), expected, 1e-12)


def test_an_adapter_acts_on_queries_keys_and_values():
    peft = pytest.importorskip("peft")
    given = inputs()
    expected = attention()(*given)
    tuned = peft.get_peft_model(attention(), peft.LoraConfig(r=4, target_modules=["in_proj"])).double()
    assert_close(tuned(*given), expected, 1e-12)  # which begins as zero

    (_, up), (_, down) = sorted((name, p) for name, p in tuned.named_parameters() if "lora_" in name)[::-1]
    nn.init.normal_(up)
    output = tuned(*given)
    (output * torch.randn(output.shape, dtype=output.dtype)).sum().backward()
    # The rows of `up` make queries, keys and values; that all keys move alike changes no weight, hence "any".
    assert all(rows.any() for rows in up.grad.chunk(3)) and down.grad.any()
    assert float((output - expected).detach().abs().max()) > 1e-3
    merged = tuned.merge_and_unload()
    assert isinstance(merged.in_proj, PackedLinear)
    assert_close(merged(*given), output, 1e-12)

"""Layout operations: each changes tensors as the original's code does, and is undone exactly."""

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.layouts import LINEAR, POINTWISE, Permute, Reorder, Reshape, Steps, join, split
from segzoo.conversion.one_channel import SecondChannel
from segzoo.conversion.translation import ComponentKeys
from segzoo.conversion.weights import match_weights, original_state_dict

QKV = ("{}.query.{}", "{}.key.{}", "{}.value.{}")


def components(*rules):
    return [ComponentKeys("backbone.", "ours.", KeyTable(rules), "Original", PreTrainedConfig())]


def converted(state, expected, rules):
    """The native state dict of ``state``, after the way back and forth."""
    expected = {f"ours.{name}": torch.empty(shape, device="meta") for name, shape in expected.items()}
    state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    native, account = match_weights(state, components(*rules), expected)
    account.raise_for_problems("a.pth")
    assert account.renamed.keys() == state.keys() and native.keys() == expected.keys()
    back = original_state_dict(native, components(*rules))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) and back[key].shape == state[key].shape for key in state)
    return {key.removeprefix("ours."): tensor for key, tensor in native.items()}


def counted(*shape, start=0):
    return torch.arange(start, start + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize(
    ("change", "tensor", "native"),
    [
        (POINTWISE, counted(6, 4, 1, 1), (6, 4)),
        (LINEAR, counted(6, 4), (6, 4, 1, 1)),
        (Reshape(original=(0, 2, -1), native=(0, -1)), counted(6, 2, 3), (6, 6)),
        (Reshape(original=(), native=(1,)), torch.tensor(3.0), (1,)),
        (Reshape(original=(0, 1, 1), native=(0,)), counted(6, 1, 1), (6,)),
        (Permute((1, 0)), counted(6, 4), (4, 6)),
        (Permute((3, 2, 0, 1)), counted(5, 7, 3, 2), (2, 3, 5, 7)),
        (Permute((0, 3, 2, 1), view=(0, 2, 2, -1)), counted(6, 12), (6, 12)),
        (Reorder((3, 2, 1, 0), axis=1), counted(6, 8, 1, 1), (6, 8, 1, 1)),
        (Reorder((2, 0, 1)), counted(6), (6,)),
    ],
)
def test_a_change_is_undone(change, tensor, native):
    changed = change.to_native(tensor)
    assert changed.shape == native
    assert torch.equal(change.to_original(changed), tensor)
    assert not torch.equal(changed.flatten(), tensor.flatten()) or isinstance(change, Reshape)
    rule = KeyRule("a.{}", "b.{}", change=change)
    found = converted({"a.weight": tensor}, {"b.weight": native}, [rule])["b.weight"]
    assert torch.equal(found, changed) and found.is_contiguous()


@pytest.mark.parametrize(
    "change",
    [POINTWISE, Permute((1, 0)), Permute((2, 1, 0), view=(2, 2, -1)), Reorder((1, 0)), SecondChannel(0.5)],
)
def test_a_scalar_in_place_of_a_tensor_is_left_for_the_check_of_shapes(change):
    assert change.to_native(torch.tensor(3.0)).shape == ()
    with pytest.raises(ConversionError, match="wrong shape.*scalar"):
        converted({"a.weight": torch.tensor(3.0)}, {"b.weight": (4, 4)}, [KeyRule("a.{}", "b.{}", change=change)])


def test_patches_that_are_concatenated_and_patches_that_are_unfolded():
    """Swin's merging of 2x2 patches, as its authors and as mmsegmentation write it."""
    x = torch.randn(1, 4, 6, 3)  # (B, H, W, C)
    corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    theirs = torch.cat(corners, dim=-1).flatten(1, 2)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    columns = Permute((2, 1, 0), view=(2, 2, -1))
    assert torch.equal(columns.to_native(theirs[0, 0]), unfolded[0, 0])
    weight = torch.randn(6, 12)
    changed = Permute((0, 3, 2, 1), view=(0, 2, 2, -1)).to_native(weight)
    assert torch.allclose(unfolded @ changed.T, theirs @ weight.T, atol=1e-6)


def test_blocks_are_those_that_the_order_names():
    assert Reorder((2, 0, 1)).to_native(torch.tensor([0, 0, 1, 1, 2, 2])).tolist() == [2, 2, 0, 0, 1, 1]


def test_several_tensors_become_one():
    state = {f"0.{name}.{kind}": counted(*shape, start=100 * i)
             for i, name in enumerate(("query", "key", "value")) for kind, shape in (("weight", (2, 3)), ("bias", (2,)))}  # fmt: skip
    native = converted(state, {"0.qkv.weight": (6, 3), "0.qkv.bias": (6,)}, join(QKV, "{}.qkv.{}"))
    assert torch.equal(native["0.qkv.weight"], torch.cat([state[f"0.{n}.weight"] for n in ("query", "key", "value")]))


def test_parts_of_different_sizes():
    state = {"q.weight": counted(2, 3), "kv.weight": counted(4, 3, start=50)}
    native = converted(state, {"qkv.weight": (6, 3)}, join(["q.{}", "kv.{}"], "qkv.{}", shares=(1, 2)))
    assert torch.equal(native["qkv.weight"], torch.cat([state["q.weight"], state["kv.weight"]]))


def test_one_tensor_becomes_several():
    state = {"in_proj_weight": counted(6, 3), "in_proj_bias": counted(6)}
    rules = [*split("in_proj_weight", ["q.weight", "kv.weight"], (1, 2)),
             *split("in_proj_bias", ["q.bias", "kv.bias"], (1, 2))]  # fmt: skip
    native = converted(state, {"q.weight": (2, 3), "kv.weight": (4, 3), "q.bias": (2,), "kv.bias": (4,)}, rules)
    assert torch.equal(native["q.weight"], state["in_proj_weight"][:2])
    assert torch.equal(native["kv.weight"], state["in_proj_weight"][2:])
    assert native["kv.weight"].untyped_storage().nbytes() == 4 * 3 * 4


def test_parts_may_be_changed():
    state = {"query.kernel": counted(3, 2, 2), "key.kernel": counted(3, 2, 2, start=50)}
    # a kernel (in, heads, size) as the weight (heads * size, in) of a linear layer
    change = Steps((Reshape(original=(0, 2, 2), native=(0, -1)), Permute((1, 0))))
    native = converted(state, {"qk.weight": (8, 3)}, join(["query.kernel", "key.kernel"], "qk.weight", change=change))
    assert torch.equal(native["qk.weight"][:4], state["query.kernel"].flatten(1).T)


def problems(state, expected, rules):
    expected = {f"ours.{name}": torch.empty(shape, device="meta") for name, shape in expected.items()}
    state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    _, account = match_weights(state, components(*rules), expected)
    with pytest.raises(ConversionError) as caught:
        account.raise_for_problems("a.pth")
    return str(caught.value)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.query.weight": (2, 3), "0.value.weight": (2, 3)}, "missing: backbone.0.key.weight"),
        ({}, "missing: backbone.0.query.weight"),
        (
            {"0.query.weight": (2, 3), "0.key.weight": (3, 3), "0.value.weight": (2, 3)},
            "wrong shape: backbone.0.key.weight: 3x3 in the checkpoint, 2x3 by the config",
        ),
    ],
)
def test_joined_tensors_that_do_not_fit(state, message):
    state = {key: torch.zeros(shape) for key, shape in state.items()}
    found = problems(state, {"0.qkv.weight": (6, 3)}, join(QKV, "{}.qkv.{}"))
    assert found.splitlines()[1:] == [f"  {message}"]


@pytest.mark.parametrize("shape", [(9, 3), (7, 3), (6, 4)])
def test_split_tensors_that_do_not_fit(shape):
    rules = split("qkv.{}", ["q.{}", "kv.{}"], (1, 2))
    found = problems({"qkv.weight": torch.zeros(shape)}, {"q.weight": (2, 3), "kv.weight": (4, 3)}, rules)
    shown = "x".join(map(str, shape))
    assert f"wrong shape: backbone.qkv.weight: {shown} in the checkpoint, 6x3 by the config" in found


def test_tensors_of_another_shape_than_a_change_is_for():
    found = problems(
        {"a.weight": torch.zeros(6, 4, 3, 3)}, {"b.weight": (6, 4)}, [KeyRule("a.{}", "b.{}", change=POINTWISE)]
    )
    assert "a.weight: 6x4x3x3 in the checkpoint, 6x4x1x1 by the config" in found


def test_a_part_without_the_others_does_not_go_back():
    with pytest.raises(KeyError):
        original_state_dict(
            {"ours.q.weight": torch.zeros(2, 3)}, components(*split("qkv.{}", ["q.{}", "kv.{}"], (1, 2)))
        )

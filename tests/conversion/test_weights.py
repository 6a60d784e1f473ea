"""Renaming of state dicts: keys that fit, that are given twice, and that do not belong."""

import pytest
import torch
from transformers import PreTrainedConfig

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.translation import ComponentKeys
from segzoo.conversion.weights import match_weights, original_state_dict

RULES = [
    KeyRule("key_project.{}", "key.{}"),
    KeyRule("query_project.{}", "key.{}", alias=True),
    KeyRule("one.{}", "value.{}"),
    KeyRule("two.{}", "value.{}"),
    KeyRule("unused.{}", None),
]
COMPONENTS = [ComponentKeys("decode_head.", "decode_heads.0.", KeyTable(RULES), "ANNHead", PreTrainedConfig())]
KEY, QUERY = "decode_head.key_project.weight", "decode_head.query_project.weight"
EXPECTED = {
    "decode_heads.0.key.weight": torch.empty(2, 3, device="meta"),
    "decode_heads.0.value.weight": torch.empty(4, device="meta"),
}


def state(**changes):
    shared = torch.arange(6.0).reshape(2, 3)
    return {KEY: shared, QUERY: shared.clone(), "decode_head.one.weight": torch.ones(4)} | changes


def match(original):
    return match_weights(original, COMPONENTS, EXPECTED)


def test_a_tensor_with_two_names_is_taken_once_and_written_back_twice():
    native, account = match(state())
    assert native.keys() == EXPECTED.keys()
    assert account.renamed == {
        KEY: "decode_heads.0.key.weight",
        QUERY: "decode_heads.0.key.weight",
        "decode_head.one.weight": "decode_heads.0.value.weight",
    }
    account.raise_for_problems("a.pth")
    back = original_state_dict(native, COMPONENTS)
    assert back.keys() == state().keys() and all(torch.equal(back[key], state()[key]) for key in back)


def test_one_of_two_names_is_enough():
    """A safetensors file holds a shared tensor once."""
    for lacking in (KEY, QUERY):
        original = state()
        del original[lacking]
        native, account = match(original)
        account.raise_for_problems("a.pth")
        assert torch.equal(native["decode_heads.0.key.weight"], state()[KEY])


def test_none_of_two_names_is_one_missing_tensor():
    original = state()
    del original[KEY], original[QUERY]
    with pytest.raises(ConversionError, match=f"(?s)1 missing.*missing: {KEY}") as caught:
        match(original)[1].raise_for_problems("a.pth")
    assert QUERY not in str(caught.value)


@pytest.mark.parametrize("order", [(KEY, QUERY), (QUERY, KEY)])
@pytest.mark.parametrize("other", [torch.zeros(2, 3), torch.arange(6.0)], ids=["values", "shape"])
def test_two_names_with_different_values(order, other):
    original = state(**{QUERY: other})
    original = {key: original[key] for key in (*order, "decode_head.one.weight")}
    with pytest.raises(ConversionError, match="a.pth: .*two names of one tensor") as caught:
        match(original)[1].raise_for_problems("a.pth")
    assert KEY in str(caught.value) and QUERY in str(caught.value)


def test_two_originals_of_one_weight_are_named():
    with pytest.raises(ConversionError, match="given twice: decode_head.two.weight"):
        match(state(**{"decode_head.two.weight": torch.ones(4)}))[1].raise_for_problems("a.pth")


def test_every_key_is_accounted_for():
    original = state(**{"decode_head.unused.weight": torch.ones(1), "neck.weight": torch.ones(1)})
    account = match(original)[1]
    assert account.left_out == ["decode_head.unused.weight"] and account.unexpected == ["neck.weight"]


def test_parts_of_larger_storages_are_cut_out():
    native, _ = match(state(**{"decode_head.one.weight": torch.ones(1000, 4)[7]}))
    assert native["decode_heads.0.value.weight"].untyped_storage().nbytes() == 4 * 4


def test_keys_that_share_a_tensor_get_one_each():
    tensor = torch.arange(4.0)
    expected = {"one.a": torch.empty(4, device="meta"), "one.b": torch.empty(2, 2, device="meta")}
    table = KeyTable([KeyRule("{}", "one.{}")])
    components = [ComponentKeys("", "", table, "Any", PreTrainedConfig())]
    native, account = match_weights({"a": tensor, "b": tensor.view(2, 2)}, components, expected)
    account.raise_for_problems("a.pth")
    assert native["one.a"].data_ptr() != native["one.b"].data_ptr() and torch.equal(native["one.b"].view(4), tensor)

"""Key rules rename tensors in both directions, and rules that cannot work are errors."""

import pytest

import segzoo.conversion.rules  # noqa: F401  registers every rule
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import HeadRule, KeyRule, KeyTable, find_rule, register

TABLE = KeyTable(
    [
        KeyRule("stem.0.{}", "stem.conv.{}"),
        KeyRule("layers.{}.unused.{}", None),
        KeyRule("layers.{}.0.{}", "stages.{}.conv.{}"),
        KeyRule("tail.{}", "tail.{}"),
    ]
)


@pytest.mark.parametrize(
    ("original", "native"),
    [
        ("stem.0.weight", "stem.conv.weight"),
        ("layers.3.0.bias", "stages.3.conv.bias"),
        ("layers.3.blocks.12.0.weight", "stages.3.blocks.12.conv.weight"),
        ("tail.a.b.c", "tail.a.b.c"),
    ],
)
def test_renaming_goes_both_ways(original, native):
    assert TABLE.to_native(original) == native
    assert TABLE.to_original(native) == original


@pytest.mark.parametrize("key", ["stem.1.weight", "stem.0", "astem.0.weight", "tail", "layers.3.1.bias"])
def test_unknown_keys_have_no_name(key):
    assert TABLE.find(key) == (None, None)


def test_dots_are_dots_and_not_any_character():
    assert KeyTable([KeyRule("a.b", "c.d")]).to_native("axb") is None


def test_left_out_keys_are_known_but_have_no_native_name():
    rule, native = TABLE.find("layers.0.unused.weight")
    assert rule is TABLE.rules[1] and native is None


def test_first_rule_wins():
    table = KeyTable([KeyRule("a.b.{}", "special.{}"), KeyRule("a.{}", "general.{}")])
    assert table.to_native("a.b.weight") == "special.weight"
    assert table.to_native("a.c.weight") == "general.c.weight"


@pytest.mark.parametrize(("original", "native"), [("a{}.b", "c.{}"), ("a.{}", "b"), ("a", "b.{}")])
def test_malformed_rules_are_refused(original, native):
    with pytest.raises(ValueError, match="key rule"):
        KeyRule(original, native)


def test_an_alias_is_a_second_name():
    first, alias = KeyRule("key_project.{}", "key.{}"), KeyRule("query_project.{}", "key.{}", alias=True)
    for table in (KeyTable([first, alias]), KeyTable([alias, first])):
        assert table.to_native("query_project.0.weight") == table.to_native("key_project.0.weight") == "key.0.weight"
        assert table.to_originals("key.0.weight") == ["key_project.0.weight", "query_project.0.weight"]
        assert table.to_original("key.0.weight") == "key_project.0.weight"
    with pytest.raises(ValueError, match="alias needs a native name"):
        KeyRule("query_project.{}", None, alias=True)


def test_rules_of_a_component_inside_another():
    rule = KeyRule("layers.{}.0.{}", "stages.{}.{}", alias=True)
    assert rule.inside("backbone.", "inner.") == KeyRule("backbone.layers.{}.0.{}", "inner.stages.{}.{}", alias=True)
    assert KeyRule("unused.{}", None).inside("backbone.", "inner.") == KeyRule("backbone.unused.{}", None)


def test_a_type_has_one_rule():
    with pytest.raises(ValueError, match="FCNHead"):
        register(HeadRule(types=("FCNHead",), translate=lambda o, c: None, keys=()))


@pytest.mark.parametrize("name", ["FCNHead", "mmseg.FCNHead"])
def test_rules_are_found_with_and_without_scope(name):
    assert "FCNHead" in find_rule("head", {"type": name}, "model.decode_head").types


def test_an_unknown_type_is_named_with_the_nearest():
    with pytest.raises(ConversionError, match="model.decode_head: head type 'FCNHeed'.*did you mean FCNHead"):
        find_rule("head", {"type": "FCNHeed"}, "model.decode_head")

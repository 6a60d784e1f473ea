"""The key-rule engine and the accounting of options."""

import pytest

import segzoo.conversion.rules  # noqa: F401  registers every rule
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import HeadRule, KeyRule, KeyTable, Options, find_rule, register, type_name

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


def test_a_type_has_one_rule():
    with pytest.raises(ValueError, match="FCNHead"):
        register(HeadRule(types=("FCNHead",), translate=lambda o, c: None, keys=()))


@pytest.mark.parametrize("name", ["FCNHead", "mmseg.FCNHead"])
def test_rules_are_found_with_and_without_scope(name):
    assert "FCNHead" in find_rule("head", {"type": name}, "model.decode_head").types


def test_an_unknown_type_is_named_with_the_nearest():
    with pytest.raises(ConversionError, match="model.decode_head: head type 'FCNHeed'.*did you mean FCNHead"):
        find_rule("head", {"type": "FCNHeed"}, "model.decode_head")


@pytest.mark.parametrize("value", [None, [], {"depth": 50}, {"type": 3}])
def test_a_component_needs_a_type(value):
    with pytest.raises(ConversionError, match="model.backbone"):
        type_name(value, "model.backbone")


class TestOptions:
    def options(self, **entries):
        return Options({"type": "X", **entries}, "model.x")

    def test_everything_must_be_accounted_for(self):
        options = self.options(a=1, b=2, odd=3, other=[4])
        assert options.take("a") == 1
        options.ignore("b", "absent")
        with pytest.raises(ConversionError, match=r"model.x: unknown options odd=3, other=\[4\]"):
            options.finish()

    def test_defaults_and_missing_options(self):
        assert self.options().take("a", 5) == 5
        with pytest.raises(ConversionError, match="model.x: the option 'a' is missing"):
            self.options().take("a")

    def test_expect(self):
        assert self.options(style="caffe").expect("style", "pytorch", "caffe") == "caffe"
        assert self.options().expect("style", "pytorch") == "pytorch"
        assert self.options(pair=(1, 2)).expect("pair", [1, 2]) == [1, 2]
        with pytest.raises(ConversionError, match="style='odd' is not supported"):
            self.options(style="odd").expect("style", "pytorch")

    def test_norms(self):
        assert self.options(norm_cfg={"type": "SyncBN", "eps": 1e-3}).norm_eps() == 1e-3
        assert self.options(norm_cfg=None).norm_eps() is None
        assert self.options().norm_eps("norm_cfg", {"type": "BN"}) == 1e-5
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: norm type 'GN'"):
            self.options(norm_cfg={"type": "GN", "num_groups": 32}).norm_eps()
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: unknown option odd=1"):
            self.options(norm_cfg={"type": "BN", "odd": 1}).norm_eps()

    def test_activations(self):
        self.options(act_cfg={"type": "ReLU", "inplace": True}).expect_relu()
        self.options().expect_relu()
        for odd in (None, {"type": "GELU"}):
            with pytest.raises(ConversionError, match="only ReLU"):
                self.options(act_cfg=odd).expect_relu()

"""The key-rule engine and the accounting of options."""

import pytest

import segzoo.conversion.rules  # noqa: F401  registers every rule
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import HeadRule, KeyRule, KeyTable, find_rule, register
from segzoo.conversion.options import Options, type_name

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
        assert self.options(norm_cfg={"type": "SyncBN", "eps": 1e-3}).norm() == {
            "norm": "batch_norm",
            "norm_eps": 1e-3,
        }
        group = {"type": "GN", "num_groups": 32, "requires_grad": True}
        assert self.options(norm_cfg=group).norm() == {"norm": "group_norm", "norm_eps": 1e-5}
        assert self.options(norm_cfg=None).norm() == self.options().norm() == {"norm": None}
        assert self.options().norm(default={"type": "BN"}) == {"norm": "batch_norm", "norm_eps": 1e-5}
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: norm type 'IN'"):
            self.options(norm_cfg={"type": "IN"}).norm()
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: the option 'num_groups' is missing"):
            self.options(norm_cfg={"type": "GN"}).norm()
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: unknown option odd=1"):
            self.options(norm_cfg={"type": "BN", "odd": 1}).norm()

    def test_norms_that_must_be_batch_norms(self):
        assert self.options(norm_cfg={"type": "SyncBN", "eps": 1e-3}).batch_norm_eps() == 1e-3
        assert self.options().batch_norm_eps() == 1e-5
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: norm type 'GN'.*BN"):
            self.options(norm_cfg={"type": "GN", "num_groups": 32}).batch_norm_eps()
        with pytest.raises(ConversionError, match=r"model.x: .*without normalisation"):
            self.options(norm_cfg=None).batch_norm_eps()

    @pytest.mark.parametrize(
        ("original", "name"),
        [
            ({"type": "ReLU", "inplace": True}, "relu"),
            ({"type": "mmcv.HSwish"}, "hardswish"),
            ({"type": "LeakyReLU", "negative_slope": 0.01}, "leaky_relu"),
        ],
    )
    def test_activations(self, original, name):
        assert self.options(act_cfg=original).activation() == name

    def test_the_activation_where_the_config_names_none(self):
        assert self.options().activation() == "relu"
        assert self.options().activation(default="ReLU6", only="ReLU6") == "relu6"

    def test_activations_that_are_not_supported(self):
        for odd in (None, {"type": "Sigmoid"}):
            with pytest.raises(ConversionError, match="model.x.act_cfg: activation .*only ReLU, ReLU6"):
                self.options(act_cfg=odd).activation()
        with pytest.raises(ConversionError, match="only ReLU6"):
            self.options(act_cfg={"type": "ReLU"}).activation(only="ReLU6")

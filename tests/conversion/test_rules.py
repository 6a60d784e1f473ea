"""What rules can express: tables of options, norms and activations, nested components, two names of one tensor."""

import pytest
import torch
from conversion import tiny
from parity import synthesis
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation

from segzoo import AutoHead
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import RULES, BackboneRule, Context, HeadRule, KeyRule, nested, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import CLASSIFIER, conv_module, head_rule
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import original_state_dict
from segzoo.heads import FCNHeadConfig, UPerHeadConfig

PIXELS = torch.linspace(-1, 1, 3 * 40 * 48).reshape(1, 3, 40, 48)
FCN_KEYS = (*conv_module("convs.{}"), *conv_module("conv_cat"))


@pytest.fixture
def added():
    """Registers rules, which are forgotten after the test."""
    rules = []
    yield rules.append
    for rule in rules:
        for name in rule.types:
            del RULES[rule.kind][name]


def converted(tmp_path, values, state=None):
    """(folder, report) of a checkpoint that is written and converted."""
    path = tiny.save(tmp_path / "original.pth", values, state=state)
    done = convert_checkpoint(path, output=tmp_path / "model")
    return done.folder, done.report


def logits(folder):
    with torch.no_grad():
        return AutoModelForSemanticSegmentation.from_pretrained(folder).eval()(PIXELS).logits


class Original:
    """The layers of an original head, in plain torch, on the state dict of its checkpoint in float64."""

    def __init__(self, state, norm, eps, activation):
        self.state = {key: value.double() for key, value in state.items()}
        self.norm, self.eps, self.activation = norm, eps, activation

    def conv_module(self, name, x):
        weight, bias = self.state[f"{name}.conv.weight"], self.state.get(f"{name}.conv.bias")
        x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        if self.norm == "gn":
            x = F.group_norm(x, 32, self.state[f"{name}.gn.weight"], self.state[f"{name}.gn.bias"], self.eps)
        elif self.norm == "bn":
            mean, variance = (self.state[f"{name}.bn.running_{part}"] for part in ("mean", "var"))
            x = F.batch_norm(
                x, mean, variance, self.state[f"{name}.bn.weight"], self.state[f"{name}.bn.bias"], eps=self.eps
            )
        return self.activation(x)

    def classify(self, x):
        return F.conv2d(x, self.state["decode_head.conv_seg.weight"], self.state["decode_head.conv_seg.bias"])


def head_state(norm, width, convolutions):
    """The checkpoint's state dict: the backbone's, and a head of this width of these convolutions, ``name: (out, in, side)``."""
    state = {key: value for key, value in tiny.state_dict(tiny.config()).items() if key.startswith("backbone.")}
    shapes = {"conv_seg.weight": (4, width, 1, 1), "conv_seg.bias": (4,)}
    for name, (out, into, side) in convolutions.items():
        shapes[f"{name}.conv.weight"] = (out, into, side, side)
        if norm is None:
            shapes[f"{name}.conv.bias"] = (out,)
            continue
        parts = ("weight", "bias", "running_mean", "running_var") if norm == "bn" else ("weight", "bias")
        shapes |= {f"{name}.{norm}.{part}": (out,) for part in parts}
    return state | {f"decode_head.{k}": synthesis.tensor(f"decode_head.{k}", shape) for k, shape in shapes.items()}


GROUP = {"type": "GN", "num_groups": 32, "requires_grad": True}
STYLES = [
    (GROUP, {"type": "GELU"}, "gn", 1e-5, F.gelu),
    (GROUP | {"eps": 1e-2}, {"type": "LeakyReLU"}, "gn", 1e-2, F.leaky_relu),
    (None, {"type": "ReLU"}, None, None, F.relu),
    (None, {"type": "Swish"}, None, None, lambda x: x * x.sigmoid()),
    ({"type": "SyncBN", "eps": 1e-2}, {"type": "HSwish"}, "bn", 1e-2, lambda x: x * F.relu6(x + 3) / 6),
    ({"type": "BN"}, {"type": "ReLU6", "inplace": True}, "bn", 1e-5, F.relu6),
    ({"type": "BN"}, {"type": "SiLU"}, "bn", 1e-5, lambda x: x * x.sigmoid()),
]


def check_numbers(tmp_path, head, state, expected):
    values = tiny.config(model__decode_head=head)
    folder, report = converted(tmp_path, values, state)
    assert report.keys.renamed.keys() == state.keys()
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).double().eval()
    with torch.no_grad():
        maps, _ = model.forward_maps(PIXELS.double())
        found, wanted = model(PIXELS.double()).logits, expected(maps)
    assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-12 * wanted.abs().max()
    components = translate_config(values).components
    back = original_state_dict(load_file(folder / "model.safetensors"), components)
    counters = {key for key in back if key.endswith("num_batches_tracked")}
    assert back.keys() - counters == state.keys() - counters
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(("norm_cfg", "act_cfg", "norm", "eps", "activation"), STYLES)
def test_an_fcn_head_of_every_norm_and_activation(norm_cfg, act_cfg, norm, eps, activation, tmp_path):
    head = tiny.MODEL["decode_head"] | {"channels": 32, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
    state = head_state(norm, 32, {"convs.0": (32, 64, 3), "conv_cat": (32, 96, 3)})
    original = Original(state, norm, eps, activation)

    def expected(maps):
        features = original.conv_module("decode_head.convs.0", maps[3])
        fused = original.conv_module("decode_head.conv_cat", torch.cat([maps[3], features], 1))
        return original.classify(fused)

    check_numbers(tmp_path, head, state, expected)


@pytest.mark.parametrize(("norm_cfg", "act_cfg", "norm", "eps", "activation"), STYLES[:3])
def test_a_psp_head_of_other_norms(norm_cfg, act_cfg, norm, eps, activation, tmp_path):
    head = {**tiny.MODEL["decode_head"], "type": "PSPHead", "pool_scales": (1, 2), "channels": 64}
    head |= {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
    del head["num_convs"]
    convolutions = {"psp_modules.0.1": (64, 64, 1), "psp_modules.1.1": (64, 64, 1), "bottleneck": (64, 192, 3)}
    state = head_state(norm, 64, convolutions)
    original = Original(state, norm, eps, activation)

    def expected(maps):
        parts, size = [maps[3]], maps[3].shape[2:]
        for i, side in enumerate((1, 2)):
            grid = original.conv_module(f"decode_head.psp_modules.{i}.1", F.adaptive_avg_pool2d(maps[3], side))
            parts.append(F.interpolate(grid, size, mode="bilinear", align_corners=False))
        return original.classify(original.conv_module("decode_head.bottleneck", torch.cat(parts, 1)))

    check_numbers(tmp_path, head, state, expected)


class TestTables:
    def test_options_fixed_and_expected(self, added):
        added(
            head_rule(
                "ToyHead",
                config=FCNHeadConfig,
                options={"num_convs": 3, "dilation": 1},
                fixed={"concat_input": False},
                expected={"mode": ("plain", "usual")},
            )
        )
        head = tiny.MODEL["decode_head"] | {"type": "ToyHead", "dilation": 2, "mode": "usual"}
        del head["num_convs"]
        config = translate_config(tiny.config(model__decode_head=head)).config.decode_head_configs[0]
        assert (config.num_convs, config.dilation, config.concat_input) == (3, 2, False)
        for odd, words in (
            ({"mode": "odd"}, "mode='odd'"),
            ({"concat_input": True}, "unknown option concat_input=True"),
        ):
            with pytest.raises(ConversionError, match=f"model.decode_head: {words}"):
                translate_config(tiny.config(model__decode_head=head | odd))

    def test_the_config_says_whether_a_head_reads_several_maps(self, added):
        """EncHead and ANNHead take lists without an input_transform."""
        added(head_rule("SeveralHead", config=UPerHeadConfig))
        head = {**tiny.MODEL["decode_head"], "type": "SeveralHead", "in_channels": (32, 64), "in_index": (2, 3)}
        del head["num_convs"]
        config = translate_config(tiny.config(model__decode_head=head)).config.decode_head_configs[0]
        assert config.in_channels == [32, 64] and config.in_index == [2, 3]
        with pytest.raises(ConversionError, match="input_transform='resize_concat' does not fit"):
            translate_config(tiny.config(model__decode_head=head | {"input_transform": "resize_concat"}))


def test_a_head_takes_its_test_settings(added):
    """As PointRend's, which stand in the model's test_cfg."""

    def translate(original, context):
        options = Options(original, context.where)
        options.ignore(*(name for name in original if name != "type"))
        steps = context.test_cfg.take("subdivision_steps")
        return FCNHeadConfig(in_channels=[64], in_index=[3], channels=8, num_convs=steps, num_labels=4)

    added(register(HeadRule(types=("RefiningHead",), translate=translate, keys=(*FCN_KEYS, *CLASSIFIER))))
    values = tiny.config(model__decode_head__type="RefiningHead")
    for test_cfg in ({"mode": "whole"}, {"mode": "slide", "crop_size": 32, "stride": 16}):
        values["model"]["test_cfg"] = test_cfg | {"subdivision_steps": 3}
        assert translate_config(values).config.decode_head_configs[0].num_convs == 3
        values["model"]["test_cfg"]["odd"] = 1
        with pytest.raises(ConversionError, match="model.test_cfg: unknown option odd=1"):
            translate_config(values)


class TestNested:
    """A wrapper whose backbone is a dict inside it, as ICNet's and BiSeNet's are."""

    @pytest.fixture
    def wrapper(self, added):
        def translate(original, context):
            options = Options(original, context.where)
            place = context.at(f"{context.where}.backbone_cfg")
            inner, keys = nested("backbone", options.take("backbone_cfg"), place, "context.backbone.", "")
            options.finish()
            return inner, keys

        rule = BackboneRule(types=("Wrapper",), translate=translate, keys=(KeyRule("gone.{}", None),))
        added(register(rule))

    @pytest.mark.parametrize("kind", ["ResNetV1c", "ResNet"])  # whose keys depend on their config
    def test_weights_go_there_and_back(self, kind, wrapper, tmp_path):
        plain = tiny.config(model__backbone__type=kind)
        wrapped = tiny.config(model__backbone={"type": "Wrapper", "backbone_cfg": plain["model"]["backbone"]})
        state = tiny.state_dict(plain)
        wrapped_state = {
            f"backbone.context.{key}" if key.startswith("backbone.") else key: value for key, value in state.items()
        }
        extra = {"backbone.gone.weight": torch.ones(1)}
        folder, report = converted(tmp_path, wrapped, wrapped_state | extra)
        assert report.keys.left_out == list(extra) and report.components[0] == ("Wrapper", "segzoo_resnet")
        back = original_state_dict(load_file(folder / "model.safetensors"), translate_config(wrapped).components)
        assert back.keys() == wrapped_state.keys()
        assert all(torch.equal(back[key], wrapped_state[key]) for key in back)
        (tmp_path / "plain").mkdir()
        assert torch.equal(logits(folder), logits(converted(tmp_path / "plain", plain, state)[0]))

    def test_prefixes_on_both_sides(self):
        head = tiny.MODEL["decode_head"]
        config, rules = nested(
            "head", head, Context("model.decode_head.generator"), "kernel_generate_head.", "generator."
        )
        assert isinstance(config, FCNHeadConfig) and config.channels == 8
        assert KeyRule("kernel_generate_head.conv_seg.{}", "generator.classifier.{}") in rules
        assert all(rule.original.startswith("kernel_generate_head.") for rule in rules)

    def test_errors_name_the_inner_place(self, wrapper):
        inner = tiny.MODEL["backbone"] | {"odd": 1}
        with pytest.raises(ConversionError, match="model.backbone.backbone_cfg: unknown option odd=1"):
            translate_config(tiny.config(model__backbone={"type": "Wrapper", "backbone_cfg": inner}))
        with pytest.raises(ConversionError, match="model.backbone.backbone_cfg: backbone type 'Odd'"):
            translate_config(tiny.config(model__backbone={"type": "Wrapper", "backbone_cfg": {"type": "Odd"}}))


def test_two_original_names_of_one_tensor(added, tmp_path):
    """As ANN's key_project and query_project."""
    alias = KeyRule("convs_again.{}.conv.{}", "convs.{}.conv.{}", alias=True)
    added(head_rule("TwinHead", config=FCNHeadConfig, options={"num_convs": 1}, keys=(*FCN_KEYS, alias)))
    values = tiny.config(model__decode_head__type="TwinHead")
    state = tiny.state_dict(values)
    first, second = "decode_head.convs.0.conv.weight", "decode_head.convs_again.0.conv.weight"
    state[second] = state[first].clone()
    folder, report = converted(tmp_path, values, state)
    assert report.keys.renamed[first] == report.keys.renamed[second] == "decode_heads.0.convs.0.conv.weight"
    state[second] = state[second] + 1
    (tmp_path / "odd").mkdir()
    with pytest.raises(ConversionError, match="original.pth: .*1 two names of one tensor") as caught:
        converted(tmp_path / "odd", values, state)
    assert f"{first}, {second}" in str(caught.value)


class TestOtherClasses:
    """Heads whose number of classes is not the model's."""

    def auxiliary(self, count):
        head = tiny.MODEL["decode_head"] | {"in_channels": 32, "in_index": 2, "num_classes": count}
        return head | {"loss_decode": tiny.LOSS | {"loss_weight": 0.4}}

    def test_an_auxiliary_head_keeps_its_own(self, tmp_path):
        values = tiny.config(model__auxiliary_head=[self.auxiliary(4), self.auxiliary(7)])
        state = tiny.state_dict(values)
        assert state["auxiliary_head.1.conv_seg.weight"].shape[0] == 7
        folder, report = converted(tmp_path, values, state)
        note = "model.auxiliary_head.1: it has 7 classes and the model 4"
        assert sum(note in line for line in report.notes) == 1 and note in (folder / "README.md").read_text()
        back = original_state_dict(load_file(folder / "model.safetensors"), translate_config(values).components)
        assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)

        model = AutoModelForSemanticSegmentation.from_pretrained(folder)
        assert [c.own_outputs for c in model.config.auxiliary_head_configs] == [None, 7]
        assert model.config.num_labels == 4 and model.config.id2label[3] == "tree"
        output = model.train()(torch.cat([PIXELS, PIXELS]), labels=torch.ones(2, 40, 48, dtype=torch.int64))
        assert output.losses.keys() == {"decode_0.cross_entropy", "auxiliary_0.cross_entropy"}
        output.loss.backward()
        trained = [head.classifier.weight.grad is not None for head in model.auxiliary_heads]
        assert output.loss.isfinite() and trained == [True, False]

    def test_class_weights_are_those_of_the_head(self, tmp_path):
        head = self.auxiliary(3) | {"loss_decode": tiny.LOSS | {"class_weight": [1.0, 2.0, 3.0]}}
        folder, _ = converted(tmp_path, tiny.config(model__auxiliary_head=head))
        model = AutoModelForSemanticSegmentation.from_pretrained(folder)
        assert model.auxiliary_heads[0].losses[0].class_weights == (1.0, 2.0, 3.0)

    def test_weights_of_a_third_number_are_an_error(self, tmp_path):
        state = tiny.state_dict(tiny.config(model__auxiliary_head=self.auxiliary(5)))
        with pytest.raises(
            ConversionError, match="the config has 7 classes, the weights of auxiliary_head.conv_seg 5"
        ):
            converted(tmp_path, tiny.config(model__auxiliary_head=self.auxiliary(7)), state)

    def test_a_decode_head_whose_outputs_are_no_classes(self, added, tmp_path):
        """As STDC's boundary head: its own number by nature, and no part of the class count."""
        fixed = {"own_outputs": 2}
        added(head_rule("EdgeHead", config=FCNHeadConfig, options={"num_convs": 1}, fixed=fixed, keys=FCN_KEYS))
        head = tiny.MODEL["decode_head"]
        edge = head | {"type": "EdgeHead", "num_classes": 2}
        values = tiny.config(model__type="CascadeEncoderDecoder", model__decode_head=[edge, head])
        folder, report = converted(tmp_path, values)
        assert not [note for note in report.notes if "classes and the model" in note]
        model = AutoModelForSemanticSegmentation.from_pretrained(folder)
        assert [head.classifier.out_channels for head in model.decode_heads] == [2, 4]
        assert logits(folder).shape[1] == 4


def test_a_head_without_activations():
    values = tiny.config(model__decode_head=tiny.MODEL["decode_head"] | {"act_cfg": None})
    head = translate_config(values).config.decode_head_configs[0]
    assert head.activation is None
    model = AutoHead.from_config(head).eval()
    maps = [torch.randn(1, 64, 4, 4) for _ in range(4)]
    assert (model.convs[0](maps[3]) < 0).any()

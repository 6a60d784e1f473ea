"""Classification checkpoints of InternImage, synthesised in their real layout, become backbones to train from."""

import re
import sys
import types

import pytest
import torch
from parity import synthesis
from safetensors.torch import save_file
from transformers import AutoConfig

from segzoo import AutoBackbone
from segzoo.backbones.internimage import VARIANTS, InternImageBackbone, InternImageConfig
from segzoo.commands.cli import main
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.pretrained.internimage import config_from_weights, translate_internimage
from segzoo.conversion.rules.internimage import keys
from segzoo.data.classes import ClassFacts
from segzoo.training import ModelOptions, NewModel, build_model


def layout(config: InternImageConfig, *, scales=True, classes=10):
    """Names and shapes of a classifier's state dict, in the words of its repository."""
    shapes = {}

    def linear(name, outputs, inputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    width, points = config.channels, 9 - config.remove_center
    shapes["patch_embed.conv1.weight"], shapes["patch_embed.conv1.bias"] = (width // 2, 3, 3, 3), (width // 2,)
    norm("patch_embed.norm1.1", width // 2)
    shapes["patch_embed.conv2.weight"], shapes["patch_embed.conv2.bias"] = (width, width // 2, 3, 3), (width,)
    norm("patch_embed.norm2.1", width)
    for stage, (depth, groups) in enumerate(zip(config.depths, config.groups, strict=True)):
        wide = width * 2**stage
        for block in range(depth):
            at = f"levels.{stage}.blocks.{block}"
            if scales and config.layer_scale is not None:
                shapes[f"{at}.gamma1"] = shapes[f"{at}.gamma2"] = (wide,)
            norm(f"{at}.norm1.0", wide)
            kernel = config.depthwise_kernel_size
            shapes[f"{at}.dcn.dw_conv.0.weight"], shapes[f"{at}.dcn.dw_conv.0.bias"] = (
                (wide, 1, kernel, kernel),
                (wide,),
            )
            norm(f"{at}.dcn.dw_conv.1.1", wide)
            linear(f"{at}.dcn.offset", groups * points * 2, wide)
            linear(f"{at}.dcn.mask", groups * points, wide)
            linear(f"{at}.dcn.input_proj", wide, wide)
            linear(f"{at}.dcn.output_proj", wide, wide)
            if config.center_feature_scale:
                shapes[f"{at}.dcn.center_feature_scale_proj_weight"] = (groups, wide)
                shapes[f"{at}.dcn.center_feature_scale_proj_bias"] = (groups,)
            norm(f"{at}.norm2.0", wide)
            linear(f"{at}.mlp.fc1", int(wide * config.mlp_ratio), wide)
            linear(f"{at}.mlp.fc2", wide, int(wide * config.mlp_ratio))
            if config.residual_post_norm:
                norm(f"{at}.res_post_norm1.0", wide)
                norm(f"{at}.res_post_norm2.0", wide)
        if not config.post_norm or config.center_feature_scale:
            norm(f"levels.{stage}.norm.0", wide)
        if stage == 2:
            for i in range(len(config.post_norm_blocks)):
                norm(f"levels.2.post_norms.{i}.0", wide)
        if stage < len(config.depths) - 1:
            shapes[f"levels.{stage}.downsample.conv.weight"] = (2 * wide, wide, 3, 3)
            norm(f"levels.{stage}.downsample.norm.1", 2 * wide)
    last = width * 8
    if not config.center_feature_scale:
        shapes["conv_head.0.weight"] = (int(last * 1.5), last, 1, 1)
        norm("conv_head.1.0", int(last * 1.5))
        shapes["conv_head.1.0.running_mean"] = shapes["conv_head.1.0.running_var"] = (int(last * 1.5),)
        linear("head", classes, int(last * 1.5))
        return shapes
    inner = 16
    shapes["dcnv3_head_x4.0.weight"], shapes["dcnv3_head_x4.0.bias"] = (inner * 4, last, 1, 1), (inner * 4,)
    shapes["dcnv3_head_x3.weight"], shapes["dcnv3_head_x3.bias"] = (inner, last // 2, 1, 1), (inner,)
    for part in "qkv":
        norm(f"clip_projector.norm1_{part}.0", inner)
        shapes[f"clip_projector.cross_dcn.{part}_bias"] = (inner,)
        shapes[f"clip_projector.cross_dcn.{part}.weight"] = (inner, inner)
    linear("clip_projector.cross_dcn.proj", 12, inner)
    norm("fc_norm.0", 12)
    linear("head", classes, 12)
    return shapes


SMALL = {"channels": 16, "depths": [1, 1, 2, 1], "groups": [2, 4, 8, 16]}
HUGE = {
    "channels": 16,
    "depths": [1, 1, 7, 1],
    "groups": [2, 4, 8, 16],
    "center_feature_scale": True,
    "depthwise_kernel_size": 5,
    "post_norm_blocks": [5],
    "layer_scale": None,
}
CASES = {
    "pre-norm without scales, as T": (InternImageConfig(**SMALL, layer_scale=None), False),
    "post-norm with scales, as S to XL": (InternImageConfig(**SMALL, post_norm=True), True),
    "as H": (InternImageConfig(**HUGE, residual_post_norm=True), True),
    "as G": (InternImageConfig(**HUGE, post_norm=True), True),
    "without the centre point": (InternImageConfig(**SMALL, post_norm=True, remove_center=True), True),
}


def weights(config, *, scales=True):
    return {name: synthesis.tensor(name, shape) for name, shape in layout(config, scales=scales).items()}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request, tmp_path):
    config, scales = request.param
    state = weights(config, scales=scales)
    torch.save({"model": state}, tmp_path / "internimage_x_22k_192to384.pth")
    return config, state, tmp_path / "internimage_x_22k_192to384.pth"


def test_the_backbone_is_the_classifiers(case, tmp_path):
    config, state, path = case
    report = convert_checkpoint(path, output=tmp_path / "out").report
    backbone = AutoBackbone.from_pretrained(tmp_path / "out").eval()
    told = "channels depths groups mlp_ratio depthwise_kernel_size offset_scale remove_center center_feature_scale post_norm"
    for name in (*told.split(), "residual_post_norm", "post_norm_blocks", "layer_scale"):
        assert getattr(backbone.config, name) == getattr(config, name), name

    expected, table = InternImageBackbone(config).eval(), KeyTable(keys(config))
    expected.load_state_dict({new: state[old] for old in state if (new := table.to_native(old)) is not None})
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        found, wanted = backbone(pixels).feature_maps, expected(pixels).feature_maps
    assert len(found) == 4 and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    classifier = [key for key in state if not key.startswith(("patch_embed", "levels"))]
    assert report.keys.left_out == classifier and len(classifier) > 3
    assert any(classifier[0] in note and f"{len(classifier)} tensors" in note for note in report.notes)
    assert report.keys.renamed.keys() == state.keys() - set(classifier)
    card = (tmp_path / "out/README.md").read_text()
    assert path.name in card and report.sha256 in card


@pytest.mark.parametrize("name", VARIANTS)
def test_the_released_sizes(name):
    """What names and shapes do not tell comes from the variant; on the meta device, for they are large."""
    config = InternImageConfig(**VARIANTS[name])
    scales = name != "internimage-t"  # the classifier of T has none
    state = {key: torch.empty(shape, device="meta") for key, shape in layout(config, scales=scales).items()}
    found, notes = config_from_weights(state)
    assert found.to_dict() == config.to_dict() and notes == []


def test_t_gets_scales_of_one(monkeypatch, tmp_path):
    """The original's segmentation configs give T layer scales, which its classifier does not have."""
    monkeypatch.setitem(VARIANTS, "toy", SMALL | {"drop_path_rate": 0.2})
    config = InternImageConfig(**SMALL, layer_scale=None)
    torch.save({"model": weights(config)}, tmp_path / "t.pth")
    report = convert_checkpoint(tmp_path / "t.pth", output=tmp_path / "out").report
    assert any("layer scales" in note for note in report.notes)
    backbone = AutoBackbone.from_pretrained(tmp_path / "out")
    found = {n: p for n, p in backbone.named_parameters() if n.endswith(".scale")}
    assert len(found) == 2 * 5 and all((p == 1).all() for p in found.values())
    assert backbone.config.drop_path_rate == 0.2


@pytest.mark.parametrize("form", ["averages", "bare", "on the hub"])
def test_other_forms_of_the_file(form, tmp_path):
    config = InternImageConfig(**SMALL, post_norm=True)
    state, path = weights(config), tmp_path / "a.pth"
    if form == "averages":
        wrong = {key: value * 0 for key, value in state.items()}
        torch.save({"model": wrong, "model_ema": state, "epoch": 3, "max_accuracy": 83.5}, path)
    elif form == "bare":
        torch.save(state, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file({f"model.{re.sub('gamma', 'layer_scale', key)}": value for key, value in state.items()}, path)
    done = convert_checkpoint(path, output=tmp_path / "out", ema=form == "averages")
    backbone = AutoBackbone.from_pretrained(done.folder)
    key = "levels.0.blocks.0.dcn.offset.weight"
    assert torch.equal(backbone.stages[0].layers[0].dcn.offset.weight, state[key])


def test_a_file_of_ones_own_training(tmp_path, monkeypatch):
    """It also holds optimizer, scaler and the configuration, an object of a library that need not be there."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    node = module.CfgNode(MODEL=module.CfgNode(TYPE="intern_image"))
    node.frozen = True
    state = weights(InternImageConfig(**SMALL, post_norm=True))
    extra = {"optimizer": {"state": {}, "param_groups": []}, "amp": {"scale": 1.0}, "epoch": 3, "config": node}
    torch.save({"model": state} | extra, tmp_path / "ckpt_epoch_3.pth")
    monkeypatch.delitem(sys.modules, "yacs.config")
    assert convert_checkpoint(tmp_path / "ckpt_epoch_3.pth", output=tmp_path / "out").report.keys.renamed


def test_training_starts_from_the_folder(tmp_path):
    config = InternImageConfig(**SMALL, post_norm=True)
    state = weights(config)
    torch.save({"model": state}, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "--output", str(tmp_path / "out")]) == 0
    classes = ClassFacts({0: "a", 1: "b"}, [[0, 0, 0], [9, 9, 9]])
    model = build_model(
        classes, ModelOptions(drop_path_rate=0.3), new=NewModel(str(tmp_path / "out"), head_channels=8)
    )
    found = model.backbone.stages[3].layers[0].mlp.fc1.weight
    assert torch.equal(found, state["levels.3.blocks.0.mlp.fc1.weight"])
    assert AutoConfig.from_pretrained(tmp_path / "out").model_type == "segzoo_internimage"
    assert model.config.backbone_config.drop_path_rate == 0.3


class TestFaults:
    def fails(self, tmp_path, state, match, **options):
        torch.save({"model": state}, tmp_path / "a.pth")
        with pytest.raises(ConversionError, match=match) as raised:
            convert_checkpoint(tmp_path / "a.pth", output=tmp_path / "out", **options)
        assert "a.pth" in str(raised.value) and not (tmp_path / "out").exists()

    @pytest.fixture
    def state(self):
        return weights(InternImageConfig(**SMALL, post_norm=True))

    def test_a_missing_key(self, tmp_path, state):
        del state["levels.2.blocks.1.dcn.offset.bias"]
        self.fails(tmp_path, state, "(?s)1 missing.*levels.2.blocks.1.dcn.offset.bias")

    def test_a_key_that_tells_the_shape_is_missing(self, tmp_path, state):
        del state["levels.0.blocks.0.mlp.fc1.weight"]
        self.fails(tmp_path, state, "levels.0.blocks.0.mlp.fc1.weight is missing")

    def test_an_unknown_key(self, tmp_path, state):
        self.fails(tmp_path, state | {"text_encoder.weight": torch.ones(1)}, "(?s)1 unexpected.*text_encoder.weight")

    def test_a_wrong_shape(self, tmp_path, state):
        state["levels.1.blocks.0.norm1.0.weight"] = torch.ones(5)
        self.fails(tmp_path, state, "(?s)1 wrong shape.*levels.1.blocks.0.norm1.0.weight: 5 in the checkpoint, 32 by")

    def test_not_finite(self, tmp_path, state):
        state["levels.1.blocks.0.norm1.0.weight"][3] = float("nan")
        self.fails(tmp_path, state, "NaN or infinite")

    def test_groups_that_fit_nothing(self, tmp_path, state):
        for key in ("weight", "bias"):
            state[f"levels.0.blocks.0.dcn.mask.{key}"] = state[f"levels.0.blocks.0.dcn.mask.{key}"][:7]
        self.fails(tmp_path, state, "number of groups")

    def test_options_of_whole_models(self, tmp_path, state):
        self.fails(tmp_path, state, "without a decode head", name="upernet_internimage_t_512_160k_ade20k")

    def test_translate_says_the_file(self, state):
        del state["levels.0.blocks.0.norm1.0.weight"]
        with pytest.raises(ConversionError, match=r"some\.pth: the weights do not make an InternImage"):
            translate_internimage(state, "some.pth")


def test_a_scale_under_both_of_its_names_is_refused():
    state = weights(CASES["post-norm with scales, as S to XL"][0])
    state["levels.0.blocks.0.layer_scale1"] = state["levels.0.blocks.0.gamma1"] + 1
    with pytest.raises(ConversionError, match="layer_scale1 and levels.0.blocks.0.gamma1 are the same.*given twice"):
        translate_internimage(state, "mixed.pth")

"""SegNeXt, DAFormer and DeepLabV2 in their originals' spellings: names of weights, options, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
from conversion import tiny
from parity import synthesis

from segzoo import AutoBackbone
from segzoo.backbones.mscan import VARIANTS, MSCANConfig
from segzoo.conversion import ConversionError, convert_checkpoint
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict

RECORDS = Path(__file__).parents[1] / "parity" / "records"
MSCAN = {
    "type": "MSCAN",
    "embed_dims": [8, 12, 16, 24],
    "mlp_ratios": [2, 2, 2, 2],
    "depths": [1, 1, 1, 1],
    "norm_cfg": tiny.NORM,
}
HAM = {
    "type": "LightHamHead",
    "in_channels": [12, 16, 24],
    "in_index": [1, 2, 3],
    "channels": 16,
    "ham_channels": 16,
    "num_classes": 3,
    "norm_cfg": {"type": "GN", "num_groups": 4},
    "ham_kwargs": {"MD_R": 4},
}
FUSION = {"type": "aspp", "sep": True, "dilations": (1, 6), "pool": False, "norm_cfg": tiny.NORM}
LINEAR = {"type": "mlp", "act_cfg": None, "norm_cfg": None}
DAFORMER = {
    "type": "DAFormerHead",
    "in_channels": [8, 16, 64],
    "in_index": [0, 1, 3],
    "channels": 8,
    "num_classes": 3,
    "norm_cfg": tiny.NORM,
    "decoder_params": {"embed_dims": 8, "embed_cfg": LINEAR, "embed_neck_cfg": LINEAR, "fusion_cfg": FUSION},
}
DLV2 = {"type": "DLV2Head", "in_channels": 64, "in_index": 3, "num_classes": 3, "dilations": (6, 12)}
PREPROCESSOR = {"type": "SegDataPreProcessor", "mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 3.0], "bgr_to_rgb": True}


def segnext(*, is_1x=False, backbone=(), **head):
    values = tiny.config(model__backbone=MSCAN | dict(backbone), model__decode_head=HAM | head)
    if is_1x:
        values["model"]["data_preprocessor"] = PREPROCESSOR
    return values


def head_of(values):
    return translate_config(values).config.decode_head_configs[0]


def with_head(head, **changes):
    """A config with this head; paths into it are joined by two underscores."""
    head = copy.deepcopy(head)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = head
        for name in parents:
            place = place[name]
        place[last] = value
    return tiny.config(model__decode_head=head)


@pytest.mark.parametrize("is_1x", [False, True])
def test_either_name_of_the_depthwise_convolution(is_1x):
    values = segnext(is_1x=is_1x)
    translation = translate_config(values)
    expected = build_without_weights(translation.config).state_dict()
    written = original_state_dict(expected, translation.components).keys()
    names = {True: "backbone.block2.0.mlp.dwconv.weight", False: "backbone.block2.0.mlp.dwconv.dwconv.weight"}
    assert names[is_1x] in written and names[not is_1x] not in written
    other = {True: ("mlp.dwconv.", "mlp.dwconv.dwconv."), False: ("mlp.dwconv.dwconv.", "mlp.dwconv.")}[is_1x]
    state = tiny.state_dict(values)
    assert state.keys() == written
    renamed = {key.replace(*other): value for key, value in state.items()}
    for given in (state, renamed):
        native, match = match_weights(given, translation.components, expected)
        match.raise_for_problems("tiny")
        place = "backbone.stages.1.blocks.0.mlp.depthwise_conv.weight"
        assert torch.equal(native[place], state[names[is_1x]])


def test_options_of_the_factorisation():
    both = {"MD_S": 2, "MD_R": 5, "MD_D": 512}
    authors = head_of(segnext(ham_kwargs=both | {"TRAIN_STEPS": 1, "EVAL_STEPS": 2, "INV_T": 9, "ETA": 0.5}))
    mmseg = head_of(segnext(ham_kwargs=both | {"train_steps": 1, "eval_steps": 2, "inv_t": 9, "rand_init": True}))
    for config in (authors, mmseg):
        options = (config.num_parts, config.num_bases, config.train_steps, config.eval_steps, config.norm_groups)
        assert options == (2, 5, 1, 2, 4)
    assert any("with a fixed seed" in note for note in translate_config(segnext()).notes)
    config = head_of(segnext(ham_kwargs={}, norm_cfg=tiny.NORM))
    assert (config.num_bases, config.train_steps, config.eval_steps, config.norm) == (64, 6, 7, "batch_norm")
    wide = {"channels": 512, "norm_cfg": {"type": "GN", "num_groups": 32}}
    config = head_of(segnext(**wide, ham_channels=512))
    assert (config.ham_channels, config.norm_groups) == (512, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ham_kwargs": {"rand_init": False}}, r"decode_head\.ham_kwargs: rand_init=False is not supported"),
        ({"ham_kwargs": {"RAND_INIT": False}}, "RAND_INIT=False is not supported"),
        ({"ham_kwargs": {"SPATIAL": False}}, "SPATIAL=False is not supported"),
        ({"ham_kwargs": {"MD_R": 4, "steps": 3}}, "unknown option steps=3"),
        ({"ham_kwargs": {"train_steps": 3, "TRAIN_STEPS": 4}}, "unknown option TRAIN_STEPS=4"),
        ({"backbone": {"act_cfg": {"type": "ReLU"}}}, "backbone.act_cfg: activation"),
        ({"backbone": {"in_chans": 4}}, "in_chans=4 is not supported"),
        ({"backbone": {"norm_cfg": None}}, "without normalisation"),
        ({"backbone": {"num_stages": 3}}, "num_stages=3"),
        (
            {"backbone": {"attention_kernel_sizes": [5, [1, 7], [1, 11], [3, 21]]}},
            r"attention_kernel_sizes=.*\[3, 21\]",
        ),
        ({"backbone": {"attention_kernel_sizes": [5, [1, 7]]}}, "attention_kernel_sizes="),
        ({"backbone": {"attention_kernel_paddings": [2, [0, 3], [0, 5], [0, 9]]}}, "attention_kernel_paddings="),
    ],
)
def test_what_segnext_is_refused_for(changes, message):
    with pytest.raises(ConversionError, match=message):
        translate_config(segnext(**changes))


def test_kernels_of_other_sizes():
    changes = {
        "attention_kernel_sizes": [[3], (1, 5), (1, 9), (1, 13)],
        "attention_kernel_paddings": [1, (0, 2), (0, 4), (0, 6)],
    }
    assert translate_config(segnext(backbone=changes)).config.backbone_config.kernel_sizes == [3, 5, 9, 13]


def test_the_authors_pretraining_file(tmp_path):
    record = json.loads((RECORDS / "original_segnext.tiny.512x512.ade.160k.json").read_text())
    lines = [line for line in record["keys"] if line.startswith("backbone.")]
    state = {key.removeprefix("backbone."): value for key, value in synthesis.state_dict(lines).items()}
    head = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    torch.save({"state_dict": {**state, **head}}, tmp_path / "mscan_t.pth")
    report = convert_checkpoint(tmp_path / "mscan_t.pth", output=tmp_path / "out").report
    assert report.keys.renamed.keys() == state.keys() and sorted(report.keys.left_out) == sorted(head)
    model = AutoBackbone.from_pretrained(tmp_path / "out")
    variant = MSCANConfig(**VARIANTS["mscan_t"])
    names = ("channels", "depths", "mlp_ratios", "kernel_sizes", "drop_path_rate", "num_channels")
    assert all(list_of(getattr(model.config, name)) == list_of(getattr(variant, name)) for name in names)
    assert torch.equal(
        model.stages[2].blocks[4].attention.gate.mix.weight, state["block3.4.attn.spatial_gating_unit.conv3.weight"]
    )
    del state["block4.0.mlp.fc1.weight"]
    torch.save(state, tmp_path / "mscan_t.pth")
    with pytest.raises(ConversionError, match="block4.0.mlp.fc1.weight is missing"):
        convert_checkpoint(tmp_path / "mscan_t.pth", output=tmp_path / "other")


def list_of(value):
    return list(value) if isinstance(value, tuple) else value


FUSIONS = [
    FUSION,
    FUSION | {"sep": False, "pool": True},
    {"type": "conv", "kernel_size": 3, "norm_cfg": tiny.NORM, "act_cfg": {"type": "ReLU"}},
    {"type": "isa", "isa_channels": 4, "key_query_num_convs": 1, "down_factor": (2, 2), "norm_cfg": tiny.NORM},
    {"type": "isa", "isa_channels": 4, "out_cat_and_conv": True, "norm_cfg": tiny.NORM},
]
# Names of which each fusion has one, written down from the original's modules.
NAMES = [
    "fuse_layer.aspp_modules.1.depthwise_conv.conv.weight",
    "fuse_layer.image_pool.1.bn.weight",
    "fuse_layer.bn.running_mean",
    "fuse_layer.global_relation.query_project.conv.weight",
    "fuse_layer.local_relation.key_project.1.conv.weight",
]


@pytest.mark.parametrize(("fusion", "name"), list(zip(FUSIONS, NAMES, strict=True)))
def test_fusions_of_daformer(fusion, name):
    values = with_head(DAFORMER, decoder_params__fusion_cfg=fusion)
    translation = translate_config(values)
    state = tiny.state_dict(values)
    assert f"decode_head.{name}" in state and "decode_head.embed_layers.3.proj.weight" in state
    assert state["decode_head.embed_layers.3.proj.weight"].shape == (8, 64)
    native, match = match_weights(
        state, translation.components, build_without_weights(translation.config).state_dict()
    )
    match.raise_for_problems("tiny")
    assert len(native) == len(state) == len(match.renamed)


def test_what_daformers_head_is():
    values = with_head(
        DAFORMER,
        decoder_params__embed_dims=[4, 6, 8],
        decoder_params__embed_neck_cfg="same_as_embed_cfg",
        decoder_params__fusion_cfg=FUSION | {"norm_cfg": {"type": "BN", "eps": 1e-3}, "act_cfg": {"type": "GELU"}},
    )
    config = head_of(values)
    assert config.projected_channels == [4, 6, 8] and config.dilations == [1, 6] and not config.image_pool
    assert (config.norm_eps, config.activation) == (1e-3, "gelu"), "the fusion's, not the head's own"
    isa = head_of(with_head(DAFORMER, decoder_params__fusion_cfg=FUSIONS[4]))
    assert (isa.attention_block, isa.attention_convs, isa.attention_joins_input) == ([8, 8], 2, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_head(DAFORMER, align_corners=True), "align_corners=True"),
        (with_head(DAFORMER, in_index=[1, 0, 3]), r"in_index=\[1, 0, 3\]"),
        (with_head(DAFORMER, decoder_params__embed_cfg={"type": "conv", "kernel_size": 1}), "embed_cfg: .* 'conv'"),
        (
            with_head(DAFORMER, decoder_params__embed_neck_cfg={"type": "rawconv_and_aspp"}),
            "embed_neck_cfg: .*rawconv",
        ),
        (with_head(DAFORMER, decoder_params__fusion_cfg={"type": "sep_conv"}), "fusion of type 'sep_conv'"),
        (with_head(DAFORMER, decoder_params__fusion_cfg__context_cfg={"type": "id"}), "context_cfg="),
        (with_head(DAFORMER, decoder_params__fusion_cfg__shiny=1), "fusion_cfg: unknown option shiny=1"),
        (with_head(DAFORMER, decoder_params__shiny=1), "decoder_params: unknown option shiny=1"),
        (with_head(DLV2, channels=8), "the original class refuses the option 'channels'"),
        (with_head(DLV2, norm_cfg=None), "the original class refuses the option 'norm_cfg'"),
        (with_head(DLV2, dropout_ratio=0.1), "the original class refuses the option 'dropout_ratio'"),
    ],
)
def test_what_these_heads_are_refused_for(values, message):
    with pytest.raises(ConversionError, match=message):
        translate_config(values)


def test_hrda_is_refused_in_a_sentence():
    values = tiny.config(model__type="HRDAEncoderDecoder")
    with pytest.raises(ConversionError, match=r"^model type 'HRDAEncoderDecoder' is not supported: .*two resolutions"):
        translate_config(values)


def test_deeplabv2_of_one_channel():
    values = with_head(DLV2, num_classes=1, threshold=0.4)
    values["model"]["decode_head"]["loss_decode"] = tiny.LOSS | {"use_sigmoid": True}
    translation = translate_config(values)
    model = build_without_weights(translation.config)
    state = tiny.state_dict(values)
    native, match = match_weights(state, translation.components, model.state_dict())
    match.raise_for_problems("tiny")
    model.load_state_dict(native, assign=True)
    head, maps = model.decode_heads[0].eval(), [torch.randn(1, 64, 5, 6)] * 4
    score = sum(
        torch.nn.functional.conv2d(
            maps[3],
            state[f"decode_head.aspp_modules.{i}.conv.weight"],
            state[f"decode_head.aspp_modules.{i}.conv.bias"],
            padding=dilation,
            dilation=dilation,
        )
        for i, dilation in enumerate((6, 12))
    )
    logits = head(maps).logits
    shift = torch.tensor(0.4).logit()
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], score[:, 0] - shift, rtol=1e-5, atol=1e-5)

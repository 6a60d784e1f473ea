"""InternImage's parts against recorded numbers of the original, its published sizes, and options that do not fit."""

import json
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file
from torch import nn

from segzoo.backbones import InternImageBackbone, InternImageConfig
from segzoo.backbones.internimage import VARIANTS, DeformableConv, InternImageLayer, InternImageStage
from segzoo.conversion.rules.internimage import INTERNIMAGE
from segzoo.errors import SegZooError

RECORD = Path(__file__).parent / "records" / "internimage"
CASES = json.loads(RECORD.with_suffix(".json").read_text())
# Which entries of the flattened outputs and input gradients were kept. Of each weight's gradient: the sum, the sum of
# magnitudes, the first and the last entry.
OUTPUT_STEP, GRADIENT_STEP = 2, 3

# Where the parts of the records sit in the original backbone and in ours.
PREFIXES = {
    "module": ("levels.0.blocks.0.dcn.", "stages.0.layers.0.dcn."),
    "layer": ("levels.0.blocks.0.", "stages.0.layers.0."),
    "block": ("levels.2.", "stages.2."),
    "stem": ("patch_embed.", "stem."),
}
TINY = {"channels": 16, "depths": [1, 1, 1, 1], "groups": [2, 2, 2, 2], "layer_scale": None}


def build(name: str, info: dict) -> tuple[nn.Module, InternImageConfig]:
    """Our module of a record, and the config that it comes from."""
    kind, variant = name.split(".")
    options = TINY | {
        "channels": info.get("channels", info.get("out_chans", 16)),
        "offset_scale": info.get("offset_scale", 1.0),
        "layer_scale": info.get("layer_scale"),
        "depthwise_kernel_size": info.get("dw_kernel_size", 3),
        "center_feature_scale": info.get("center_feature_scale", False),
        "remove_center": info.get("remove_center", False),
        "post_norm": info.get("post_norm", False),
        "residual_post_norm": info.get("res_post_norm", False),
    }
    if kind == "block":
        options |= {
            "channels": 4,  # 16 in the third stage
            "depths": [1, 1, info["depth"], 1],
            "post_norm_blocks": info["post_norm_block_ids"],
            "depthwise_kernel_size": 5,
            "center_feature_scale": True,
            "post_norm": variant == "G",
            "residual_post_norm": variant.startswith("H"),
        }
    config = InternImageConfig(**options)
    if kind == "module":
        return DeformableConv(config, info["channels"], info["group"]), config
    if kind == "layer":
        return InternImageLayer(config, 16, 2, drop_path=0.0), config
    if kind == "block":
        return InternImageStage(config, 2, drop_paths=[0.0] * info["depth"]), config
    return InternImageBackbone(config).stem, config


@pytest.mark.parametrize("name", CASES)
def test_recorded_numbers_of_the_original(name):
    case = CASES[name]
    record = {k.removeprefix(f"{name}."): v.double() for k, v in load_file(f"{RECORD}.safetensors").items()}
    module, config = build(name, case["info"])
    table, (old, new) = INTERNIMAGE.key_table(config), PREFIXES[name.split(".")[0]]
    original = synthesis.state_dict(case["keys"])
    renamed = {key: table.to_native(old + key).removeprefix(new) for key in original}
    module.load_state_dict({renamed[key]: value for key, value in original.items()})
    module.double().eval()

    input = record["input"].requires_grad_()
    if name.startswith("stem"):
        outputs = (module(input.permute(0, 2, 3, 1)),)
    elif name.startswith("block"):
        outputs = module(input)[::-1]  # the original returns the map for the next stage first
    else:
        outputs = (module(input),)
    weights = [record[f"output{i}_gradient"] for i in range(len(outputs))]
    torch.autograd.backward(outputs, weights)

    for i, output in enumerate(outputs):
        assert torch.allclose(output.reshape(-1)[::OUTPUT_STEP], record[f"output{i}"], rtol=1e-9, atol=1e-9)
    gradient = input.grad.reshape(-1)[::GRADIENT_STEP]
    assert torch.allclose(gradient, record["input_gradient"], rtol=1e-9, atol=1e-9)
    parameters = dict(module.named_parameters())
    for key, expected in zip(original, record["weight_gradients"], strict=True):
        if not expected.isnan().any():  # large ones are not in the record
            flat = parameters[renamed[key]].grad.reshape(-1)
            found = torch.stack([flat.sum(), flat.abs().sum(), flat[0], flat[-1]])
            assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8), key


# Counted in the original's backbones, of the original's configs for segmentation.
PARAMETERS = {
    "internimage-t": 28769520,
    "internimage-b": 94909920,
    "internimage-l": 218952370,
    "internimage-h": 1073122480,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name):
    config = InternImageConfig(**VARIANTS[name])
    with torch.device("meta"):
        model = InternImageBackbone(config)
        maps = model(torch.empty(1, 3, 64, 96)).feature_maps
    width = config.channels
    assert [tuple(m.shape[1:]) for m in maps] == [
        (width, 16, 24),
        (width * 2, 8, 12),
        (width * 4, 4, 6),
        (width * 8, 2, 3),
    ]
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_a_fresh_model_samples_an_ordinary_grid(tmp_path):
    model = InternImageBackbone(InternImageConfig.tiny())
    convs = [m for m in model.modules() if isinstance(m, DeformableConv)]
    assert len(convs) == 5
    for conv in convs:
        for layer in (conv.offset, conv.mask):
            assert not layer.weight.any() and not layer.bias.any()
            torch.nn.init.ones_(layer.weight)
        bound = (6 / sum(conv.input_proj.weight.shape)) ** 0.5  # Xavier
        assert 0.8 * bound < float(conv.input_proj.weight.detach().abs().max()) <= bound
    model.save_pretrained(tmp_path)
    loaded = InternImageBackbone.from_pretrained(tmp_path)
    assert all((m.offset.weight == 1).all() for m in loaded.modules() if isinstance(m, DeformableConv))


def test_drop_path_grows_with_depth():
    def rates(**options):
        model = InternImageBackbone(InternImageConfig(channels=8, depths=[1, 1, 2, 1], groups=[1] * 4, **options))
        return [layer.drop_path.p for stage in model.stages for layer in stage.layers]

    assert rates(drop_path_rate=0.4) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert rates(drop_path_rate=0.4, drop_path_uniform=True) == pytest.approx([0.4] * 5)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"groups": [4, 8, 16]}, "one entry for each stage"),
        ({"groups": [3, 8, 16, 32]}, "64 channels of stage 1 do not divide into 3 groups"),
        ({"kernel_size": 4}, "must be odd"),
        ({"depthwise_kernel_size": 2}, "must be odd"),
        ({"residual_post_norm": True, "post_norm": True}, "residual_post_norm excludes"),
        ({"residual_post_norm": True}, "residual_post_norm excludes .* layer_scale"),
        ({"post_norm_blocks": [18]}, "beyond the third stage"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        InternImageConfig(**options)

"""An option of an original config that changes the numbers changes the converted model's too, or is refused.

Each entry of `MUTATED` is a model of the zoo whose parts are small, and paths into its config with other values. To have
a head tested, list it.
"""

import copy
import zlib
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from support.contract import settle

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError

PIXELS = torch.randn(1, 3, 49, 65, generator=torch.Generator().manual_seed(1))
NORM = {"type": "SyncBN", "requires_grad": True}
RESNET = {"backbone.base_channels": 4, "backbone.stem_channels": 8}
HRNET = {
    f"backbone.extra.stage{number}": {
        "num_modules": 1,
        "num_branches": number,
        "block": "BOTTLENECK" if number == 1 else "BASIC",
        "num_blocks": (1,) * number,
        "num_channels": (64,) if number == 1 else tuple(4 * 2**i for i in range(number)),
    }
    for number in (1, 2, 3, 4)
}
RESNET_OPTIONS = {
    "backbone.depth": [18, 34],
    "backbone.dilations": [(1, 1, 1, 1), (1, 1, 1, 2)],
    "backbone.strides": [(1, 2, 2, 1), (2, 2, 1, 1)],
    "backbone.contract_dilation": [False],
    "backbone.multi_grid": [(1, 2)],
    "backbone.norm_cfg": [{**NORM, "eps": 1e-3}, None],
    "backbone.style": ["caffe"],
    "backbone.deep_stem": [False],
    "backbone.avg_down": [True],
    "backbone.type": ["ResNet", "ResNetV1d"],
    "backbone.in_channels": [4],
    "backbone.out_indices": [(0, 1, 2)],
    "backbone.dcn": [{"type": "DCN"}],
    "backbone.plugins": [[{"cfg": {"type": "ContextBlock"}}]],
    "backbone.conv_cfg": [{"type": "ConvWS"}],
}


def head_options(place: str, channels: int) -> dict[str, list[Any]]:
    """What every decode head has, for a head at ``place`` with this many channels."""
    return {
        f"{place}.channels": [channels // 2],
        f"{place}.num_classes": [7],
        f"{place}.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "GN", "num_groups": 32}, {"type": "IN"}],
        f"{place}.act_cfg": [{"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Mish"}, None],
        f"{place}.conv_cfg": [{"type": "ConvWS"}],
        f"{place}.no_such_option": [1],
    }


@dataclass(frozen=True)
class Mutated:
    """A model of the zoo.

    Args:
        small: changes that make it small, by path; the numbers of a list stand in the path.
        options: other values by path, each of which must change the output or the shapes of the tensors.
        harmless: values by path that change nothing, and so show that the comparison is not blind.
    """

    small: dict[str, Any]
    options: dict[str, list[Any]]
    harmless: dict[str, Any] = field(default_factory=dict)


PLAIN_VIT = {
    "backbone.embed_dims": 8,
    "backbone.num_layers": 4,
    "backbone.num_heads": 2,
    "backbone.out_indices": [0, 1, 2, 3],
    "backbone.img_size": [64, 80],
    "decode_head.in_channels": [8] * 4,
    "decode_head.channels": 64,
    "auxiliary_head": None,
}
PLAIN_VIT_OPTIONS = {
    "backbone.num_layers": [5],
    "backbone.num_heads": [4, 3],
    "backbone.mlp_ratio": [2],
    "backbone.patch_size": [8],
    "backbone.in_channels": [4],
    "backbone.out_indices": [[0, 1, 2, 2], -1],
    "backbone.norm_cfg": [{"type": "LN", "eps": 1e-2}, {"type": "BN"}, None],
    "backbone.act_cfg": [{"type": "ReLU"}, {"type": "GELU", "approximate": "tanh"}],
    "backbone.num_fcs": [3],
    "backbone.patch_norm": [True],
    "backbone.no_such_option": [1],
}

MUTATED = {
    "segformer_mit-b0_512x512_160k_ade20k": Mutated(
        small={
            "backbone.embed_dims": 8,
            "backbone.num_layers": (1, 1, 1, 1),
            "decode_head.in_channels": [8, 16, 40, 64],
            "decode_head.channels": 64,
        },
        options={
            "backbone.embed_dims": [16],
            "backbone.num_stages": [3],
            "backbone.num_layers": [(1, 1, 2, 1)],
            "backbone.num_heads": [(1, 2, 4, 8)],
            "backbone.patch_sizes": [(5, 3, 3, 3)],
            "backbone.strides": [(2, 2, 2, 2)],
            "backbone.sr_ratios": [(8, 4, 1, 1), (8, 2, 2, 1)],
            "backbone.mlp_ratio": [2],
            "backbone.qkv_bias": [False],
            "backbone.norm_cfg": [{"type": "LN", "eps": 1e-3}, {"type": "BN"}, None],
            "backbone.act_cfg": [{"type": "ReLU"}],
            "backbone.in_channels": [4],
            "backbone.out_indices": [(0, 1, 2)],
            "backbone.no_such_option": [1],
            "backbone.type": ["mit_b0", "mit_b1"],
            **head_options("decode_head", 64),
            "decode_head.align_corners": [True],
            "decode_head.interpolate_mode": ["nearest"],
            "decode_head.in_index": [(0, 1, 2, 2), (3, 2, 1, 0)],
            "decode_head.input_transform": ["resize_concat"],
            "decode_head.type": ["SegFormerHead", "UPerHead"],
        },
        harmless={
            "decode_head.dropout_ratio": 0.3,
            "backbone.drop_path_rate": 0.3,
            "backbone.norm_cfg": {"type": "LN", "eps": 1e-6},
            "backbone.with_cp": True,
        },
    ),
    "upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K": Mutated(
        small={
            "backbone.embed_dims": 8,
            "backbone.depths": (1, 2, 1, 1),
            "backbone.num_heads": (1, 2, 2, 4),
            "decode_head.in_channels": [8, 16, 32, 64],
            "decode_head.channels": 64,
            "auxiliary_head": None,
        },
        options={
            "backbone.embed_dims": [16],
            "backbone.depths": [(1, 1, 1, 1), (1, 2, 1)],
            "backbone.num_heads": [(1, 2, 4, 4), (1, 2, 2)],
            "backbone.window_size": [6, 8],
            "backbone.mlp_ratio": [2],
            "backbone.patch_size": [2],
            "backbone.strides": [(4, 2, 2, 1), (2, 2, 2, 2)],
            "backbone.qkv_bias": [False],
            "backbone.qk_scale": [0.3],
            "backbone.patch_norm": [False],
            "backbone.use_abs_pos_embed": [True],
            "backbone.norm_cfg": [{"type": "LN", "eps": 1e-2}, {"type": "BN"}, None],
            "backbone.act_cfg": [{"type": "ReLU"}, {"type": "GELU", "approximate": "tanh"}],
            "backbone.in_channels": [4],
            "backbone.out_indices": [(0, 1, 2), (0, 1, 2, 2)],
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.drop_path_rate": 0.1, "backbone.pretrain_img_size": 384, "backbone.with_cp": True},
    ),
    "upernet_convnext_tiny_fp16_512x512_160k_ade20k": Mutated(
        small={
            "backbone.arch": {"depths": [1, 1, 2, 1], "channels": [8, 12, 16, 24]},
            "decode_head.in_channels": [8, 12, 16, 24],
            "decode_head.channels": 64,
            "auxiliary_head": None,
        },
        options={
            "backbone.arch": [
                {"depths": [1, 1, 1, 1], "channels": [8, 12, 16, 24]},
                {"depths": [1, 1, 2, 1], "channels": [8, 12, 16, 16]},
                {"depths": [1, 1, 2], "channels": [8, 12, 16]},
                {"depths": [1, 1, 2, 1], "channels": [8, 12, 16, 24], "mlp_ratio": 2},
                "tiny",
                "giant",
            ],
            "backbone.in_channels": [4],
            "backbone.stem_patch_size": [2],
            "backbone.norm_cfg": [{"type": "LN2d", "eps": 1e-2}, {"type": "BN"}, None],
            "backbone.act_cfg": [{"type": "ReLU"}, {"type": "GELU", "approximate": "tanh"}],
            "backbone.layer_scale_init_value": [0.0],
            "backbone.use_grn": [True],
            "backbone.gap_before_final_norm": [True],
            "backbone.out_indices": [(0, 1, 2), -1],
            "backbone.dims": [(8, 12, 16, 24)],
            "backbone.no_such_option": [1],
        },
        harmless={
            "backbone.drop_path_rate": 0.1,
            "backbone.layer_scale_init_value": 0.5,
            "backbone.linear_pw_conv": False,
            "backbone.frozen_stages": 2,
            "backbone.with_cp": True,
        },
    ),
    "upernet_vit-b16_ln_mln_512x512_160k_ade20k": Mutated(
        small={**PLAIN_VIT, "backbone.img_size": [32, 80], "neck.in_channels": [8] * 4, "neck.out_channels": 8},
        options={
            **PLAIN_VIT_OPTIONS,
            "backbone.img_size": [[80, 32], 64],
            "backbone.qkv_bias": [False],
            "backbone.with_cls_token": [False],
            "backbone.final_norm": [False],
            "backbone.interpolate_mode": ["bilinear", "nearest"],
            "backbone.pre_norm": [True],
            "backbone.patch_bias": [False],
            "backbone.patch_pad": [0, "same"],
            "backbone.out_origin": [True],
            "backbone.arch": ["deit-t"],
            "neck.out_channels": [16],
            "neck.scales": [[4, 2, 1], [4, 2, 1, 1], [0.5, 1, 2, 4], [4, 2, 0, 1]],
            "neck.norm_cfg": [NORM, {"type": "IN"}],
            "neck.act_cfg": [{"type": "ReLU"}, {"type": "Mish"}],
            "neck.no_such_option": [1],
            "neck.type": ["Feature2Pyramid"],
        },
        harmless={"backbone.drop_path_rate": 0.3, "backbone.norm_eval": True, "neck.act_cfg": None},
    ),
    "upernet_mae-base_fp16_8x2_512x512_160k_ade20k": Mutated(
        small={**PLAIN_VIT, "neck.embed_dim": 8},
        options={
            **PLAIN_VIT_OPTIONS,
            "backbone.img_size": [[80, 64], 64],
            "backbone.type": ["BEiT", "VisionTransformer"],
            "backbone.qv_bias": [False],
            "backbone.final_norm": [True],
            "backbone.with_cls_token": [False],
            "backbone.output_cls_token": [True],
            "neck.rescales": [[2, 1, 0.5, 0.25], [4, 2, 1]],
            "neck.norm_cfg": [{**NORM, "eps": 1e-2}],
        },
        harmless={"backbone.drop_path_rate": 0.3, "backbone.init_values": 0.5},
    ),
    "deeplabv3_r50-d8_512x512_160k_ade20k": Mutated(
        small={
            **RESNET,
            "decode_head.in_channels": 128,
            "decode_head.channels": 64,
            "decode_head.dilations": (1, 2, 3, 4),
            "auxiliary_head": None,
        },
        options={
            **RESNET_OPTIONS,
            **head_options("decode_head", 64),
            "decode_head.dilations": [(1, 2, 3, 5), (1, 2, 3), (1, 2, 3, 1), (4, 2, 3, 4), (1, 3, 2, 4)],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [2],
            "decode_head.input_transform": ["multiple_select"],
            "decode_head.type": ["DepthwiseSeparableASPPHead", "PSPHead"],
        },
        harmless={
            "decode_head.dropout_ratio": 0.3,
            "backbone.norm_eval": True,
            "decode_head.dilations": [1, 2, 3, 4],
        },
    ),
    "deeplabv3plus_r50-d8_512x512_160k_ade20k": Mutated(
        small={
            **RESNET,
            "decode_head.in_channels": 128,
            "decode_head.channels": 64,
            "decode_head.c1_in_channels": 16,
            "decode_head.c1_channels": 32,
            "decode_head.dilations": (1, 2, 3, 4),
            "auxiliary_head": None,
        },
        options={
            **head_options("decode_head", 64),
            "decode_head.dilations": [(1, 2, 3, 5), (1, 2, 3), (1, 2, 3, 1), (4, 2, 3, 4), (1, 3, 2, 4)],
            "decode_head.align_corners": [True],
            "decode_head.c1_in_channels": [0, 8],
            "decode_head.c1_channels": [16, 0],
            "decode_head.in_index": [2],
            "decode_head.input_transform": ["resize_concat", "multiple_select"],
            "decode_head.type": ["ASPPHead"],
        },
        harmless={"decode_head.dropout_ratio": 0.3},
    ),
    "apcnet_r50-d8_512x512_160k_ade20k": Mutated(
        small={**RESNET, "decode_head.in_channels": 128, "decode_head.channels": 64, "auxiliary_head": None},
        options={
            **head_options("decode_head", 64),
            "decode_head.pool_scales": [(1, 2, 3), (1, 2, 3, 5), (2, 1, 3, 6)],
            "decode_head.fusion": [False],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [2],
            "decode_head.type": ["PSPHead"],
        },
        harmless={"decode_head.dropout_ratio": 0.3},
    ),
    "dmnet_r50-d8_512x512_160k_ade20k": Mutated(
        small={**RESNET, "decode_head.in_channels": 128, "decode_head.channels": 64, "auxiliary_head": None},
        options={
            **head_options("decode_head", 64),
            "decode_head.filter_sizes": [(1, 3, 5), (1, 3, 5, 8), (3, 1, 5, 7), (1, 2, 3, 4)],
            "decode_head.fusion": [True],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [2],
            "decode_head.pool_scales": [(1, 2)],
        },
        harmless={"decode_head.dropout_ratio": 0.3},
    ),
    "encnet_r50-d8_512x512_160k_ade20k": Mutated(
        small={**RESNET, "decode_head.in_channels": [32, 64, 128], "decode_head.channels": 64, "auxiliary_head": None},
        options={
            **head_options("decode_head", 64),
            "decode_head.num_codes": [16, 64],
            "decode_head.add_lateral": [True],
            "decode_head.use_se_loss": [False],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [(1, 2), (3, 2, 1)],
            "decode_head.input_transform": ["resize_concat"],
        },
        harmless={
            "decode_head.dropout_ratio": 0.3,
            "decode_head.loss_se_decode": {"type": "DiceLoss", "loss_weight": 3},
        },
    ),
    "emanet_r50-d8_512x1024_80k_cityscapes": Mutated(
        small={
            **RESNET,
            "decode_head.in_channels": 128,
            "decode_head.channels": 64,
            "decode_head.ema_channels": 32,
            "decode_head.num_bases": 8,
            "auxiliary_head": None,
        },
        options={
            **head_options("decode_head", 64),
            "decode_head.ema_channels": [64],
            "decode_head.num_bases": [16],
            "decode_head.num_stages": [1, 0],
            "decode_head.concat_input": [False],
            "decode_head.momentum": [2.0],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [2],
        },
        harmless={"decode_head.dropout_ratio": 0.3, "decode_head.momentum": 0.5},
    ),
    "ocrnet_hr18_512x512_160k_ade20k": Mutated(
        small={
            **HRNET,
            "decode_head.0.in_channels": [4, 8, 16, 32],
            "decode_head.0.channels": 64,
            "decode_head.1.in_channels": [4, 8, 16, 32],
            "decode_head.1.channels": 64,
            "decode_head.1.ocr_channels": 32,
        },
        options={
            **head_options("decode_head.0", 64),
            **head_options("decode_head.1", 64),
            "decode_head.0.kernel_size": [3],
            "decode_head.0.num_convs": [2, 0],
            "decode_head.0.concat_input": [True],
            "decode_head.0.align_corners": [True],
            "decode_head.1.ocr_channels": [64],
            "decode_head.1.scale": [2, 0.5],
            "decode_head.1.use_sep_conv": [True],
            "decode_head.1.align_corners": [True],
            "decode_head.1.in_index": [[0, 1, 3, 2], [0, 1, 2]],
            "decode_head.1.input_transform": ["multiple_select", None],
            "num_stages": [3],
            "type": ["EncoderDecoder"],
        },
        harmless={"decode_head.0.dropout_ratio": 0.3, "decode_head.1.scale": 1},
    ),
    "fpn_r50_512x512_160k_ade20k": Mutated(
        small={
            **RESNET,
            "neck.in_channels": [16, 32, 64, 128],
            "neck.out_channels": 64,
            "neck.norm_cfg": None,
            "neck.act_cfg": None,
            "decode_head.in_channels": [64, 64, 64, 64],
            "decode_head.channels": 64,
        },
        options={
            **head_options("decode_head", 64),
            "neck.start_level": [1],
            "neck.end_level": [3],
            "neck.num_outs": [3],
            "neck.norm_cfg": [NORM, {"type": "GN", "num_groups": 32}, {"type": "LN"}],
            "neck.act_cfg": [{"type": "ReLU"}, {"type": "Mish"}],
            "neck.upsample_cfg": [{"mode": "bilinear"}, {"mode": "bicubic"}, {"mode": "nearest", "scale_factor": 3}],
            "neck.conv_cfg": [{"type": "ConvWS"}],
            "neck.no_such_option": [1],
            "decode_head.feature_strides": [[4, 8, 16, 16], [4, 4, 8, 16], [8, 4, 16, 32], [4, 8, 16]],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [[0, 1, 3, 2], [0, 1, 2]],
            "decode_head.input_transform": ["resize_concat", None],
        },
        harmless={
            "decode_head.dropout_ratio": 0.3,
            "neck.num_outs": 5,  # the head does not read the fifth
            "neck.add_extra_convs": "on_input",
            "neck.upsample_cfg": {"mode": "nearest", "scale_factor": None},
            "decode_head.feature_strides": [4, 8, 17, 33],
        },
    ),
    "twins_svt-s_uperhead_8x2_512x512_160k_ade20k": Mutated(
        small={
            "backbone.embed_dims": [8, 8, 16, 16],
            "backbone.num_heads": [1, 2, 2, 2],
            "backbone.mlp_ratios": [2, 2, 2, 2],
            "backbone.depths": [2, 1, 2, 1],
            "backbone.windiow_sizes": [3, 3, 2, 2],
            "decode_head.in_channels": [8, 8, 16, 16],
            "decode_head.channels": 16,
            "auxiliary_head": None,
        },
        options={
            "backbone.type": ["PCPVT", "alt_gvt_small"],
            "backbone.in_channels": [4],
            "backbone.num_heads": [[2, 2, 2, 2], [1, 1, 2, 2]],
            "backbone.patch_sizes": [[7, 3, 3, 3]],
            "backbone.strides": [[4, 2, 2, 1]],
            "backbone.mlp_ratios": [[2, 2, 2, 4]],
            "backbone.out_indices": [[0, 1, 2]],
            "backbone.qkv_bias": [False],
            "backbone.norm_cfg": [{"type": "LN", "eps": 1e-6}, {"type": "BN"}, None],
            "backbone.depths": [[2, 1, 2, 2], [1, 1, 2, 1]],
            "backbone.sr_ratios": [[4, 4, 2, 1], [8, 4, 1, 1]],
            "backbone.norm_after_stage": [False],
            "backbone.windiow_sizes": [[2, 3, 2, 2], [3, 3, 2, 1], [3, 3, 2, 0]],
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.drop_path_rate": 0.3, "backbone.drop_rate": 0.1, "backbone.attn_drop_rate": 0.1},
    ),
}


def altered(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of an original config with changes to its model by path."""
    config = copy.deepcopy(config)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = config["model"]
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value
    return config


@torch.no_grad()
def outputs(config: dict[str, Any]) -> tuple[dict[str, torch.Size], torch.Tensor | None]:
    """The shapes of the translated model's tensors, and what it makes of a picture at the picture's size.

    The weights depend on the parameters' names and shapes alone; the outputs of all decode heads are joined.
    """
    translated = translate_config(config).config
    model = SegZooForSemanticSegmentation(translated).eval()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if isinstance(tensor, torch.nn.Parameter):
            if tensor.ndim > 1:  # a kernel or matrix that keeps the variance
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(noise / 10 + (1 if name.endswith("weight") else 0))
        elif name.endswith(".bases"):
            tensor.copy_(noise)
    settle(model)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if translated.backbone_config.num_channels != PIXELS.shape[1]:
        return shapes, None
    maps, _ = model.forward_maps(PIXELS)
    size = (PIXELS.shape[-2], PIXELS.shape[-1])
    resized = [
        torch.nn.functional.interpolate(out.logits, size, mode="bilinear", align_corners=head.config.align_corners)
        for head, out in zip(model.decode_heads, model.decode(maps), strict=True)
    ]
    return shapes, torch.cat(resized, dim=1)


@pytest.mark.parametrize("name", MUTATED)
def test_every_altered_option_shows(name):
    case = MUTATED[name]
    config = altered(zoo.original_config(name), case.small)
    shapes, logits = outputs(config)
    unseen = []
    for path, values in case.options.items():
        for value in values:
            try:
                other_shapes, other = outputs(altered(config, {path: value}))
            except SegZooError as error:
                assert error.args[0].count("\n") == 0
                continue
            if other_shapes == shapes and (other - logits).abs().max() < 1e-4 * logits.abs().max():
                unseen.append((path, value))
    assert not unseen
    for path, value in case.harmless.items():
        other_shapes, other = outputs(altered(config, {path: value}))
        assert other_shapes == shapes and torch.equal(other, logits), path

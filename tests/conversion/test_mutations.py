"""An option of an original config that changes the numbers changes the converted model's too, or is refused.

Each entry of `MUTATED` is a model of the zoo whose parts are small, and paths into its config with other values. To have
a head tested, list it.
"""

import copy
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from support.contract import settle

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError
from segzoo.images.resizing import pad_image, round_up

RECORDS = Path(__file__).parents[1] / "parity" / "records"
SIZE = (49, 65)
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


DILATED = {**RESNET, "decode_head.in_channels": 128, "decode_head.channels": 64, "auxiliary_head": None}
"""A small ResNet with a head that reads its last map."""
ONE_MAP = {
    "decode_head.align_corners": [True],
    "decode_head.in_index": [2],
    "decode_head.input_transform": ["multiple_select"],
}
"""Options of such a head."""


@dataclass(frozen=True)
class Mutated:
    """A model of the zoo.

    Args:
        small: changes that make it small, by path; the numbers of a list stand in the path.
        options: other values by path, each of which must change the output or the shapes of the tensors.
        harmless: values by path that change nothing, and so show that the comparison is not blind.
        size: height and width of the picture.
    """

    small: dict[str, Any]
    options: dict[str, list[Any]]
    harmless: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = SIZE


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
SETR = {path: value for path, value in PLAIN_VIT.items() if path.startswith("backbone.")} | {
    "backbone.img_size": [32, 80]
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

CONTEXT = {
    **RESNET,
    "backbone.depth": 18,
    "decode_head.in_channels": 32,
    "decode_head.channels": 64,
    "auxiliary_head": None,
}
"""A small model whose head is FCN's around a block."""
CONTEXT_OPTIONS = {
    "decode_head.kernel_size": [1, 5],
    "decode_head.dilation": [2],
    "decode_head.concat_input": [False],
    "decode_head.num_convs": [2, 3],
    "decode_head.sub_sample": [True],
    "decode_head.no_such_option": [1],
}

UPDATOR = {"type": "KernelUpdator", "in_channels": 32, "feat_channels": 32, "out_channels": 32}
KERNEL_UPDATE = {
    "type": "KernelUpdateHead",
    "num_heads": 2,
    "num_mask_fcs": 1,
    "feedforward_channels": 32,
    "in_channels": 64,
    "out_channels": 64,
    "feat_transform_cfg": {"conv_cfg": {"type": "Conv2d"}, "act_cfg": None},
    "kernel_updator_cfg": UPDATOR,
}
"""A stage of K-Net's head."""

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
    "setr_pup_512x512_160k_b16_ade20k": Mutated(
        small={
            **SETR,
            "decode_head.in_channels": 8,
            "decode_head.channels": 32,
            "decode_head.num_convs": 2,
            "auxiliary_head": None,
        },
        options={
            **head_options("decode_head", 32),
            **ONE_MAP,
            "backbone.out_indices": [[0, 1, 2]],
            "backbone.interpolate_mode": ["bicubic"],
            "decode_head.norm_layer": [{"type": "LN", "eps": 1e-1}, {"type": "BN"}, None],
            "decode_head.num_convs": [1, 3, 0],
            "decode_head.up_scale": [3, 0, 1.5],
            "decode_head.kernel_size": [1, 2, 5],
        },
        harmless={"decode_head.dropout_ratio": 0.3, "decode_head.norm_layer": {"type": "LN", "eps": 1e-6}},
    ),
    "setr_mla_512x512_160k_b8_ade20k": Mutated(
        small={
            **SETR,
            "neck.in_channels": [8] * 4,
            "neck.out_channels": 16,
            "decode_head.in_channels": [16] * 4,
            "decode_head.channels": 64,
            "decode_head.mla_channels": 16,
            "auxiliary_head": None,
        },
        options={
            **head_options("decode_head", 64),
            "backbone.with_cls_token": [True],
            "neck.out_channels": [8],
            "neck.norm_layer": [{"type": "LN", "eps": 1e-1}, {"type": "BN"}, None],
            "neck.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "IN"}],
            "neck.act_cfg": [{"type": "GELU"}, {"type": "Mish"}, None],
            "neck.in_channels": [[8] * 3],
            "neck.no_such_option": [1],
            "decode_head.mla_channels": [8],
            "decode_head.up_scale": [3, 0, 1.5],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [[1, 0, 2, 3], [0, 1, 2]],
            "decode_head.input_transform": ["resize_concat"],
        },
        harmless={"decode_head.dropout_ratio": 0.3},
    ),
    "segmenter_vit-t_mask_8x1_512x512_160k_ade20k": Mutated(
        small={
            **{path: value for path, value in SETR.items() if path != "backbone.out_indices"},
            "decode_head.in_channels": 8,
            "decode_head.embed_dims": 16,
            "decode_head.num_heads": 4,
        },
        options={
            "backbone.final_norm": [False],
            "decode_head.num_classes": [7, 1],
            "decode_head.embed_dims": [32, 18],
            "decode_head.num_layers": [1, 3],
            "decode_head.num_heads": [2, 3],
            "decode_head.mlp_ratio": [2],
            "decode_head.num_fcs": [3],
            "decode_head.qkv_bias": [False],
            "decode_head.norm_cfg": [{"type": "LN", "eps": 1e-2}, NORM, None],
            "decode_head.act_cfg": [{"type": "ReLU"}, None],
            "decode_head.in_index": [1],
            "decode_head.input_transform": ["resize_concat", "multiple_select"],
            "decode_head.no_such_option": [1],
        },
        harmless={
            "decode_head.channels": 48,
            "decode_head.dropout_ratio": 0.3,
            "decode_head.drop_rate": 0.3,
            "decode_head.attn_drop_rate": 0.3,
            "decode_head.drop_path_rate": 0.3,
            "decode_head.init_std": 0.1,
        },
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
    "pointrend_r50_512x512_160k_ade20k": Mutated(
        small={
            **RESNET,
            "backbone.depth": 18,
            "neck.in_channels": [4, 8, 16, 32],
            "neck.out_channels": 32,
            "decode_head.0.in_channels": [32, 32, 32, 32],
            "decode_head.0.channels": 32,
            "decode_head.1.in_channels": [32],
            "decode_head.1.channels": 64,
            "test_cfg.subdivision_num_points": 300,
        },
        options={
            **head_options("decode_head.1", 64),
            "decode_head.1.norm_cfg": [NORM, {"type": "BN1d", "eps": 1e-2}, {"type": "IN"}],
            "decode_head.1.conv_cfg": [{"type": "Conv2d"}, None],
            "decode_head.1.num_fcs": [2, 0],
            "decode_head.1.coarse_pred_each_layer": [False],
            "decode_head.1.align_corners": [True],
            "decode_head.1.in_index": [[1], [0, 1], 0],
            "decode_head.1.input_transform": ["resize_concat", None],
            "decode_head.1.class_agnostic": [True],
            "decode_head.0.feature_strides": [[4, 8, 16, 16], [4, 8, 16]],
            "test_cfg.subdivision_steps": [1, 0, 3, 7],
            "test_cfg.subdivision_num_points": [200, 0],
            "test_cfg.scale_factor": [1.5, 4, -1],
            "test_cfg": [{"mode": "whole"}],
            "num_stages": [3],
            "type": ["EncoderDecoder"],
        },
        harmless={
            "decode_head.1.dropout_ratio": 0.3,
            "decode_head.1.conv_cfg": {"type": "Conv1d"},
            "decode_head.1.norm_cfg": None,
            "train_cfg": {"num_points": 100},
        },
    ),
    "dpt_vit-b16_512x512_160k_ade20k": Mutated(
        small={
            "backbone.embed_dims": 8,
            "backbone.num_layers": 4,
            "backbone.num_heads": 2,
            "backbone.out_indices": [0, 1, 2, 3],
            "backbone.img_size": [64, 80],
            "decode_head.in_channels": [8] * 4,
            "decode_head.embed_dims": 8,
            "decode_head.channels": 64,
            "decode_head.post_process_channels": [8, 8, 16, 16],
        },
        options={
            **head_options("decode_head", 64),
            "decode_head.act_cfg": [{"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Mish"}, None],
            "decode_head.embed_dims": [16],
            "decode_head.post_process_channels": [[8, 8, 16, 24], [8, 8, 16]],
            "decode_head.readout_type": ["ignore", "add", "token"],
            "decode_head.expand_channels": [True],
            "decode_head.in_index": [[3, 2, 1, 0], [0, 1, 2], [0, 1, 2, 4], 0],
            "decode_head.input_transform": ["resize_concat", None],
            "decode_head.align_corners": [True],
            "backbone.output_cls_token": [False],
            "backbone.out_indices": [[1, 2, 3], [0, 1, 2]],
        },
        harmless={
            "decode_head.dropout_ratio": 0.3,
            "decode_head.patch_size": 8,
            "decode_head.in_index": [0, 1, 2, -1],
        },
    ),
    "nonlocal_r50-d8_512x512_160k_ade20k": Mutated(
        small=CONTEXT,
        options={
            **head_options("decode_head", 64),
            **CONTEXT_OPTIONS,
            "decode_head.reduction": [1, 4, 0],
            "decode_head.use_scale": [False],
            "decode_head.mode": ["gaussian", "dot_product", "concatenation", "softmax"],
            "decode_head.temperature": [0.05],
            "decode_head.align_corners": [True],
            "decode_head.in_index": [2],
            "decode_head.input_transform": ["resize_concat", "multiple_select"],
            "decode_head.type": ["GCHead", "CCHead", "FCNHead"],
        },
        harmless={"decode_head.dropout_ratio": 0.3},
    ),
    "dnl_r50-d8_512x512_160k_ade20k": Mutated(
        small=CONTEXT,
        options={
            **CONTEXT_OPTIONS,
            "decode_head.reduction": [1, 4],
            "decode_head.use_scale": [False],
            "decode_head.mode": ["gaussian", "dot_product", "concatenation"],
            "decode_head.temperature": [0.1, 1, 0],
            "decode_head.type": ["NLHead"],
        },
        harmless={"decode_head.temperature": 0.05},
    ),
    "gcnet_r50-d8_512x512_160k_ade20k": Mutated(
        small=CONTEXT,
        options={
            **CONTEXT_OPTIONS,
            "decode_head.ratio": [1 / 16, 1, 0.001],
            "decode_head.pooling_type": ["avg", "max"],
            "decode_head.fusion_types": [["channel_mul"], ("channel_add", "channel_mul"), [], ["add"]],
        },
        harmless={"decode_head.fusion_types": ("channel_add",)},
    ),
    "ccnet_r50-d8_512x512_160k_ade20k": Mutated(
        small=CONTEXT,
        options={**CONTEXT_OPTIONS, "decode_head.recurrence": [0, 1, 3, 2.5], "decode_head.channels": [7]},
        harmless={"decode_head.recurrence": 2},
    ),
    "lraspp_m-v3s-d8_512x1024_320k_cityscapes": Mutated(
        small={
            "backbone.reduction_factor": 8,
            "decode_head.channels": 32,
            "decode_head.branch_channels": (4, 8),
        },
        options={
            "backbone.arch": ["large", "medium"],
            "backbone.reduction_factor": [4, 0, 100],
            "backbone.norm_cfg": [{**NORM, "eps": 1e-5}, {"type": "GN", "num_groups": 32}, None],
            "backbone.conv_cfg": [{"type": "ConvWS"}],
            "backbone.out_indices": [(1, 3, 12), (0, 1, 13), (1, 0, 12)],
            "backbone.no_such_option": [1],
            "decode_head.channels": [16],
            "decode_head.branch_channels": [(8, 8), (4,), ()],
            "decode_head.align_corners": [True],
            "decode_head.norm_cfg": [{**NORM, "eps": 1e-2}, None],
            "decode_head.act_cfg": [{"type": "LeakyReLU"}, None],
            "decode_head.in_index": [[1, 0, 2], [0, 1]],
            "decode_head.input_transform": ["resize_concat", None],
        },
        harmless={"backbone.norm_eval": True, "backbone.with_cp": True, "decode_head.dropout_ratio": 0.3},
        size=(393, 401),
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
    "knet_s3_fcn_r50-d8_8x2_512x512_adamw_80k_ade20k": Mutated(
        small={
            **RESNET,
            "auxiliary_head": None,
            "decode_head.num_stages": 2,
            "decode_head.kernel_generate_head.in_channels": 128,
            "decode_head.kernel_generate_head.channels": 64,
            "decode_head.kernel_update_head": [KERNEL_UPDATE, KERNEL_UPDATE],
        },
        options={
            **head_options("decode_head.kernel_generate_head", 64),
            "decode_head.kernel_generate_head.num_convs": [1],
            "decode_head.kernel_generate_head.concat_input": [False],
            "decode_head.kernel_generate_head.align_corners": [True],
            "decode_head.kernel_generate_head.in_index": [2],
            "decode_head.kernel_generate_head.type": ["PSPHead", "NLHead", "KNet"],
            "decode_head.num_stages": [3],
            "decode_head.no_such_option": [1],
            "decode_head.kernel_update_head": [
                [KERNEL_UPDATE] * 3,
                [KERNEL_UPDATE, {**KERNEL_UPDATE, "num_heads": 4}],
                *(
                    [{**KERNEL_UPDATE, name: value}] * 2
                    for name, values in {
                        "type": ["KernelHead"],
                        "num_ffn_fcs": [3],
                        "num_heads": [4, 3],
                        "num_mask_fcs": [2, 0],
                        "feedforward_channels": [64],
                        "in_channels": [32],
                        "out_channels": [32],
                        "conv_kernel_size": [3],
                        "act_cfg": [{"type": "GELU"}, None],
                        "ffn_act_cfg": [{"type": "GELU"}],
                        "with_ffn": [False],
                        "feat_gather_stride": [2],
                        "mask_transform_stride": [2],
                        "feat_transform_cfg": [
                            None,
                            {},
                            {"act_cfg": None, "kernel_size": 3},
                            {"act_cfg": None, "norm_cfg": {"type": "BN"}},
                            {"act_cfg": None, "bias": False},
                        ],
                        "kernel_updator_cfg": [
                            {**UPDATOR, name: value}
                            for name, value in {
                                "type": "DynamicConv",
                                "in_channels": 64,
                                "feat_channels": 16,
                                "out_channels": 64,
                                "gate_sigmoid": False,
                                "gate_norm_act": True,
                                "activate_out": True,
                                "norm_cfg": {"type": "LN", "eps": 1e-2},
                                "act_cfg": {"type": "GELU"},
                                "no_such_option": 1,
                            }.items()
                        ]
                        + [{**UPDATOR, "in_channels": 16, "feat_channels": 16, "out_channels": 16}],
                        "no_such_option": [1],
                    }.items()
                    for value in values
                ),
            ],
        },
        harmless={
            "decode_head.kernel_generate_head.dropout_ratio": 0.3,
            "decode_head.kernel_update_head": [
                {**KERNEL_UPDATE, "dropout": 0.3, "num_classes": 7, "kernel_init": True}
            ]
            * 2,
        },
    ),
    "danet_r50-d8_512x512_160k_ade20k": Mutated(
        small={**DILATED, "decode_head.pam_channels": 8},
        options={
            **head_options("decode_head", 64),
            **ONE_MAP,
            "decode_head.pam_channels": [16],
            "decode_head.type": ["ISAHead", "FCNHead"],
        },
        harmless={"decode_head.dropout_ratio": 0.3},
    ),
    "isanet_r50-d8_512x512_160k_ade20k": Mutated(
        small={**DILATED, "decode_head.isa_channels": 32, "decode_head.down_factor": (2, 4)},
        options={
            **head_options("decode_head", 64),
            **ONE_MAP,
            "decode_head.isa_channels": [64],
            "decode_head.down_factor": [(4, 2), (8, 8), (2,), 2],
            "decode_head.type": ["DAHead"],
        },
        harmless={"decode_head.dropout_ratio": 0.3, "decode_head.down_factor": [2, 4]},
    ),
    "ann_r50-d8_512x512_160k_ade20k": Mutated(
        small={**DILATED, "decode_head.in_channels": [64, 128], "decode_head.project_channels": 32},
        options={
            **head_options("decode_head", 64),
            "decode_head.align_corners": [True],
            "decode_head.project_channels": [64],
            "decode_head.query_scales": [(1, 1), (2,), (1, 2), (), 1],
            "decode_head.key_pool_scales": [(1, 3, 6), (1, 3, 6, 7), (), (0,)],
            "decode_head.in_index": [[3, 2], [1, 3], [2]],
            "decode_head.input_transform": ["resize_concat", None],
        },
        harmless={"decode_head.dropout_ratio": 0.3, "decode_head.key_pool_scales": [1, 3, 6, 8]},
    ),
    "psanet_r50-d8_512x512_160k_ade20k": Mutated(
        small={**DILATED, "decode_head.mask_size": (3, 5)},
        options={
            **head_options("decode_head", 64),
            **ONE_MAP,
            "decode_head.psa_type": ["collect", "distribute", "both"],
            "decode_head.compact": [True],
            "decode_head.shrink_factor": [1, 3, 0],
            "decode_head.mask_size": [(5, 3), (3, 4), (3,), 3, (0, 3)],
            "decode_head.normalization_factor": [2.0, None, 0],
            "decode_head.psa_softmax": [False],
        },
        harmless={"decode_head.dropout_ratio": 0.3, "decode_head.normalization_factor": 1},
    ),
    "deeplabv3_unet_s5-d16_128x128_40k_stare": Mutated(
        small={
            "backbone.base_channels": 4,
            "backbone.enc_num_convs": (2, 2, 1, 2, 1),
            "decode_head.in_channels": 4,
            "decode_head.dilations": (1, 2, 3, 4),
            "auxiliary_head.in_channels": 8,
        },
        options={
            "backbone.in_channels": [4],
            "backbone.base_channels": [8],
            "backbone.num_stages": [4],
            "backbone.strides": [(1, 1, 1, 1, 2), (1, 2, 1, 1, 1), (2, 1, 1, 1, 1), (1, 1, 1, 1, 3), (1, 1, 1, 1)],
            "backbone.enc_num_convs": [(2, 2, 2, 2, 2)],
            "backbone.dec_num_convs": [(2, 2, 2, 1), (1, 2, 2, 2), (2, 2, 2)],
            "backbone.downsamples": [(True, True, True, False), (False, True, True, True)],
            "backbone.enc_dilations": [(1, 1, 1, 2, 1), (2, 1, 1, 1, 1)],
            "backbone.dec_dilations": [(2, 1, 1, 1), (1, 1, 1, 2)],
            "backbone.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "IN"}],
            "backbone.act_cfg": [{"type": "LeakyReLU"}, {"type": "PReLU"}, None],
            "backbone.conv_cfg": [{"type": "ConvWS"}],
            "backbone.upsample_cfg": [
                {"type": "DeconvModule"},
                {"type": "DeconvModule", "kernel_size": 2},
                {"type": "DeconvModule", "kernel_size": 3},
                {"type": "DeconvModule", "scale_factor": 4},
                {"type": "InterpConv", "kernel_size": 3, "padding": 1},
                {"type": "InterpConv", "conv_first": True},
                {"type": "InterpConv", "upsample_cfg": {"scale_factor": 2, "mode": "nearest"}},
                {"type": "carafe"},
                None,
            ],
            "backbone.dcn": [True],
            "backbone.plugins": [[{"cfg": {"type": "ContextBlock"}}]],
            "backbone.no_such_option": [1],
            "decode_head.dilations": [(1, 2, 3, 5)],
            "decode_head.in_index": [3],
        },
        harmless={"backbone.norm_eval": True, "backbone.with_cp": True, "backbone.downsamples": [1, 1, 1, 1]},
    ),
    "erfnet_fcn_4x4_512x1024_160k_cityscapes": Mutated(
        small={
            "backbone.enc_downsample_channels": (8, 12, 16),
            "backbone.enc_stage_non_bottlenecks": (1, 2),
            "backbone.enc_non_bottleneck_dilations": (2, 4),
            "backbone.dec_stages_non_bottleneck": (1, 1),
            "backbone.dec_non_bottleneck_channels": (12, 8),
            "decode_head.in_channels": 8,
            "decode_head.channels": 16,
        },
        options={
            "backbone.in_channels": [4],
            "backbone.enc_downsample_channels": [(8, 10, 16), (8, 16), (8, 8, 16)],
            "backbone.enc_stage_non_bottlenecks": [(2, 2), (1, 4), (1, 3)],
            "backbone.enc_non_bottleneck_dilations": [(2, 3), (4, 2), (1,)],
            "backbone.enc_non_bottleneck_channels": [(12,)],
            "backbone.dec_upsample_channels": [(12,)],
            "backbone.dec_stages_non_bottleneck": [(2, 1), (1, 0), (1,)],
            "backbone.dec_non_bottleneck_channels": [(10, 8)],
            "backbone.no_such_option": [1],
        },
        harmless={
            "backbone.dropout_ratio": 0.3,
            # the original takes these, and builds all the same
            "backbone.enc_non_bottleneck_channels": (1, 2),
            "backbone.dec_upsample_channels": (1, 2),
            "backbone.norm_cfg": {**NORM, "eps": 1e-5},
            "backbone.act_cfg": {"type": "GELU"},
            "backbone.conv_cfg": {"type": "ConvWS"},
        },
    ),
    "cgnet_680x680_60k_cityscapes": Mutated(
        small={
            "backbone.num_channels": (8, 12, 16),
            "backbone.num_blocks": (2, 2),
            "backbone.reductions": (2, 4),
            "decode_head.in_channels": 32,
            "decode_head.channels": 32,
        },
        options={
            "backbone.in_channels": [4],
            "backbone.num_channels": [(10, 12, 16), (8, 14, 16), (8, 12)],
            "backbone.num_blocks": [(3, 2), (2, 1), (0, 2)],
            "backbone.dilations": [(3, 4), (2, 3)],
            "backbone.reductions": [(3, 4), (2, 8), (2,)],
            "backbone.norm_cfg": [{**NORM, "eps": 1e-5}, {"type": "GN", "num_groups": 32}, None],
            "backbone.act_cfg": [{"type": "ReLU"}, None],
            "backbone.conv_cfg": [{"type": "ConvWS"}],
            "backbone.no_such_option": [1],
            "decode_head.in_index": [1],
        },
        harmless={
            "backbone.norm_eval": True,
            "backbone.with_cp": True,
            "backbone.act_cfg": {"type": "PReLU", "num_parameters": 3},
            "train_cfg": {},
        },
    ),
    "bisenetv1_r18-d32_4x4_1024x1024_160k_cityscapes": Mutated(
        small={
            "backbone.backbone_cfg.base_channels": 4,
            "backbone.backbone_cfg.stem_channels": 8,
            "backbone.context_channels": (8, 16, 32),
            "backbone.spatial_channels": (4, 4, 4, 8),
            "backbone.out_channels": 16,
            "decode_head.in_channels": 16,
            "decode_head.channels": 16,
            "auxiliary_head": None,
        },
        options={
            "backbone.backbone_cfg.depth": [34, 50],
            "backbone.backbone_cfg.out_indices": [(1, 2, 3), (0, 1, 2)],
            "backbone.backbone_cfg.type": ["ResNetV1c", "NoNet"],
            "backbone.backbone_cfg.norm_cfg": [{**NORM, "eps": 1e-2}],
            "backbone.backbone_cfg.in_channels": [4],
            "backbone.backbone_cfg.no_such_option": [1],
            "backbone.in_channels": [4],
            "backbone.context_channels": [(8, 16, 16), (12, 16, 32), (8, 16)],
            "backbone.spatial_channels": [(8, 4, 4, 8), (4, 4, 4, 12), (4, 4, 8)],
            "backbone.out_channels": [8],
            "backbone.out_indices": [(1, 2), (2, 1, 0), 0],
            "backbone.no_such_option": [1],
        },
        harmless={
            "backbone.norm_cfg": {**NORM, "eps": 1e-2},
            "backbone.act_cfg": {"type": "GELU"},
            "backbone.align_corners": True,
            "backbone.backbone_cfg.norm_eval": True,
            "backbone.out_indices": [0, 1],
        },
    ),
    "bisenetv2_fcn_4x4_1024x1024_160k_cityscapes": Mutated(
        small={
            "backbone.detail_channels": (4, 4, 8),
            "backbone.semantic_channels": (4, 4, 8, 8),
            "backbone.bga_channels": 8,
            "decode_head.in_channels": 8,
            "decode_head.channels": 16,
            "auxiliary_head": None,
        },
        options={
            "backbone.detail_channels": [(4, 8, 8), (4, 4, 4), (4, 8), ()],
            "backbone.semantic_channels": [(4, 8, 8, 8), (4, 4, 8, 16), (4, 8, 8)],
            "backbone.semantic_expansion_ratio": [4],
            "backbone.bga_channels": [16],
            "backbone.align_corners": [True],
            "backbone.in_channels": [4],
            "backbone.out_indices": [(1, 2), (4, 0)],
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.norm_cfg": {**NORM, "eps": 1e-2}, "backbone.act_cfg": None, "backbone.out_indices": [0]},
    ),
    "stdc1_512x1024_80k_cityscapes": Mutated(
        small={
            "backbone.backbone_cfg.channels": (4, 4, 16, 24, 32),
            "backbone.last_in_channels": (32, 24),
            "backbone.out_channels": 8,
            "backbone.ffm_cfg": {"in_channels": 24, "out_channels": 16, "scale_factor": 4},
            "decode_head.in_channels": 16,
            "decode_head.channels": 16,
            "auxiliary_head": None,
        },
        options={
            "backbone.backbone_cfg.stdc_type": ["STDCNet2", "STDCNet3"],
            "backbone.backbone_cfg.channels": [(8, 4, 16, 24, 32), (4, 4, 16, 24), (4, 4, 16, 24, 36)],
            "backbone.backbone_cfg.bottleneck_type": ["add", "sum"],
            "backbone.backbone_cfg.num_convs": [3, 1],
            "backbone.backbone_cfg.with_final_conv": [True],
            "backbone.backbone_cfg.norm_cfg": [{**NORM, "eps": 1e-2}, None],
            "backbone.backbone_cfg.act_cfg": [{"type": "GELU"}, None],
            "backbone.backbone_cfg.in_channels": [4],
            "backbone.backbone_cfg.no_such_option": [1],
            "backbone.last_in_channels": [(24, 32), (32,)],
            "backbone.out_channels": [16],
            "backbone.ffm_cfg": [
                {"in_channels": 32, "out_channels": 16, "scale_factor": 4},
                {"in_channels": 24, "out_channels": 16, "scale_factor": 2},
                {"in_channels": 24, "out_channels": 16, "scale_factor": 32},
                {"in_channels": 24, "out_channels": 32, "scale_factor": 4},
                {"in_channels": 24, "out_channels": 16, "norm_cfg": {"type": "BN", "eps": 1e-2}},
                {"in_channels": 24, "out_channels": 16, "act_cfg": {"type": "GELU"}},
                {"in_channels": 24, "out_channels": 16, "no_such_option": 1},
            ],
            "backbone.norm_cfg": [{"type": "BN", "eps": 1e-2}, {"type": "GN", "num_groups": 32}],
            "backbone.upsample_mode": ["bilinear", "bicubic", "trilinear"],
            "backbone.align_corners": [False],  # which PyTorch takes with other modes than "nearest" alone
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.ffm_cfg": {"in_channels": 24, "out_channels": 16}, "backbone.norm_cfg": NORM},
    ),
    "icnet_r18-d8_832x832_80k_cityscapes": Mutated(
        small={
            "backbone.backbone_cfg.base_channels": 4,
            "backbone.backbone_cfg.stem_channels": 8,
            "backbone.layer_channels": [8, 32],
            "backbone.psp_out_channels": 64,
            "backbone.out_channels": [32, 32, 64],
            "neck.in_channels": [32, 32, 64],
            "neck.out_channels": 32,
            "decode_head.in_channels": 32,
            "decode_head.channels": 32,
            "auxiliary_head": None,
        },
        options={
            **{path.replace("backbone.", "backbone.backbone_cfg."): values for path, values in RESNET_OPTIONS.items()},
            "backbone.backbone_cfg.depth": [34],
            "backbone.backbone_cfg.style": ["tensorflow"],
            "backbone.backbone_cfg.out_indices": [],
            "backbone.backbone_cfg.type": ["ResNet", "ResNetV1d", "MobileNetV2"],
            "backbone.backbone_cfg.num_stages": [3],
            "backbone.in_channels": [4],
            "backbone.layer_channels": [[8, 16]],
            "backbone.light_branch_middle_channels": [64],
            "backbone.psp_out_channels": [32],
            "backbone.out_channels": [[32, 32], [64, 32, 64]],
            "backbone.pool_scales": [(1, 2, 3), (2, 1, 3, 6)],
            "backbone.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "GN", "num_groups": 32}, {"type": "IN"}],
            "backbone.act_cfg": [{"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Mish"}, None],
            "backbone.conv_cfg": [{"type": "ConvWS"}],
            "backbone.align_corners": [True],
            "backbone.no_such_option": [1],
            "neck.in_channels": [[32, 32], [32, 32, 32]],
            "neck.out_channels": [64],
            "neck.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "GN", "num_groups": 32}, {"type": "IN"}],
            "neck.act_cfg": [{"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Mish"}],
            "neck.conv_cfg": [{"type": "ConvWS"}],
            "neck.align_corners": [True],
            "neck.no_such_option": [1],
            "neck.type": ["FPN"],
            "decode_head.in_index": [1, 0],
        },
        harmless={
            "backbone.backbone_cfg.out_indices": (0, 1),
            "backbone.backbone_cfg.norm_eval": True,
            "backbone.backbone_cfg.style": "caffe",  # of bottlenecks
            "backbone.norm_cfg": {"type": "BN", "momentum": 0.01},
            "decode_head.dropout_ratio": 0.3,
        },
    ),
    "fast_scnn_lr0.12_8x4_160k_cityscapes": Mutated(
        small={
            "backbone.downsample_dw_channels": [32, 32],
            "backbone.global_in_channels": 32,
            "backbone.higher_in_channels": 32,
            "backbone.global_block_channels": [32, 32, 64],
            "backbone.global_out_channels": 64,
            "backbone.lower_in_channels": 64,
            "backbone.fusion_out_channels": 32,
            "decode_head.in_channels": 32,
            "decode_head.channels": 32,
            "auxiliary_head": None,
        },
        options={
            **head_options("decode_head", 32),
            "decode_head.act_cfg": [{"type": "Mish"}],
            "decode_head.num_convs": [1, 0],
            "decode_head.kernel_size": [1],
            "decode_head.concat_input": [True],
            "decode_head.dw_act_cfg": [{"type": "ReLU"}, {"type": "GELU"}, "default"],
            "decode_head.in_index": [0, 1],
            "decode_head.type": ["FCNHead"],
            "backbone.in_channels": [4],
            "backbone.downsample_dw_channels": [[32, 64], [32]],
            "backbone.global_in_channels": [64],
            "backbone.global_out_channels": [32],
            "backbone.lower_in_channels": [32],
            "backbone.global_block_channels": [[32, 64, 64], [32, 32]],
            "backbone.global_block_strides": [[2, 2, 2], [1, 2, 1], [2, 2, 3]],
            "backbone.fusion_out_channels": [64, 48],
            "backbone.out_indices": [[1, 2, 0], [0, 1], [0, 1, 1], []],
            "backbone.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "IN"}],
            "backbone.act_cfg": [{"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Mish"}, None],
            "backbone.dw_act_cfg": [{"type": "ReLU"}, {"type": "GELU"}, "default"],
            "backbone.conv_cfg": [{"type": "ConvWS"}],
            "backbone.align_corners": [True],
            "backbone.no_such_option": [1],
        },
        harmless={
            "decode_head.act_cfg": {"type": "LeakyReLU"},
            "decode_head.dilation": 2,
            "decode_head.dw_act_cfg": None,
            "decode_head.in_index": 2,
            "backbone.out_indices": [2],
            "backbone.norm_cfg": {"type": "BN"},
        },
    ),
    "fastfcn_r50-d32_jpu_psp_512x512_160k_ade20k": Mutated(
        small={
            "backbone.depth": 18,
            "backbone.base_channels": 8,
            "backbone.stem_channels": 8,
            "neck.in_channels": [16, 32, 64],
            "neck.mid_channels": 32,
            "decode_head.in_channels": 128,
            "decode_head.channels": 32,
            "auxiliary_head": None,
        },
        options={
            "neck.in_channels": [[16, 32], [16, 32, 32]],
            "neck.mid_channels": [64],
            "neck.start_level": [1, 3, -1],
            "neck.end_level": [2, 0, 4, -2],
            "neck.dilations": [[1, 2, 4], [1, 2, 4, 6], []],
            "neck.align_corners": [True],
            "neck.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "GN", "num_groups": 32}, {"type": "IN"}],
            "neck.act_cfg": [{"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Mish"}, None],
            "neck.conv_cfg": [{"type": "ConvWS"}],
            "neck.no_such_option": [1],
            "neck.type": ["FPN"],
        },
        harmless={"neck.end_level": 3, "neck.norm_cfg": {"type": "BN", "momentum": 0.01}, "neck.init_cfg": None},
    ),
    "fcn_s101-d8_512x512_160k_ade20k": Mutated(
        small={
            "backbone.depth": 50,
            "backbone.num_stages": 2,
            "backbone.base_channels": 32,
            "backbone.stem_channels": 8,
            "backbone.strides": (1, 2),
            "backbone.dilations": (1, 2),
            "backbone.out_indices": (0, 1),
            "decode_head.in_index": 1,
            "decode_head.in_channels": 256,
            "decode_head.channels": 32,
            "auxiliary_head": None,
        },
        options={
            **RESNET_OPTIONS,
            "backbone.depth": [18, 269],
            "backbone.dilations": [(1, 1)],
            "backbone.strides": [(2, 2)],
            "backbone.multi_grid": [(1, 2), (1, 2, 1, 1)],
            "backbone.avg_down": [False],
            "backbone.type": ["ResNetV1d", "ResNeXt"],
            "backbone.out_indices": [(0,)],
            "backbone.radix": [1, 4, 0],
            "backbone.reduction_factor": [1, 2],
            "backbone.groups": [2, 3],
            "backbone.avg_down_stride": [False],
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.base_width": 8, "backbone.norm_eval": True, "backbone.reduction_factor": 8},
    ),
    "segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512": Mutated(
        small={
            "backbone.embed_dims": [8, 12, 16, 24],
            "backbone.depths": [1, 1, 1, 1],
            "backbone.mlp_ratios": [2, 2, 2, 2],
            "decode_head.in_channels": [12, 16, 24],
            "decode_head.channels": 64,
            "decode_head.ham_channels": 32,
        },
        options={
            "decode_head.channels": [32],
            "decode_head.act_cfg": [{"type": "GELU"}],
            "decode_head.no_such_option": [1],
            "backbone.embed_dims": [[8, 12, 16]],
            "backbone.depths": [[1, 1, 1]],
            "backbone.mlp_ratios": [[2, 2, 2, 3]],
            "backbone.num_stages": [3],
            "backbone.attention_kernel_sizes": [[3, [1, 7], [1, 11], [1, 21]], [5, [1, 7], [1, 11]]],
            "backbone.attention_kernel_paddings": [[2, [0, 3], [0, 5], [0, 9]]],
            "backbone.norm_cfg": [{**NORM, "eps": 1e-2}, {"type": "GN", "num_groups": 32}, {"type": "LN"}, None],
            "backbone.act_cfg": [{"type": "ReLU"}],
            "backbone.in_channels": [4],
            "backbone.no_such_option": [1],
            "decode_head.norm_cfg": [{"type": "GN", "num_groups": 16}, {**NORM}, None, {"type": "IN"}],
            "decode_head.ham_channels": [64],
            "decode_head.ham_kwargs": [
                {"MD_S": 2, "MD_R": 16},
                {"MD_R": 8},
                {"MD_R": 16, "eval_steps": 6},
                {"MD_R": 16, "EVAL_STEPS": 1},
                {"MD_R": 16, "rand_init": False},
                {"MD_R": 16, "SPATIAL": False},
                {"MD_R": 16, "no_such_option": 1},
            ],
            "decode_head.in_index": [[3, 2, 1]],
            "decode_head.align_corners": [True],
            "decode_head.input_transform": ["resize_concat"],
        },
        harmless={
            "backbone.drop_path_rate": 0.3,
            "decode_head.dropout_ratio": 0.3,
            "decode_head.ham_kwargs": {"MD_R": 16, "MD_D": 7, "INV_T": 1, "train_steps": 3},
        },
    ),
    "daformer_mitb5_gta2cs_dacs": Mutated(
        small={
            "backbone": {
                "type": "MixVisionTransformer",
                "embed_dims": [8, 8, 16, 16],
                "num_heads": [1, 1, 2, 2],
                "depths": [1, 1, 1, 1],
                "sr_ratios": [8, 4, 2, 1],
            },
            "decode_head.in_channels": [8, 8, 16, 16],
            "decode_head.channels": 32,
            "decode_head.decoder_params.embed_dims": 8,
        },
        options={
            "decode_head.channels": [64],
            "decode_head.num_classes": [7],
            "decode_head.in_index": [[0, 1, 2, 2], [0, 1, 3, 2], [1, 0, 2, 3]],
            "decode_head.align_corners": [True],
            "decode_head.input_transform": ["resize_concat"],
            "decode_head.no_such_option": [1],
            "decode_head.decoder_params.embed_dims": [[8, 8, 8, 6], [8, 8, 8]],
            "decode_head.decoder_params.embed_cfg": [{"type": "conv", "kernel_size": 1}, {"type": "id"}],
            "decode_head.decoder_params.embed_neck_cfg": [{"type": "rawconv_and_aspp", "kernel_size": 1}],
            "decode_head.decoder_params.no_such_option": [1],
            "decode_head.decoder_params.fusion_cfg.sep": [False],
            "decode_head.decoder_params.fusion_cfg.pool": [True],
            "decode_head.decoder_params.fusion_cfg.dilations": [[1, 6, 12], [1, 6, 12, 8]],
            "decode_head.decoder_params.fusion_cfg.context_cfg": [{"type": "id"}],
            "decode_head.decoder_params.fusion_cfg.act_cfg": [{"type": "GELU"}, {"type": "Mish"}, None],
            "decode_head.decoder_params.fusion_cfg.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "IN"}],
            "decode_head.decoder_params.fusion_cfg.no_such_option": [1],
            "decode_head.decoder_params.fusion_cfg": [
                {"type": "conv", "kernel_size": 1, "norm_cfg": NORM},
                {"type": "isa", "isa_channels": 8, "norm_cfg": NORM},
                {"type": "isa", "isa_channels": 8, "norm_cfg": NORM, "in_conv_kernel_size": 3},
            ],
        },
        harmless={
            "decode_head.dropout_ratio": 0.3,
            "decode_head.norm_cfg": None,
            "decode_head.act_cfg": {"type": "GELU"},
            "decode_head.decoder_params.embed_neck_cfg": "same_as_embed_cfg",
        },
    ),
    "dlv2_r101v1c-d8_gta2cs_dacs": Mutated(
        small={**RESNET, "backbone.depth": 18, "decode_head.in_channels": 32},
        options={
            "decode_head.dilations": [(6, 12), (6, 12, 18, 1), ()],
            "decode_head.num_classes": [7],
            "decode_head.in_index": [2],
            "decode_head.input_transform": ["multiple_select"],
            "decode_head.align_corners": [True],
            "decode_head.channels": [8],
            "decode_head.norm_cfg": [None],
            "decode_head.dropout_ratio": [0.1],
            "decode_head.no_such_option": [1],
        },
        harmless={"decode_head.init_cfg": None, "decode_head.act_cfg": None},
    ),
}


def original(name: str) -> dict[str, Any]:
    """The config of a row of the zoo, or of a record whose model is no row."""
    return zoo.original_config(name) or json.loads((RECORDS / f"{name}.json").read_text())["config"]


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


def picture(size: tuple[int, int]) -> torch.Tensor:
    """The same random picture for all models that see one of this size."""
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(config: dict[str, Any], size: tuple[int, int]) -> tuple[dict[str, torch.Size], torch.Tensor | None]:
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
    if translated.backbone_config.num_channels != 3:
        return shapes, None
    padded = tuple(round_up(side, translated.size_multiple) for side in size)
    maps, _ = model.forward_maps(pad_image(picture(size), padded, 0.0)[None])
    resized = [
        torch.nn.functional.interpolate(out.logits, size, mode="bilinear", align_corners=head.config.align_corners)
        for head, out in zip(model.decode_heads, model.decode(maps), strict=True)
    ]
    return shapes, torch.cat(resized, dim=1)


@pytest.mark.parametrize("name", MUTATED)
def test_every_altered_option_shows(name):
    case = MUTATED[name]
    config = altered(original(name), case.small)
    shapes, logits = outputs(config, case.size)
    unseen = []
    for path, values in case.options.items():
        for value in values:
            try:
                other_shapes, other = outputs(altered(config, {path: value}), case.size)
            except SegZooError as error:
                assert error.args[0].count("\n") == 0
                continue
            if other_shapes == shapes and (other - logits).abs().max() < 1e-4 * logits.abs().max():
                unseen.append((path, value))
    assert not unseen
    for path, value in case.harmless.items():
        other_shapes, other = outputs(altered(config, {path: value}), case.size)
        assert other_shapes == shapes and torch.equal(other, logits), path

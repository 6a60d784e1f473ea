"""Cascades of heads, heads inside heads, and necks."""

from conversion.mutations.case import NORM, RESNET, Mutated, head_options

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

CASES = {
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
}

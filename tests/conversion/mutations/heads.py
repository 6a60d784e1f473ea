"""Decode heads behind a dilated ResNet."""

from conversion.mutations.case import ONE_MAP, RESNET, RESNET_OPTIONS, Mutated, head_options

DILATED = {**RESNET, "decode_head.in_channels": 128, "decode_head.channels": 64, "auxiliary_head": None}
"""A small ResNet with a head that reads its last map."""
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

CASES = {
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
}

"""Models of mmsegmentation 1.x and of their authors, whose configs are those of parity records: PIDNet, DDRNet, PoolFormer, PVT, VAN."""

from conversion.mutations.case import NORM, Mutated, head_options

_SIZE = (64, 96)
_STREETS = {
    **head_options("decode_head", 64),
    "decode_head.in_channels": [16],
    "decode_head.input_transform": ["resize_concat"],
    "backbone.channels": [16],
    "backbone.ppm_channels": [16],
    "backbone.align_corners": [True],
    "backbone.in_channels": [4],
    "backbone.norm_cfg": [{**NORM, "eps": 1e-2}, {"type": "GN", "num_groups": 32}, None],
    "backbone.act_cfg": [{"type": "GELU"}, None],
    "backbone.no_such_option": [1],
}
_PYRAMID = {"neck.in_channels": [8, 12, 16, 24], "neck.out_channels": 8, "decode_head.in_channels": [8] * 4}

CASES = {
    "pidnet-s_2xb6-120k_1024x1024-cityscapes": Mutated(
        small={
            "backbone.channels": 8,
            "backbone.ppm_channels": 8,
            "backbone.num_branch_blocks": 2,
            "decode_head.in_channels": 32,
            "decode_head.channels": 64,
        },
        options={
            **_STREETS,
            "decode_head.align_corners": [False],
            "backbone.num_stem_blocks": [1, 3],
            "backbone.num_branch_blocks": [1, 3],
            "backbone.type": ["DDRNet"],
        },
        harmless={"decode_head.dropout_ratio": 0.3, "decode_head.in_index": 2, "decode_head.loss_decode": []},
        size=_SIZE,
    ),
    "ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024": Mutated(
        small={
            "backbone.channels": 8,
            "backbone.ppm_channels": 8,
            "decode_head.in_channels": 32,
            "decode_head.channels": 64,
        },
        options={**_STREETS, "decode_head.align_corners": [True], "decode_head.type": ["PIDHead"]},
        harmless={"decode_head.dropout_ratio": 0.3, "decode_head.loss_decode": []},
        size=_SIZE,
    ),
    "fpn_poolformer_s12_8xb4-40k_ade20k-512x512": Mutated(
        small={**_PYRAMID, "backbone.arch": {"layers": [1, 1, 2, 1], "embed_dims": [8, 12, 16, 24]}},
        options={
            "backbone.arch": [
                {"layers": [1, 1, 1, 1], "embed_dims": [8, 12, 16, 24]},
                {"layers": [1, 1, 2, 1], "embed_dims": [8, 12, 16, 24], "mlp_ratios": [2, 2, 2, 2]},
                {"layers": [1, 1, 2, 1], "embed_dims": [8, 12, 16, 24], "no_such_option": 1},
                "giant",
            ],
            "backbone.pool_size": [5, 2],
            "backbone.norm_cfg": [{"type": "GN", "num_groups": 1, "eps": 1e-1}, {"type": "GN", "num_groups": 2}, None],
            "backbone.act_cfg": [{"type": "ReLU"}],
            "backbone.in_patch_size": [5],
            "backbone.in_stride": [2],
            "backbone.in_pad": [3],
            "backbone.down_patch_size": [2],
            "backbone.down_stride": [1],
            "backbone.down_pad": [0],
            "backbone.out_indices": [(0, 1, 4, 6), (0, 2, 4)],
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.drop_path_rate": 0.3, "backbone.drop_rate": 0.1, "backbone.frozen_stages": 2},
    ),
    "original_fpn_van_b0_ade20k_40k": Mutated(
        small={
            **_PYRAMID,
            "backbone.embed_dims": [8, 12, 16, 24],
            "backbone.depths": [1, 1, 2, 1],
            "backbone.mlp_ratios": [2, 2, 2, 2],
        },
        options={
            "backbone.embed_dims": [[8, 12, 16]],
            "backbone.depths": [[1, 1, 1, 1], [1, 1, 1]],
            "backbone.mlp_ratios": [[2, 2, 2, 4]],
            "backbone.norm_cfg": [{**NORM, "eps": 1e-1}, {"type": "LN"}, None],
            "backbone.norm_layer": ["LayerNorm"],
            "backbone.linear": [True],
            "backbone.in_chans": [4],
            "backbone.num_stages": [3],
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.drop_path_rate": 0.3, "backbone.sr_ratios": [4, 2, 1, 1], "backbone.num_heads": [1] * 4},
    ),
    "original_fpn_pvt_t_ade20k_40k": Mutated(
        small={},
        options={
            "backbone.type": ["pvt_small", "pvt_v2_b1", "pvt_v2_b2_li"],
            "backbone.F4": [True],
            "backbone.no_such_option": [1],
        },
        harmless={"backbone.embed_dims": [8] * 4, "backbone.depth": 18, "backbone.out_indices": (0, 1)},
    ),
}

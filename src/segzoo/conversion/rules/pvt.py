"""PVT v1 (``pvt_tiny`` to ``pvt_large``) and v2 (``pvt_v2_b0`` to ``pvt_v2_b5``, ``pvt_v2_b2_li``) of their authors.

These classes do not read the options that they are given. PVT v2 has the layers of MiT, and other widths inside them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.mit import MiTConfig
from segzoo.backbones.pvt import VARIANTS, PVTConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.mit import original_mit_keys
from segzoo.conversion.rules.poolformer import LEFT_OVER

_UNREAD = (
    *LEFT_OVER,
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dims", "num_heads", "mlp_ratios", "qkv_bias"),
    *("qk_scale", "drop_rate", "attn_drop_rate", "drop_path_rate", "depths", "sr_ratios"),
)
_V2 = {"channels": [64, 128, 320, 512], "mlp_ratios": [8, 8, 4, 4], "drop_path_rate": 0.1}
# Keyword arguments of MiTConfig.
V2_VARIANTS = {
    "pvt_v2_b0": {**_V2, "channels": [32, 64, 160, 256]},
    "pvt_v2_b1": _V2,
    "pvt_v2_b2": {**_V2, "depths": [3, 4, 6, 3]},
    "pvt_v2_b2_li": {**_V2, "depths": [3, 4, 6, 3], "reductions": [1, 1, 1, 1], "pooled_grid": 7},
    "pvt_v2_b3": {**_V2, "depths": [3, 4, 18, 3]},
    "pvt_v2_b4": {**_V2, "depths": [3, 8, 27, 3]},
    "pvt_v2_b5": {**_V2, "depths": [3, 6, 40, 3], "mlp_ratios": [4, 4, 4, 4]},
}


def _translate(original: Mapping[str, Any], context: Context) -> PVTConfig:
    options = Options(original, context.where)
    options.ignore(*_UNREAD)
    options.expect("F4", False)
    options.finish()
    return PVTConfig(**VARIANTS[original["type"]])


def _translate_v2(original: Mapping[str, Any], context: Context) -> MiTConfig:
    options = Options(original, context.where)
    options.ignore(*_UNREAD)
    options.finish()
    return MiTConfig(**V2_VARIANTS[original["type"]])


def pvt_keys(config: PVTConfig) -> Iterable[KeyRule]:
    """Key rules of PVT v1."""
    for stage in range(config.num_stages):
        number, new = stage + 1, f"stages.{stage}"
        block, ours = f"block{number}.{{}}", f"{new}.blocks.{{}}"
        yield KeyRule(f"pos_embed{number}", f"{new}.position_embedding")
        yield KeyRule(f"patch_embed{number}.proj.{{}}", f"{new}.patch_embedding.{{}}")
        yield KeyRule(f"patch_embed{number}.norm.{{}}", f"{new}.patch_norm.{{}}")
        yield KeyRule(f"{block}.attn.sr.{{}}", f"{ours}.attention.reduction.{{}}")
        yield KeyRule(f"{block}.attn.{{}}", f"{ours}.attention.{{}}")
        yield KeyRule(f"{block}.mlp.{{}}", f"{ours}.mlp.{{}}")
        for i in (1, 2):
            yield KeyRule(f"{block}.norm{i}.{{}}", f"{ours}.norm{i}.{{}}")


PVT = register(BackboneRule(types=tuple(VARIANTS), translate=_translate, keys=pvt_keys))
PVT_V2 = register(BackboneRule(types=tuple(V2_VARIANTS), translate=_translate_v2, keys=original_mit_keys))

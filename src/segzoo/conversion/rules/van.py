"""VAN of its authors' segmentation code: ``VAN``, and ``van_tiny`` to ``van_large`` of its first version."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.van import VARIANTS, VANConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import refuse_namesakes
from segzoo.conversion.rules.poolformer import LEFT_OVER

# Names of the first version, which read no options; their last norms have an eps of their own.
_FIRST = {"van_tiny": "van_b0", "van_small": "van_b1", "van_base": "van_b2", "van_large": "van_b3"}
_FIRST_EPS = 1e-6
# What the class takes and does not use, a size that no layer depends on, and initialisation.
_UNUSED = (
    *("img_size", "patch_size", "num_classes", "num_heads", "qkv_bias", "qk_scale", "attn_drop_rate", "sr_ratios"),
    *("init_cfg", "pretrained", "style"),
)


def _translate(original: Mapping[str, Any], context: Context) -> VANConfig:
    options = Options(original, context.where)
    refuse_namesakes(options, context, "takes its sizes by arch and names its weights otherwise")
    options.ignore(*_UNUSED)
    options.expect("norm_layer", None)
    options.expect("linear", False)
    channels = list(options.take("embed_dims", (64, 128, 256, 512)))
    stages = options.take("num_stages", 4)
    ratios, depths = options.take("mlp_ratios", (8, 8, 4, 4)), options.take("depths", (3, 4, 6, 3))
    if stages != len(channels):
        raise options.error(f"num_stages={stages!r} differs from the number of entries of embed_dims={channels}")
    config = VANConfig(
        num_channels=options.take("in_chans", 3),
        channels=channels,
        depths=list(depths),
        mlp_ratios=list(ratios),
        **options.batch_norm(),
        dropout=float(options.take("drop_rate", 0.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
    )
    options.finish()
    return config


def _translate_first(original: Mapping[str, Any], context: Context) -> VANConfig:
    options = Options(original, context.where)
    options.ignore(*LEFT_OVER, *_UNUSED)
    options.finish()
    return VANConfig(**VARIANTS[_FIRST[original["type"]]], map_norm_eps=_FIRST_EPS)


def van_keys(config: VANConfig) -> Iterable[KeyRule]:
    """The key rules."""
    for stage in range(config.num_stages):
        number, new = stage + 1, f"stages.{stage}"
        yield KeyRule(f"patch_embed{number}.proj.{{}}", f"{new}.patch_embedding.{{}}")
        yield KeyRule(f"patch_embed{number}.norm.{{}}", f"{new}.patch_norm.{{}}")
        block, ours = f"block{number}.{{}}", f"{new}.blocks.{{}}"
        for i in (1, 2):
            yield KeyRule(f"{block}.norm{i}.{{}}", f"{ours}.norm{i}.{{}}")
            yield KeyRule(f"{block}.layer_scale_{i}", f"{ours}.scale{i}")
            yield KeyRule(f"{block}.mlp.fc{i}.{{}}", f"{ours}.mlp.fc{i}.{{}}")
            yield KeyRule(f"{block}.attn.proj_{i}.{{}}", f"{ours}.attention.proj{i}.{{}}")
        yield KeyRule(f"{block}.mlp.dwconv.dwconv.{{}}", f"{ours}.mlp.depthwise_conv.{{}}")
        for theirs, name in (("conv0", "near"), ("conv_spatial", "far"), ("conv1", "mix")):
            yield KeyRule(f"{block}.attn.spatial_gating_unit.{theirs}.{{}}", f"{ours}.attention.{name}.{{}}")
        yield KeyRule(f"norm{number}.{{}}", f"{new}.norm.{{}}")


VAN = register(BackboneRule(types=("VAN",), translate=_translate, keys=van_keys))
FIRST_VAN = register(BackboneRule(types=tuple(_FIRST), translate=_translate_first, keys=van_keys))

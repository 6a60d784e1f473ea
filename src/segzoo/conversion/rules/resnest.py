"""ResNeSt of mmsegmentation, and its namesakes of mmdetection and mmpretrain."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.resnest import ResNeStConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules import resnet


def translate(original: Mapping[str, Any], context: Context) -> tuple[ResNeStConfig, Iterable[KeyRule]]:
    """Translates ``dict(type="ResNeSt", depth=101, radix=2, reduction_factor=4, ...)``."""
    options = Options(original, context.where)
    own = {
        "radix": options.take("radix", 2),
        "reduction_factor": options.take("reduction_factor", 4),
        "average_stride": bool(options.take("avg_down_stride", True)),
    }
    shared = resnet.resnet_fields(options, context, ResNeStConfig, grouped=True, deep_stem=True, v1d=True)
    options.finish()
    config = ResNeStConfig(**own, **shared)
    return config, tuple(resnet.namesake_keys(config, context))


def attention_keys(config: ResNeStConfig) -> Iterable[KeyRule]:
    """The key rules of the split attention of all stages."""
    for stage in range(config.num_stages):
        old, new = f"layer{stage + 1}.{{}}.conv2", f"stages.{stage}.{{}}.conv2"
        for name, place in (
            ("conv", "branches.conv"),
            ("bn0", "branches.norm"),
            ("fc1", "squeeze.conv"),
            ("bn1", "squeeze.norm"),
            ("fc2", "scores"),
        ):
            yield KeyRule(f"{old}.{name}.{{}}", f"{new}.{place}.{{}}")


def keys(config: ResNeStConfig) -> Iterable[KeyRule]:
    """The key rules: the attention's, and those of a ResNet."""
    yield from attention_keys(config)
    yield from resnet.keys(config)


RESNEST = register(BackboneRule(types=("ResNeSt",), translate=translate, keys=keys))

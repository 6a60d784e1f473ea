"""ANNHead of mmsegmentation: asymmetric non-local networks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options
from segzoo.heads.ann import ANNHeadConfig


def translate(original: Mapping[str, Any], context: Context) -> tuple[ANNHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="ANNHead", project_channels=..., query_scales=..., key_pool_scales=..., ...)``."""
    options = Options(original, context.where)
    scales = options.take("query_scales", (1,))
    if not isinstance(scales, (list, tuple)) or not scales or any(scale != 1 for scale in scales):
        # with smaller maps of queries the original fails when it runs
        raise options.error(f"query_scales={scales!r:.200} is not supported (only 1, once or more often)")
    own = {
        "project_channels": options.take("project_channels"),
        "key_pool_scales": options.take("key_pool_scales", (1, 3, 6, 8)),
        "num_stages": len(scales),
    }
    fields, first_keys = head_options(options, context, ANNHeadConfig)
    options.finish()
    return ANNHeadConfig(**own, **fields), first_keys


def _attention_keys(original: str, native: str, *, shared: bool) -> tuple[KeyRule, ...]:
    """Key rules of a block; the original stores a projection of keys that is also the queries' under both names."""
    stage, ours = f"{original}.stages.{{}}", f"{native}.stages.{{}}"
    keys = conv_module(f"{stage}.key_project", f"{ours}.query" if shared else f"{ours}.key")
    return (
        *conv_module(f"{stage}.query_project", f"{ours}.query"),
        *(replace(rule, alias=shared) for rule in keys),
        KeyRule(f"{stage}.value_project.{{}}", f"{ours}.value.{{}}"),
        KeyRule(f"{stage}.out_project.{{}}", f"{ours}.output.{{}}"),
        *conv_module(f"{original}.bottleneck", f"{native}.fusion"),
    )


def keys(config: ANNHeadConfig) -> tuple[KeyRule, ...]:
    """The rules of both blocks and of the convolution between them."""
    own = (
        *_attention_keys("fusion", "across", shared=False),
        *conv_module("bottleneck", "conv"),
        *_attention_keys("context", "within", shared=True),
    )
    return head_keys(own, config)


ANN = register(HeadRule(types=("ANNHead",), translate=translate, keys=keys))

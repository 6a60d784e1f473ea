"""TIMMBackbone of mmsegmentation and mmpretrain: a model of timm by its name, which transformers' TimmBackbone builds too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TimmBackboneConfig
from transformers.utils import is_timm_available

from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options


def _translate(original: Mapping[str, Any], context: Context) -> TimmBackboneConfig:
    options = Options(original, context.where)
    options.ignore("pretrained", "checkpoint_path", "init_cfg")
    options.in_training("drop_rate", 0.0)
    options.in_training("drop_path_rate", 0.0)
    options.in_training("drop_block_rate", 0.0, usual=(0.0, None))
    if not options.take("features_only", not context.of_mmpretrain):
        raise options.error("features_only=False is not supported: it gives one map, without the stages' maps")
    name, indices = options.take("model_name"), options.take("out_indices", None)
    config = TimmBackboneConfig(
        backbone=name,
        num_channels=options.take("in_channels", 3),
        out_indices=_maps(name, indices, options),
        output_stride=options.take("output_stride", None),
    )
    options.finish()
    return config


def _maps(name: Any, indices: Sequence[int] | None, options: Options) -> list[int]:
    """The indices of the maps that timm's model returns; ``indices`` are those that the config names, or None.

    Raises:
        ConversionError: timm is not installed, has no model of this name, or one without these maps.
    """
    if not is_timm_available():
        raise options.error(f"model_name={name!r} is a model of timm; pip install 'segzoo[timm]'")
    import timm

    if not isinstance(name, str) or not timm.is_model(name):
        raise options.error(f"model_name={name!r}: timm {timm.__version__} has no model of this name")
    chosen = {} if indices is None else {"out_indices": tuple(indices)}
    try:
        return list(timm.create_model(name, features_only=True, **chosen).feature_info.out_indices)
    except (RuntimeError, AssertionError, IndexError) as error:
        raise options.error(f"model_name={name!r}, out_indices={indices!r}: timm cannot build it ({error})") from error


TIMM_BACKBONE = register(
    BackboneRule(types=("TIMMBackbone",), translate=_translate, keys=(KeyRule("timm_model.{}", "_backbone.{}"),))
)

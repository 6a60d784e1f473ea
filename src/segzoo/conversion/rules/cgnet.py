"""CGNet of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.cgnet import CGNetConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import plain_convolutions


def translate(original: Mapping[str, Any], context: Context) -> CGNetConfig:
    """Translates ``dict(type="CGNet", num_channels=(32, 64, 128), num_blocks=(3, 21), ...)``."""
    options = Options(original, context.where)
    options.ignore("pretrained", "init_cfg", "with_cp")  # memory and initialisation only
    options.in_training("norm_eval", False)
    plain_convolutions(options)
    _prelu(options)
    config = CGNetConfig(
        num_channels=options.take("in_channels", 3),
        channels=list(options.take("num_channels", (32, 64, 128))),
        blocks=list(options.take("num_blocks", (3, 21))),
        dilations=list(options.take("dilations", (2, 4))),
        reductions=list(options.take("reductions", (8, 16))),
        **options.batch_norm(),
        out_features=["stem", "stage1", "stage2"],
    )
    options.finish()
    return config


def _prelu(options: Options) -> None:
    """Takes ``act_cfg``, which must be a PReLU; the original sets its number of slopes itself."""
    place = f"{options.where}.act_cfg"
    original = options.take("act_cfg", {"type": "PReLU"})
    if original is None or type_name(original, place) != "PReLU":
        raise options.error(f"act_cfg={original!r} is not supported (only PReLU)")
    own = Options(original, place)
    own.ignore("num_parameters", "init")
    own.finish()


def keys(config: CGNetConfig) -> Iterable[KeyRule]:
    """The key rules; the norms of the maps have numbers in their names."""
    yield from _block("stem.{}", "stem.{}")
    for i in range(3):
        yield KeyRule(f"norm_prelu_{i}.{{}}", f"norms.{i}.{{}}")
    for stage in range(2):
        old, new = f"level{stage + 1}.{{}}", f"stages.{stage}.{{}}"
        yield from _block(f"{old}.conv1x1", f"{new}.reduce")
        yield KeyRule(f"{old}.f_loc.{{}}", f"{new}.local.{{}}")
        yield KeyRule(f"{old}.f_sur.{{}}", f"{new}.surrounding.{{}}")
        yield KeyRule(f"{old}.bn.{{}}", f"{new}.joint.0.{{}}")
        yield KeyRule(f"{old}.activate.{{}}", f"{new}.joint.1.{{}}")
        yield KeyRule(f"{old}.bottleneck.{{}}", f"{new}.project.{{}}")
        yield KeyRule(f"{old}.f_glo.fc.{{}}", f"{new}.gate.{{}}")


def _block(original: str, native: str) -> Iterable[KeyRule]:
    for old, new in (("conv", "conv"), ("bn", "norm"), ("activate", "activation")):
        yield KeyRule(f"{original}.{old}.{{}}", f"{native}.{new}.{{}}")


CGNET = register(BackboneRule(types=("CGNet",), translate=translate, keys=keys))

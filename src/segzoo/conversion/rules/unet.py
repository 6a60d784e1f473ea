"""UNet of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.unet import UNetConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import conv_module, norm_keys, plain_convolutions


def translate(original: Mapping[str, Any], context: Context) -> UNetConfig:
    """Translates ``dict(type="UNet", base_channels=64, num_stages=5, ...)``."""
    options = Options(original, context.where)
    options.ignore("pretrained", "init_cfg", "with_cp")  # memory and initialisation only
    options.in_training("norm_eval", False)
    options.expect("dcn", None)
    options.expect("plugins", None)
    plain_convolutions(options)
    stages = options.take("num_stages", 5)
    lists = {
        ours: _list(options, theirs, default, stages, behind)
        for ours, theirs, default, behind in (
            ("strides", "strides", 1, 0),
            ("convs", "enc_num_convs", 2, 0),
            ("dilations", "enc_dilations", 1, 0),
            ("pools", "downsamples", True, 1),
            ("decoder_convs", "dec_num_convs", 2, 1),
            ("decoder_dilations", "dec_dilations", 1, 1),
        )
    }
    lists["pools"] = [bool(pool) for pool in lists["pools"]]
    config = UNetConfig(
        num_channels=options.take("in_channels", 3),
        width=options.take("base_channels", 64),
        **lists,
        **_upsampling(options),
        **options.norm(default={"type": "BN"}),
        activation=options.activation(),
    )
    options.finish()
    return config


def _list(options: Options, name: str, default: int, stages: int, behind: int) -> list[Any]:
    """Takes a list with a value for each stage but the first ``behind``; the original's own lists are for five stages.

    Raises:
        ConversionError: it has fewer.
    """
    values = list(options.take(name, (default,) * (5 - behind)))
    if len(values) < stages - behind:
        raise options.error(f"{name}={values!r:.80} must have {stages - behind!r} entries for num_stages={stages!r}")
    return values[: stages - behind]


def _upsampling(options: Options) -> dict[str, Any]:
    """The fields for ``upsample_cfg``: the classes that UNet's own file has."""
    place = f"{options.where}.upsample_cfg"
    original = options.take("upsample_cfg", {"type": "InterpConv"})
    if original is None:
        raise options.error("upsample_cfg=None is not supported (only InterpConv and DeconvModule)")
    kind, own = type_name(original, place, ("InterpConv", "DeconvModule")), Options(original, place)
    own.ignore("with_cp")
    fields: dict[str, Any] = {"upsampling": "interpolate"}
    if kind == "DeconvModule":
        kernel, factor = own.take("kernel_size", 4), own.expect("scale_factor", 2)
        if kernel < factor or kernel % 2:
            raise own.error(f"kernel_size={kernel!r} must be even, and 2 at least")
        fields = {"upsampling": "deconvolve", "deconvolution_kernel": kernel}
    elif kind == "InterpConv":
        own.expect("conv_cfg", None)
        own.expect("conv_first", False)
        own.expect("kernel_size", 1)
        own.expect("stride", 1)
        own.expect("padding", 0)
        own.expect("upsample_cfg", {"scale_factor": 2, "mode": "bilinear", "align_corners": False})
    else:
        raise own.error(f"the type {kind!r} is not supported (only InterpConv and DeconvModule)")
    own.finish()
    return fields


def keys(config: UNetConfig) -> Iterable[KeyRule]:
    """The key rules: where a stage of the encoder begins with a max pool, its convolutions have index 1."""
    yield from norm_keys(_keys(config), config.norm)


def _keys(config: UNetConfig) -> Iterable[KeyRule]:
    for stage, stride in enumerate(config.strides):
        index = int(stage > 0 and config.pools[stage - 1] and stride == 1)
        yield from conv_module(f"encoder.{stage}.{index}.convs.{{}}", f"encoder.{stage}.convs.{{}}")
    yield from conv_module("decoder.{}.conv_block.convs.{}", "decoder.{}.convs.{}")
    for stage, doubles in enumerate(config.halves[1:]):
        place = f"decoder.{stage}.upsample"
        if doubles and config.upsampling == "deconvolve":
            yield KeyRule(f"{place}.deconv_upsamping.0.{{}}", f"{place}.conv.{{}}")
            yield KeyRule(f"{place}.deconv_upsamping.1.{{}}", f"{place}.norm.{{}}")
        else:  # index 0 interpolates
            yield from conv_module(f"{place}.interp_upsample.1" if doubles else place, place)


UNET = register(BackboneRule(types=("UNet",), translate=translate, keys=keys))

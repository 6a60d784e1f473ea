"""STDCNet, STDCContextPathNet and STDCHead of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.stdc import DEPTHS, STDCConfig, STDCNetConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, nested, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import channels_of_maps, conv_module, head_rule
from segzoo.conversion.rules.fcn import FCN_KEYS, FCN_OPTIONS
from segzoo.heads.stdc import STDCHeadConfig

EPS = 1e-5  # of all norms around the encoder
_FUSION_MOMENTUM = 0.1


def translate_encoder(original: Mapping[str, Any], context: Context) -> STDCNetConfig:
    """Translates ``dict(type="STDCNet", stdc_type="STDCNet1", ...)``."""
    options = Options(original, context.where)
    options.ignore("pretrained", "init_cfg")
    options.activation(only="ReLU")
    kind = options.expect("stdc_type", "STDCNet1", "STDCNet2")
    config = STDCNetConfig(
        num_channels=options.take("in_channels"),
        channels=list(options.take("channels")),
        depths=DEPTHS[kind.removeprefix("STDCNet")],
        num_convs=options.take("num_convs", 4),
        fusion=options.take("bottleneck_type"),
        last_conv=bool(options.take("with_final_conv", False)),
        **options.batch_norm(),
    )
    options.finish()
    return config


def encoder_keys(config: STDCNetConfig) -> Iterable[KeyRule]:
    """The key rules; the original's stages begin with the stem and a convolution."""
    yield from conv_module("stages.0", "stem")
    yield from conv_module("stages.1", "stages.0")
    for stage in (2, 3, 4):
        old, new = f"stages.{stage}.{{}}", f"stages.{stage - 1}.{{}}"
        if config.fusion == "add":
            # The first convolution stands in a list with the halving one, which has a name of its own as well.
            yield from conv_module(f"stages.{stage}.0.layers.0.0", f"stages.{stage - 1}.0.convs.0")
            for rule in conv_module(f"stages.{stage}.0.layers.0.1", f"stages.{stage - 1}.0.downsample"):
                yield KeyRule(rule.original, rule.native, alias=True)
            yield from conv_module(f"{old}.skip.{{}}", f"{new}.skip.{{}}")
        yield from conv_module(f"{old}.layers.{{}}", f"{new}.convs.{{}}")
        yield from conv_module(f"{old}.downsample", f"{new}.downsample")
    yield from conv_module("final_conv", "last_conv")


def translate(original: Mapping[str, Any], context: Context) -> tuple[STDCConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="STDCContextPathNet", backbone_cfg=dict(type="STDCNet", ...), ...)``."""
    options = Options(original, context.where)
    options.ignore("init_cfg", "pretrained")
    norm = _usual_norms(options)
    inside = context.at(f"{context.where}.backbone_cfg")
    encoder, keys = nested("backbone", options.take("backbone_cfg"), inside, "backbone.", "encoder.")
    width = options.take("out_channels", 128)
    given = options.take("ffm_cfg", {"in_channels": 512, "out_channels": 256, "scale_factor": 4})
    fusion = Options(given, f"{context.where}.ffm_cfg")
    momentum = _usual_norms(fusion).get("norm_momentum", _FUSION_MOMENTUM)
    if momentum != _FUSION_MOMENTUM:
        context.note(fusion.where, f"its norm had the momentum {momentum}, and trains on with {_FUSION_MOMENTUM}")
    fusion.activation(only="ReLU")
    fusion.ignore("init_cfg")
    maps, last = channels_of_maps(encoder), list(options.take("last_in_channels", (1024, 512)))
    if len(maps) != 3 or last != maps[:0:-1]:
        raise options.error(f"last_in_channels={last} do not fit an encoder whose maps have {maps} channels")
    if (joint := fusion.take("in_channels")) != maps[0] + width:
        raise fusion.error(
            f"in_channels={joint!r} must be the {maps[0]} channels of the finest map and out_channels={width}"
        )
    upsampling = options.expect("upsample_mode", "nearest", "bilinear", "bicubic")
    align_corners = options.take("align_corners", None)
    if upsampling == "nearest" and align_corners is not None:  # which PyTorch refuses
        raise options.error(f"align_corners={align_corners!r} does not go with upsample_mode='nearest'")
    config = STDCConfig(
        num_channels=encoder.num_channels,
        encoder_config=encoder,
        context_channels=width,
        fused_channels=fusion.take("out_channels"),
        squeeze=fusion.take("scale_factor", 4),
        upsampling=upsampling,
        align_corners=bool(align_corners),
        **norm,
    )
    fusion.finish()
    options.finish()
    return config, keys


def _usual_norms(options: Options) -> dict[str, Any]:
    """Takes a norm config whose eps is `EPS`, and returns the field for its momentum, if it has one."""
    norm = options.batch_norm()
    if (eps := norm.pop("norm_eps")) != EPS:
        raise options.error(f"batch norms with eps={eps!r} are not supported (only {EPS})")
    return norm


KEYS = (
    *conv_module("arms.{}.conv_layer", "context_path.refinements.{}.conv"),
    *conv_module("arms.{}.atten_conv_layer.1", "context_path.refinements.{}.attention"),
    *conv_module("convs.{}", "context_path.convs.{}"),
    *conv_module("conv_avg", "context_path.pooled"),
    *conv_module("ffm.conv0", "fusion.conv"),
    *(rule for i in (0, 1) for rule in conv_module(f"ffm.attention.{i + 1}", f"fusion.attention.{i}")),
)

STDCNET = register(BackboneRule(types=("STDCNet",), translate=translate_encoder, keys=encoder_keys))
STDC = register(BackboneRule(types=("STDCContextPathNet",), translate=translate, keys=KEYS))

head_rule(
    "STDCHead",
    config=STDCHeadConfig,
    options=FCN_OPTIONS | {"boundary_threshold": 0.1},
    own_outputs=True,
    keys=(*FCN_KEYS, *(KeyRule(name, f"boundaries.{name}") for name in ("laplacian_kernel", "fusion_kernel"))),
)

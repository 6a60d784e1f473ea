"""ResNet, ResNetV1c, ResNetV1d and ResNeXt of mmsegmentation, and their namesakes of mmdetection and mmpretrain."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.resnet import ResNetConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import conv_module, plain_convolutions


def translate(original: Mapping[str, Any], context: Context) -> tuple[ResNetConfig, Iterable[KeyRule]]:
    """Translates ``dict(type="ResNetV1c", depth=50, ...)`` and those of the other types."""
    kind = type_name(original, context.where)
    options = Options(original, context.where)
    grouped, v1d = kind == "ResNeXt", kind == "ResNetV1d"
    groups = 32 if context.of_mmpretrain else 1
    deep = v1d or kind == "ResNetV1c"
    fields = resnet_fields(options, context, ResNetConfig, grouped=grouped, groups=groups, deep_stem=deep, v1d=v1d)
    options.finish()
    config = ResNetConfig(**fields)
    return config, tuple(namesake_keys(config, context))


def resnet_fields(
    options: Options,
    context: Context,
    config: type[ResNetConfig],
    *,
    grouped: bool,
    deep_stem: bool,
    v1d: bool,
    groups: int = 1,
) -> dict[str, Any]:
    """Takes the options of a ResNet or of a network derived from it, and returns the fields of our config.

    Args:
        options: the network's options.
        context: the context at its place, which tells the package of its class.
        config: class of our config, which knows the depths.
        grouped: the original class has groups, and an option for their width.
        deep_stem, v1d, groups: what the class has unless an option says otherwise: a deep stem, shortcuts that pool, this
            number of groups.

    Raises:
        ConversionError: an option is not supported, or the depth is unknown.
    """
    # memory and initialisation only
    options.ignore("pretrained", "init_cfg", "with_cp", "zero_init_residual", "stage_with_dcn")
    options.in_training("frozen_stages", -1)
    options.in_training("norm_eval", context.package == "mmdet", usual=(False,))
    options.in_training("drop_path_rate", 0.0)  # of mmpretrain
    options.expect("dcn", None)
    options.expect("plugins", None, [])
    num_stages = options.take("num_stages", 4)
    plain_convolutions(options)
    depth = options.take("depth")
    if depth not in config.known_depths:
        raise options.error(f"depth={depth!r} is unknown ({', '.join(map(str, config.known_depths))})")
    blocks, bottleneck = config.known_depths[depth]
    caffe = options.expect("style", "pytorch", "caffe") == "caffe"  # strides in the 1x1 convolution

    base_channels = options.take("base_channels", 64)
    base_width = base_channels
    if grouped:
        width = options.take("width_per_group" if context.of_mmpretrain else "base_width", 4)
        groups = options.take("groups", groups)
        if groups != 1:  # otherwise the original does not read the width
            base_width = width
    multi_grid = options.take("multi_grid", None)
    out_indices = options.take("out_indices", (3,) if context.of_mmpretrain else (0, 1, 2, 3))
    return {
        "num_channels": options.take("in_channels", 3),
        "depth": depth,
        "num_stages": num_stages,
        "stem": "deep" if options.take("deep_stem", deep_stem) else "plain",
        "stem_channels": options.take("stem_channels", 64),
        "downsample_in_bottleneck": caffe and bottleneck,
        "average_downsample": bool(options.take("avg_down", v1d)),
        "strides": list(options.take("strides", (1, 2, 2, 2))),
        "dilations": list(options.take("dilations", (1, 1, 1, 1))),
        "contract_dilation": bool(options.take("contract_dilation", False)),
        "multi_grid": None if multi_grid is None else list(multi_grid)[: blocks[num_stages - 1]],
        "groups": groups if grouped else 1,
        "base_width": base_width,
        "base_channels": base_channels,
        **options.batch_norm(),
        "out_features": [f"stage{index + 1}" for index in sorted(out_indices)],
    }


def keys(config: ResNetConfig) -> Iterable[KeyRule]:
    """The key rules; the stem and the shortcuts have different names in the variants."""
    if config.stem == "deep":
        for i in range(3):  # convolution, norm, ReLU, three times
            yield KeyRule(f"stem.{3 * i}.{{}}", f"stem.{i}.conv.{{}}")
            yield KeyRule(f"stem.{3 * i + 1}.{{}}", f"stem.{i}.norm.{{}}")
    else:
        yield KeyRule("conv1.{}", "stem.0.conv.{}")
        yield KeyRule("bn1.{}", "stem.0.norm.{}")
    yield from stage_keys(config)


def stage_keys(config: ResNetConfig) -> Iterable[KeyRule]:
    """The key rules of the stages, without those of the stem."""
    first = 1 if config.average_downsample else 0  # the average pool takes index 0
    for stage in range(config.num_stages):
        old, new = f"layer{stage + 1}.{{}}", f"stages.{stage}.{{}}"
        for i in (1, 2, 3):
            yield KeyRule(f"{old}.conv{i}.{{}}", f"{new}.conv{i}.conv.{{}}")
            yield KeyRule(f"{old}.bn{i}.{{}}", f"{new}.conv{i}.norm.{{}}")
        yield KeyRule(f"{old}.downsample.{first}.{{}}", f"{new}.shortcut.conv.{{}}")
        yield KeyRule(f"{old}.downsample.{first + 1}.{{}}", f"{new}.shortcut.norm.{{}}")


def namesake_keys(config: ResNetConfig, context: Context) -> Iterable[KeyRule]:
    """The key rules of mmpretrain's classes where they differ; none for those of other packages."""
    if not context.of_mmpretrain:
        return
    if config.stem == "deep":
        yield from conv_module("stem.{}")
    if config.average_downsample:
        for stage, stride in enumerate(config.strides):
            if stride == 1:  # there is no pool to take index 0
                old, new = f"layer{stage + 1}.{{}}.downsample", f"stages.{stage}.{{}}.shortcut"
                yield KeyRule(f"{old}.0.{{}}", f"{new}.conv.{{}}")
                yield KeyRule(f"{old}.1.{{}}", f"{new}.norm.{{}}")


RESNET = register(BackboneRule(types=("ResNet", "ResNetV1c", "ResNetV1d", "ResNeXt"), translate=translate, keys=keys))

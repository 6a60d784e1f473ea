"""ConvNeXt of its authors' segmentation code, and of mmcls and mmpretrain, told apart by the names of their options."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from segzoo.backbones.convnext import ConvNeXtConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.layouts import POINTWISE, Reshape
from segzoo.conversion.options import Options

# Width of the first stage, which doubles with every stage, and depths.
_ARCHS = {
    "atto": (40, [2, 2, 6, 2]),
    "femto": (48, [2, 2, 6, 2]),
    "pico": (64, [2, 2, 6, 2]),
    "nano": (80, [2, 2, 8, 2]),
    "tiny": (96, [3, 3, 9, 3]),
    "small": (96, [3, 3, 27, 3]),
    "base": (128, [3, 3, 27, 3]),
    "large": (192, [3, 3, 27, 3]),
    "xlarge": (256, [3, 3, 27, 3]),
    "huge": (352, [3, 3, 27, 3]),
}
# mmcls gives its own eps to all norms but those between stages, which have PyTorch's; mmpretrain to all.
_MMCLS_DOWNSAMPLE_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How an original names the layers of a ConvNeXt.

    Args:
        stem_conv, stem_norm: the first convolution and its norm.
        downsample: the norm (``0``) and convolution (``1``) before a stage; ``{}`` is the stage's number.
        block: a block; the two ``{}`` are the numbers of stage and block.
        depthwise, norm, scale: layers of a block.
        response: factor and shift of a block's response norm (version 2).
        response_shape: their shape is (1, 1, 1, C).
        linear: the two linear layers of a block, without their number, 1 or 2.
        output_norm: the norm of a stage's map, before the stage's number.
        first_output: the number of the first stage's.
    """

    stem_conv: str = "downsample_layers.0.0"
    stem_norm: str = "downsample_layers.0.1"
    downsample: str = "downsample_layers.{}"
    block: str = "stages.{}.{}"
    depthwise: str
    norm: str = "norm"
    linear: str
    scale: str = "gamma"
    response: tuple[str, str] = ("grn.gamma", "grn.beta")
    response_shape: bool = False
    output_norm: str = "norm"
    first_output: int = 0

    def keys(self, config: ConvNeXtConfig) -> Iterable[KeyRule]:
        """The key rules. Norms of maps that are not returned are left out, for they are never run."""
        yield KeyRule(f"{self.stem_conv}.{{}}", "patch_embedding.{}")
        yield KeyRule(f"{self.stem_norm}.{{}}", "embedding_norm.{}")
        yield KeyRule(f"{self.downsample}.0.{{}}", "stages.{}.downsample.norm.{}")
        yield KeyRule(f"{self.downsample}.1.{{}}", "stages.{}.downsample.conv.{}")
        new = "stages.{}.layers.{}"
        for old, name in zip(self.response, ("weight", "bias"), strict=True):
            change = Reshape((1, 1, 1, -1), (-1,)) if self.response_shape else None
            yield KeyRule(f"{self.block}.{old}", f"{new}.mlp.norm.{name}", change=change)
        yield KeyRule(f"{self.block}.{self.depthwise}.{{}}", f"{new}.depthwise_conv.{{}}")
        yield KeyRule(f"{self.block}.{self.norm}.{{}}", f"{new}.norm.{{}}")
        for i in (1, 2):
            yield KeyRule(f"{self.block}.{self.linear}{i}.{{}}", f"{new}.mlp.fc{i}.{{}}")
        yield KeyRule(f"{self.block}.{self.scale}", f"{new}.scale")
        for stage in range(config.num_stages):
            name = f"stage{stage + 1}"
            native = f"norms.{name}.{{}}" if name in config.out_features else None
            yield KeyRule(f"{self.output_norm}{stage + self.first_output}.{{}}", native)

    def kernel_keys(self) -> list[KeyRule]:
        """The key rules for a block's linear layers where the original has 1x1 convolutions in their place."""
        return [
            KeyRule(
                f"{self.block}.{self.linear}{i}.weight", f"stages.{{}}.layers.{{}}.mlp.fc{i}.weight", change=POINTWISE
            )
            for i in (1, 2)
        ]


AUTHORS = Spelling(depthwise="dwconv", linear="pwconv", response_shape=True)
MMCLS = Spelling(depthwise="depthwise_conv", linear="pointwise_conv")
TRANSFORMERS = Spelling(
    stem_conv="embeddings.patch_embeddings",
    stem_norm="embeddings.layernorm",
    downsample="encoder.stages.{}.downsampling_layer",
    block="encoder.stages.{}.layers.{}",
    depthwise="dwconv",
    norm="layernorm",
    linear="pwconv",
    scale="layer_scale_parameter",
    response=("grn.weight", "grn.bias"),
    response_shape=True,
    output_norm="hidden_states_norms.stage",
    first_output=1,
)


def _layer_scale(options: Options) -> float | None:
    value = float(options.take("layer_scale_init_value", 1e-6))
    return value if value > 0 else None


def _translate_authors(original: Mapping[str, Any], context: Context) -> ConvNeXtConfig:
    options = Options(original, context.where)
    options.ignore("init_cfg", "pretrained")
    config = ConvNeXtConfig(
        num_channels=options.take("in_chans", 3),
        channels=list(options.take("dims", (96, 192, 384, 768))),
        depths=list(options.take("depths", (3, 3, 9, 3))),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        layer_scale=_layer_scale(options),
        out_features=[f"stage{i + 1}" for i in sorted(set(options.take("out_indices", (0, 1, 2, 3))))],
    )
    options.finish()
    return config


def _translate_mmcls(original: Mapping[str, Any], context: Context) -> tuple[ConvNeXtConfig, Iterable[KeyRule]]:
    options = Options(original, context.where)
    # initialisation and memory
    options.ignore("init_cfg", "pretrained", "with_cp")
    options.in_training("frozen_stages", 0, usual=(0, -1))
    options.activation(default="GELU", only="GELU")
    if options.take("gap_before_final_norm", True):
        raise options.error("gap_before_final_norm=True, the default, gives vectors; heads need maps (False)")
    channels, depths = _arch(options)
    indices = options.take("out_indices", -1)
    indices = [indices] if isinstance(indices, int) else indices
    eps = options.layer_norm_eps(kind="LN2d", eps=1e-6)
    is_mmcls = context.package == "mmcls" or (context.package != "mmpretrain" and not context.original.is_1x)
    config = ConvNeXtConfig(
        num_channels=options.take("in_channels", 3),
        channels=channels,
        depths=depths,
        patch_size=options.take("stem_patch_size", 4),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        layer_scale=_layer_scale(options),
        response_norm=bool(options.take("use_grn", False)),
        norm_eps=eps,
        downsample_norm_eps=_MMCLS_DOWNSAMPLE_EPS if is_mmcls else eps,
        out_features=[f"stage{i + 1}" for i in sorted({i % len(depths) if i < 0 else i for i in indices})],
    )
    kernels = [] if options.take("linear_pw_conv", True) else MMCLS.kernel_keys()
    options.finish()
    return config, kernels


def _arch(options: Options) -> tuple[list[int], list[int]]:
    """The widths and depths of the stages."""
    arch = options.take("arch", "tiny")
    if isinstance(arch, Mapping):
        own = Options(arch, f"{options.where}.arch")
        channels, depths = list(own.take("channels")), list(own.take("depths"))
        own.finish()
        return channels, depths
    if arch not in _ARCHS:
        raise options.error(f"arch={arch!r} is unknown ({', '.join(_ARCHS)})")
    width, depths = _ARCHS[arch]
    return [width * 2**stage for stage in range(4)], depths


AUTHORS_CONVNEXT = register(
    BackboneRule(
        types=("ConvNeXt",),
        translate=_translate_authors,
        keys=AUTHORS.keys,
        told_by=("in_chans", "depths", "dims"),
    )
)
MMCLS_CONVNEXT = register(
    BackboneRule(
        types=("ConvNeXt",),
        translate=_translate_mmcls,
        keys=MMCLS.keys,
        told_by=(
            "arch",
            "gap_before_final_norm",
            "in_channels",
            "stem_patch_size",
            "norm_cfg",
            "act_cfg",
            "linear_pw_conv",
            "use_grn",
            "with_cp",
        ),
    )
)

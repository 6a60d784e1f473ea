"""transformers' UPerNet with a Swin or a ConvNeXt, and ours: configs in both directions, and the names of the weights.

transformers' ConvNeXt has an epsilon of 1e-6 in every norm, where mmcls has 1e-5 in those between the stages: models that
were converted from mmsegmentation's differ by some 1e-6 of the largest logit when they go to transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from transformers import ConvNextConfig as TheirConvNextConfig
from transformers import MaskFormerSwinConfig, PreTrainedConfig, UperNetConfig
from transformers import SwinConfig as TheirSwinConfig

from segzoo.backbones.convnext import ConvNeXtConfig
from segzoo.backbones.swin import SwinConfig
from segzoo.compat import SWIN_IS_NAMED_AS_WRITTEN
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.layouts import join
from segzoo.conversion.rules.convnext import TRANSFORMERS
from segzoo.conversion.translation import ComponentKeys
from segzoo.heads import FCNHeadConfig, UPerHeadConfig

ARCHITECTURE = "UperNetForSemanticSegmentation"
_CONVNEXT_EPS = 1e-6  # of every norm of transformers' class, whatever its config says
_DOWNSAMPLE_EPS = "downsample_norm_eps"
_AUXILIARY_INDEX = 2  # of the map that the auxiliary head reads, which no option changes


def upernet_parts(theirs: UperNetConfig) -> list[ComponentKeys]:
    """The parts of a UPerNet of transformers, as our configs and key tables.

    Raises:
        ConversionError: its backbone is neither a Swin nor a ConvNeXt, or an option is not supported.
    """
    family = next((family for family in _FAMILIES if isinstance(theirs.backbone_config, family.theirs)), None)
    if family is None:
        raise ConversionError(
            f"config.json: a UPerNet with a {theirs.backbone_config.model_type!r} is not supported (only with a Swin or a ConvNeXt)"
        )
    backbone = family.to_ours(theirs.backbone_config)
    channels = dict(zip(backbone.stage_names, family.widths(backbone), strict=True))
    widths = [channels[name] for name in backbone.out_features]
    head = UPerHeadConfig(
        in_channels=widths,
        in_index=list(range(len(widths))),
        channels=theirs.hidden_size,
        pool_scales=list(theirs.pool_scales),
        num_labels=theirs.num_labels,
    )
    parts = [
        ComponentKeys("backbone.", "backbone.", KeyTable(family.keys(backbone)), family.name, backbone),
        ComponentKeys("decode_head.", "decode_heads.0.", KeyTable(_head_keys()), "UperNetHead", head),
    ]
    if theirs.use_auxiliary_head:
        auxiliary = FCNHeadConfig(
            in_channels=[theirs.auxiliary_in_channels or widths[_AUXILIARY_INDEX]],
            in_index=[_AUXILIARY_INDEX],
            channels=theirs.auxiliary_channels,
            num_convs=theirs.auxiliary_num_convs,
            concat_input=theirs.auxiliary_concat_input,
            num_labels=theirs.num_labels,
        )
        auxiliary.losses = [{**loss, "weight": theirs.auxiliary_loss_weight} for loss in auxiliary.losses]
        keys = KeyTable(_head_keys())
        parts.append(ComponentKeys("auxiliary_head.", "auxiliary_heads.0.", keys, "UperNetFCNHead", auxiliary))
    return parts


def has_upernet_of_transformers(backbone: PreTrainedConfig) -> bool:
    """Whether transformers has a UPerNet with a backbone of this kind."""
    return isinstance(backbone, tuple(family.ours for family in _FAMILIES))


def upernet_notes(backbone: PreTrainedConfig) -> list[str]:
    """Remarks about what differs in a model with this backbone that goes to transformers."""
    if isinstance(backbone, ConvNeXtConfig) and backbone.downsample_norm_eps != _CONVNEXT_EPS:
        return [
            f"norms: transformers' ConvNeXt has an epsilon of {_CONVNEXT_EPS} in all of them; logits differ by some 1e-6"
        ]
    return []


def upernet_config(config: SegZooConfig) -> UperNetConfig:
    """The config of transformers' UPerNet that has the same layers as a model of ours.

    Raises:
        ConversionError: transformers has no such model.
    """
    backbone, heads, others = config.backbone_config, config.decode_head_configs, config.auxiliary_head_configs
    auxiliary = others[0] if others else None
    family = next((family for family in _FAMILIES if isinstance(backbone, family.ours)), None)
    if family is None or len(heads) != 1 or not isinstance(heads[0], UPerHeadConfig):
        raise ConversionError("transformers: only a Swin or a ConvNeXt with UPerNet's head can be written for it")
    if isinstance(config.backbone_config, SwinConfig) and not SWIN_IS_NAMED_AS_WRITTEN:
        raise ConversionError(
            "transformers: a Swin is written with the names of transformers 5.24; update transformers"
        )
    options = {"use_auxiliary_head": auxiliary is not None}
    if isinstance(auxiliary, FCNHeadConfig):
        options |= {
            "auxiliary_in_channels": auxiliary.in_channels[0],
            "auxiliary_channels": auxiliary.channels,
            "auxiliary_num_convs": auxiliary.num_convs,
            "auxiliary_concat_input": auxiliary.concat_input,
            "auxiliary_loss_weight": auxiliary.losses[0]["weight"],
        }
    theirs = UperNetConfig(
        architectures=[ARCHITECTURE],
        backbone_config=family.to_theirs(backbone),
        hidden_size=heads[0].channels,
        pool_scales=list(heads[0].pool_scales),
        loss_ignore_index=config.semantic_loss_ignore_index,
        id2label=config.id2label,
        label2id=config.label2id,
        **options,
    )
    again = [part.config for part in upernet_parts(theirs)]
    if config.neck_config is not None or [_layers(part) for part in again] != [
        _layers(part) for part in (backbone, heads[0], *others)
    ]:
        raise ConversionError(
            "transformers: its UPerNet has batch norms of epsilon 1e-05, reads all maps of the backbone, and has one auxiliary "
            "FCN head at the third; this model has another form"
        )
    return theirs


def _layers(config: SwinConfig | ConvNeXtConfig | UPerHeadConfig | FCNHeadConfig) -> dict[str, object]:
    """What a config says besides how its layers are trained, and the epsilon of which the user is told."""
    trained = ("losses", "dropout", "dtype", "architectures", "transformers_version", "_name_or_path", _DOWNSAMPLE_EPS)
    return {name: value for name, value in config.to_dict().items() if name not in trained}


def swin_keys(backbone: SwinConfig) -> Iterable[KeyRule]:
    """The key rules of transformers' Swin."""
    yield from swin_block_keys()
    yield KeyRule("hidden_states_norms.{}.{}", "norms.{}.{}")
    yield KeyRule("swin.layernorm.{}", None)  # never run


def swin_block_keys(prefix: str = "") -> Iterable[KeyRule]:
    """The key rules of a Swin besides its last norms, whose names in transformers begin with ``prefix``."""
    block, ours = f"{prefix}encoder.layers.{{}}.blocks.{{}}", "stages.{}.layers.{}"
    embeddings = f"{prefix}embeddings"
    yield KeyRule(f"{embeddings}.patch_embeddings.projection.{{}}", "patch_embedding.{}")
    yield KeyRule(f"{embeddings}.norm.{{}}", "embedding_norm.{}")
    yield KeyRule(f"{embeddings}.position_embeddings", "position_embeddings")
    for i, name in ((1, "before"), (2, "after")):
        yield KeyRule(f"{block}.layernorm_{name}.{{}}", f"{ours}.norm{i}.{{}}")
    parts = [f"{block}.attention.self.{part}.{{}}" for part in ("query", "key", "value")]
    yield from join(parts, f"{ours}.attention.qkv.{{}}")
    yield KeyRule(f"{block}.attention.self.relative_position_index", None)  # computed
    table = "relative_position_bias_table"
    yield KeyRule(f"{block}.attention.self.{table}", f"{ours}.attention.{table}")
    yield KeyRule(f"{block}.attention.output.dense.{{}}", f"{ours}.attention.proj.{{}}")
    yield KeyRule(f"{block}.intermediate.dense.{{}}", f"{ours}.mlp.fc1.{{}}")
    yield KeyRule(f"{block}.output.dense.{{}}", f"{ours}.mlp.fc2.{{}}")
    yield KeyRule(f"{prefix}encoder.layers.{{}}.downsample.{{}}", "stages.{}.downsample.{}")


def our_swin(swin: TheirSwinConfig | MaskFormerSwinConfig) -> SwinConfig:
    """Our config of a Swin of transformers.

    Raises:
        ConversionError: an option is not supported.
    """
    if swin.hidden_act != "gelu" or swin.layer_norm_eps != 1e-5:
        raise ConversionError(
            f"config.json: hidden_act={swin.hidden_act!r} and layer_norm_eps={swin.layer_norm_eps} are not supported (only "
            "'gelu' and 1e-05)"
        )
    return SwinConfig(
        num_channels=swin.num_channels,
        channels=swin.embed_dim,
        depths=list(swin.depths),
        num_heads=list(swin.num_heads),
        window_size=swin.window_size,
        patch_size=swin.patch_size,
        mlp_ratio=float(swin.mlp_ratio),
        qkv_bias=swin.qkv_bias,
        image_size=swin.image_size if swin.use_absolute_embeddings else None,
        dropout=float(swin.hidden_dropout_prob),
        attention_dropout=float(swin.attention_probs_dropout_prob),
        drop_path_rate=float(swin.drop_path_rate),
        out_features=list(swin.out_features),
    )


def their_swin(backbone: SwinConfig) -> TheirSwinConfig:
    """The config of transformers for a Swin of ours."""
    return TheirSwinConfig(
        num_channels=backbone.num_channels,
        embed_dim=backbone.channels,
        depths=list(backbone.depths),
        num_heads=list(backbone.num_heads),
        window_size=backbone.window_size,
        patch_size=backbone.patch_size,
        mlp_ratio=backbone.mlp_ratio,
        qkv_bias=backbone.qkv_bias,
        image_size=backbone.image_size or 224,
        use_absolute_embeddings=backbone.image_size is not None,
        hidden_dropout_prob=backbone.dropout,
        attention_probs_dropout_prob=backbone.attention_dropout,
        drop_path_rate=backbone.drop_path_rate,
        out_features=list(backbone.out_features),
    )


def _our_convnext(convnext: TheirConvNextConfig) -> ConvNeXtConfig:
    if convnext.hidden_act != "gelu":
        raise ConversionError(f"config.json: hidden_act={convnext.hidden_act!r} is not supported (only 'gelu')")
    scale = float(convnext.layer_scale_init_value)
    return ConvNeXtConfig(
        num_channels=convnext.num_channels,
        channels=list(convnext.hidden_sizes),
        depths=list(convnext.depths),
        patch_size=convnext.patch_size,
        layer_scale=scale if scale > 0 else None,
        norm_eps=_CONVNEXT_EPS,
        downsample_norm_eps=_CONVNEXT_EPS,
        drop_path_rate=float(convnext.drop_path_rate),
        out_features=list(convnext.out_features),
    )


def _their_convnext(backbone: ConvNeXtConfig) -> TheirConvNextConfig:
    return TheirConvNextConfig(
        num_channels=backbone.num_channels,
        hidden_sizes=list(backbone.channels),
        depths=list(backbone.depths),
        num_stages=len(backbone.depths),
        patch_size=backbone.patch_size,
        layer_scale_init_value=0.0 if backbone.layer_scale is None else backbone.layer_scale,
        drop_path_rate=backbone.drop_path_rate,
        out_features=list(backbone.out_features),
    )


def _head_keys() -> Iterable[KeyRule]:
    names = {
        "psp_modules.{}.1": "pyramid.{}",
        "bottleneck": "context_conv",
        "fpn_bottleneck": "fusion_conv",
        **{name: name for name in ("lateral_convs.{}", "fpn_convs.{}", "convs.{}", "conv_cat")},
    }
    for theirs, ours in names.items():
        yield KeyRule(f"{theirs}.conv.{{}}", f"{ours}.conv.{{}}")
        yield KeyRule(f"{theirs}.batch_norm.{{}}", f"{ours}.norm.{{}}")
    yield KeyRule("classifier.{}", "classifier.{}")


@dataclass(frozen=True, kw_only=True)
class _Family:
    """A kind of backbone that transformers and we both have.

    Args:
        name: of their class, for reports.
        theirs, ours: classes of the configs.
        to_ours, to_theirs: make one config of the other.
        widths: channels of our maps, in the order of ``stage_names``.
        keys: the key rules, from their names to ours.
    """

    name: str
    theirs: type[PreTrainedConfig]
    ours: type[PreTrainedConfig]
    to_ours: Callable[[Any], Any]
    to_theirs: Callable[[Any], PreTrainedConfig]
    widths: Callable[[Any], list[int]]
    keys: Callable[[Any], Iterable[KeyRule]]


_FAMILIES = (
    _Family(
        name="SwinBackbone",
        theirs=TheirSwinConfig,
        ours=SwinConfig,
        to_ours=our_swin,
        to_theirs=their_swin,
        widths=lambda config: [config.channels, *config.stage_channels],
        keys=swin_keys,
    ),
    _Family(
        name="ConvNextBackbone",
        theirs=TheirConvNextConfig,
        ours=ConvNeXtConfig,
        to_ours=_our_convnext,
        to_theirs=_their_convnext,
        widths=lambda config: [config.channels[0], *config.channels],
        keys=TRANSFORMERS.keys,
    ),
)

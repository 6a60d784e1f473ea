"""transformers' Mask2Former and MaskFormer with a Swin or a ResNet, and ours: configs in both directions, and the names of the weights.

Theirs have 32 groups in each group norm and one number of attention heads; a MaskFormer's feature pyramid is as wide as
its decoder here, which those that were published are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import DetrConfig, Mask2FormerConfig, MaskFormerConfig, MaskFormerSwinConfig, PreTrainedConfig
from transformers import ResNetConfig as TheirResNetConfig
from transformers import SwinConfig as TheirSwinConfig

from segzoo.backbones.resnet import ResNetConfig
from segzoo.backbones.swin import SwinConfig
from segzoo.compat import SWIN_IS_NAMED_AS_WRITTEN
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.layouts import join
from segzoo.conversion.transformers_upernet import our_swin, swin_block_keys, swin_keys, their_swin
from segzoo.conversion.translation import ComponentKeys
from segzoo.heads import Mask2FormerHeadConfig, MaskFormerHeadConfig
from segzoo.losses import FocalMaskClassificationLoss, Loss, MaskClassificationLoss

ARCHITECTURES = {
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "maskformer": "MaskFormerForInstanceSegmentation",
}
"""Classes of transformers by their ``model_type``."""

_ENCODER, _DECODER = "model.pixel_level_module.encoder.", "model.pixel_level_module.decoder"
_LAYER, _OUR_LAYER = "model.transformer_module.decoder.layers.{}", "layers.{}"
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_GROUPS, _POINTS, _LEVELS = 32, 4, 3  # which no option of theirs changes


def query_parts(theirs: Mask2FormerConfig | MaskFormerConfig) -> list[ComponentKeys]:
    """The parts of a Mask2Former or MaskFormer of transformers, as our configs and key tables.

    Raises:
        ConversionError: its backbone is neither a Swin nor a ResNet, or an option is not supported.
    """
    is_mask2former = isinstance(theirs, Mask2FormerConfig)
    inner = theirs.backbone_config
    if isinstance(inner, (TheirSwinConfig, MaskFormerSwinConfig)):
        backbone = our_swin(inner)
        widths = backbone.stage_channels
        keys = swin_keys(backbone) if is_mask2former else _maskformer_swin_keys()
    elif isinstance(inner, TheirResNetConfig):
        backbone, widths, keys = _our_resnet(inner), list(inner.hidden_sizes), _resnet_keys(inner)
    else:
        raise ConversionError(
            f"config.json: a backbone {getattr(inner, 'model_type', inner)!r} is not supported (only a Swin or a ResNet)"
        )
    if list(backbone.out_features) != _STAGES:
        raise ConversionError(f"config.json: out_features={list(backbone.out_features)} (only {', '.join(_STAGES)})")
    head = _our_mask2former(theirs, widths) if is_mask2former else _our_maskformer(theirs, widths)
    head_keys = _mask2former_keys() if is_mask2former else _maskformer_keys()
    name = ARCHITECTURES[theirs.model_type]
    return [
        ComponentKeys(_ENCODER, "backbone.", KeyTable(keys), type(inner).__name__.replace("Config", ""), backbone),
        ComponentKeys("", "decode_heads.0.", KeyTable([*head_keys, *_shared_keys()]), name, head),
    ]


def ignored_label(theirs: Mask2FormerConfig | MaskFormerConfig) -> int:
    """The id of labels that do not count, which MaskFormer's config lacks."""
    return theirs.ignore_value if isinstance(theirs, Mask2FormerConfig) else 255


def query_config(config: SegZooConfig) -> Mask2FormerConfig | MaskFormerConfig:
    """The config of transformers' Mask2Former or MaskFormer that has the same layers as a model of ours.

    Raises:
        ConversionError: transformers has no such model.
    """
    backbone, (head, *others) = config.backbone_config, config.decode_head_configs
    if isinstance(backbone, SwinConfig):
        if not SWIN_IS_NAMED_AS_WRITTEN:
            raise ConversionError(
                "transformers: a Swin is written with the names of transformers 5.24; update transformers"
            )
        inner = their_swin(backbone)
    elif isinstance(backbone, ResNetConfig):
        inner = _their_resnet(backbone)
    else:
        raise ConversionError("transformers: only a Swin or a ResNet with this head can be written for it")
    write = _their_mask2former if isinstance(head, Mask2FormerHeadConfig) else _their_maskformer
    theirs = write(head, inner, config)
    again = [part.config for part in query_parts(theirs)]
    alone = not others and config.neck_config is None and not config.auxiliary_head_configs
    if not alone or [_layers(part) for part in again] != [_layers(part) for part in (backbone, head)]:
        raise ConversionError(
            f"transformers: its {theirs.model_type} has {_GROUPS} groups in its norms, {_LEVELS} levels and {_POINTS} points of "
            "deformable attention, four maps of a plain backbone and no encoder or auxiliary head beside; this model has "
            "another form"
        )
    return theirs


def query_notes(head: Mask2FormerHeadConfig | MaskFormerHeadConfig) -> list[str]:
    """Remarks about what differs in a model with this head that goes to transformers."""
    if head.resize_masks_first:
        return []
    return [
        "logits: transformers resizes the masks before it sums them over the queries, this model does it after; scores "
        "at the borders of classes differ"
    ]


def _layers(config: PreTrainedConfig) -> dict[str, object]:
    """What a config says besides how its layers are trained, and what becomes of the masks."""
    trained = ("losses", "dropout", "dtype", "architectures", "transformers_version", "_name_or_path")
    other = ("resize_masks_first", "in_index", "encoder_heads", "encoder_hidden_channels", "project_always")
    unread = other if isinstance(config, MaskFormerHeadConfig) else other[:2]
    return {name: value for name, value in config.to_dict().items() if name not in (*trained, *unread)}


def _check(theirs: PreTrainedConfig, **wanted: Any) -> None:
    for option, value in wanted.items():
        found = getattr(theirs, option)
        if (list(found) if isinstance(found, tuple) else found) != value:
            raise ConversionError(f"config.json: {option}={found!r} is not supported (only {value!r})")


def _our_mask2former(theirs: Mask2FormerConfig, widths: list[int]) -> Mask2FormerHeadConfig:
    strides = [4, 8, 16, 32]
    _check(theirs, activation_function="relu", pre_norm=False, common_stride=4, feature_strides=strides)
    _check(theirs, hidden_dim=theirs.feature_size)
    loss = MaskClassificationLoss(
        no_object_weight=theirs.no_object_weight,
        num_points=theirs.train_num_points,
        oversample_ratio=theirs.oversample_ratio,
        importance_ratio=theirs.importance_sample_ratio,
        **_weights(theirs.class_weight, theirs.class_weight, theirs),
    )
    return Mask2FormerHeadConfig(
        in_channels=widths,
        channels=theirs.hidden_dim,
        mask_channels=theirs.mask_feature_size,
        num_queries=theirs.num_queries,
        num_levels=_LEVELS,
        encoder_layers=theirs.encoder_layers,
        encoder_heads=theirs.num_attention_heads,
        encoder_points=_POINTS,
        encoder_hidden_channels=theirs.encoder_feedforward_dim,
        decoder_layers=theirs.decoder_layers - 1,  # they count the prediction before the first layer
        decoder_heads=theirs.num_attention_heads,
        decoder_hidden_channels=theirs.dim_feedforward,
        project_levels=theirs.enforce_input_projection,
        norm_groups=_GROUPS,
        dropout=float(theirs.dropout),
        resize_masks_first=True,
        losses=[loss],
        num_labels=theirs.num_labels,
    )


def _our_maskformer(theirs: MaskFormerConfig, widths: list[int]) -> MaskFormerHeadConfig:
    decoder = theirs.decoder_config
    _check(decoder, activation_function="relu", d_model=theirs.fpn_feature_size)
    loss = FocalMaskClassificationLoss(
        no_object_weight=theirs.no_object_weight, **_weights(theirs.cross_entropy_weight, 1.0, theirs)
    )
    return MaskFormerHeadConfig(
        in_channels=widths,
        channels=decoder.d_model,
        mask_channels=theirs.mask_feature_size,
        num_queries=decoder.num_queries,
        decoder_layers=decoder.decoder_layers,
        decoder_heads=decoder.decoder_attention_heads,
        decoder_hidden_channels=decoder.decoder_ffn_dim,
        norm_groups=_GROUPS,
        dropout=float(decoder.dropout),
        resize_masks_first=True,
        losses=[loss],
        num_labels=theirs.num_labels,
    )


def _weights(class_weight: float, class_cost: float, theirs: PreTrainedConfig) -> dict[str, float]:
    return {
        "class_loss_weight": class_weight,
        "class_cost_weight": class_cost,
        **{
            f"{part}_{kind}_weight": getattr(theirs, f"{part}_weight")
            for part in ("mask", "dice")
            for kind in ("loss", "cost")
        },
    }


def _loss_of(head: Any, kind: type[Loss]) -> Any:
    """The head's own loss, which says its weights; the default where it is trained with others alone."""
    return next((loss for loss in head.build_losses(head.losses) if isinstance(loss, kind)), kind())


def _their_mask2former(
    head: Mask2FormerHeadConfig, backbone: PreTrainedConfig, config: SegZooConfig
) -> Mask2FormerConfig:
    loss = _loss_of(head, MaskClassificationLoss)
    return Mask2FormerConfig(
        architectures=[ARCHITECTURES["mask2former"]],
        backbone_config=backbone,
        feature_size=head.channels,
        hidden_dim=head.channels,
        mask_feature_size=head.mask_channels,
        num_queries=head.num_queries,
        encoder_layers=head.encoder_layers,
        encoder_feedforward_dim=head.encoder_hidden_channels,
        decoder_layers=head.decoder_layers + 1,
        num_attention_heads=head.decoder_heads,
        dim_feedforward=head.decoder_hidden_channels,
        enforce_input_projection=head.project_levels,
        dropout=head.dropout,
        no_object_weight=loss.no_object_weight,
        class_weight=loss.class_loss_weight,
        mask_weight=loss.mask_loss_weight,
        dice_weight=loss.dice_loss_weight,
        train_num_points=loss.num_points,
        oversample_ratio=loss.oversample_ratio,
        importance_sample_ratio=loss.importance_ratio,
        ignore_value=config.semantic_loss_ignore_index,
        id2label=config.id2label,
        label2id=config.label2id,
    )


def _their_maskformer(head: Any, backbone: PreTrainedConfig, config: SegZooConfig) -> MaskFormerConfig:
    loss = _loss_of(head, FocalMaskClassificationLoss)
    decoder = DetrConfig(
        backbone_config=backbone,
        d_model=head.channels,
        num_queries=head.num_queries,
        encoder_layers=0,
        encoder_attention_heads=head.decoder_heads,
        decoder_layers=head.decoder_layers,
        decoder_attention_heads=head.decoder_heads,
        decoder_ffn_dim=head.decoder_hidden_channels,
        dropout=head.dropout,
    )
    return MaskFormerConfig(
        architectures=[ARCHITECTURES["maskformer"]],
        backbone_config=backbone,
        decoder_config=decoder,
        fpn_feature_size=head.channels,
        mask_feature_size=head.mask_channels,
        no_object_weight=loss.no_object_weight,
        cross_entropy_weight=loss.class_loss_weight,
        mask_weight=loss.mask_loss_weight,
        dice_weight=loss.dice_loss_weight,
        id2label=config.id2label,
        label2id=config.label2id,
    )


def _our_resnet(resnet: TheirResNetConfig) -> ResNetConfig:
    bottleneck = resnet.layer_type == "bottleneck"
    known = {(tuple(blocks), wide): depth for depth, (blocks, wide) in ResNetConfig.known_depths.items()}
    depth = known.get((tuple(resnet.depths), bottleneck))
    first = resnet.hidden_sizes[0] // (4 if bottleneck else 1)
    if depth is None or list(resnet.hidden_sizes) != [resnet.hidden_sizes[0] * 2**i for i in range(4)]:
        raise ConversionError(
            f"config.json: a ResNet of {list(resnet.depths)} {resnet.layer_type} blocks with {list(resnet.hidden_sizes)} channels "
            "is not supported (only 18, 34, 50, 101 or 152 layers whose channels double with every stage)"
        )
    _check(resnet, hidden_act="relu", downsample_in_first_stage=False)
    return ResNetConfig(
        num_channels=resnet.num_channels,
        depth=depth,
        stem_channels=resnet.embedding_size,
        base_channels=first,
        base_width=first,
        downsample_in_bottleneck=resnet.downsample_in_bottleneck,
        out_features=list(resnet.out_features),
    )


def _their_resnet(backbone: ResNetConfig) -> TheirResNetConfig:
    widths = [backbone.base_channels * 2**i * (4 if backbone.bottleneck else 1) for i in range(4)]
    return TheirResNetConfig(
        num_channels=backbone.num_channels,
        embedding_size=backbone.stem_channels,
        hidden_sizes=widths,
        depths=backbone.blocks,
        layer_type="bottleneck" if backbone.bottleneck else "basic",
        downsample_in_bottleneck=backbone.downsample_in_bottleneck,
        out_features=list(backbone.out_features),
    )


def _resnet_keys(resnet: TheirResNetConfig) -> Iterable[KeyRule]:
    block, ours = "encoder.stages.{}.layers.{}", "stages.{}.{}"
    blocks = {
        f"{block}.layer.{i}": f"{ours}.conv{i + 1}" for i in range(3 if resnet.layer_type == "bottleneck" else 2)
    }
    names = {"embedder.embedder": "stem.0", f"{block}.shortcut": f"{ours}.shortcut", **blocks}
    for old, new in names.items():
        yield KeyRule(f"{old}.convolution.{{}}", f"{new}.conv.{{}}")
        yield KeyRule(f"{old}.normalization.{{}}", f"{new}.norm.{{}}")


def _maskformer_swin_keys() -> Iterable[KeyRule]:
    yield from swin_block_keys("model.")
    for i, stage in enumerate(_STAGES):
        yield KeyRule(f"hidden_states_norms.{i}.{{}}", f"norms.{stage}.{{}}")
    yield KeyRule("model.layernorm.{}", None)  # never run


def _shared_keys() -> Iterable[KeyRule]:
    yield KeyRule("criterion.empty_weight", None)  # of the loss
    yield KeyRule("model.transformer_module.decoder.layernorm.{}", "norm.{}")
    yield KeyRule("model.transformer_module.queries_embedder.{}", "query_positions.{}")
    yield KeyRule("class_predictor.{}", "classifier.{}")
    yield KeyRule(f"{_DECODER}.mask_projection.{{}}", "pixel_decoder.mask_features.{}")
    yield from _attention_keys("self_attn", "self_attention")


def _attention_keys(theirs: str, ours: str) -> Iterable[KeyRule]:
    for part in ("weight", "bias"):
        parts = [f"{_LAYER}.{theirs}.{letter}_proj.{part}" for letter in "qkv"]
        yield from join(parts, f"{_OUR_LAYER}.{ours}.in_proj.{part}")
    yield KeyRule(f"{_LAYER}.{theirs}.out_proj.{{}}", f"{_OUR_LAYER}.{ours}.out_proj.{{}}")


def _layer_keys(old: str, new: str, *norms: str) -> Iterable[KeyRule]:
    for i, name in enumerate(norms, start=1):
        yield KeyRule(f"{old}.{name}_layer_norm.{{}}", f"{new}.norm{i}.{{}}")
    for i in (1, 2):
        yield KeyRule(f"{old}.fc{i}.{{}}", f"{new}.feed_forward.linear{i}.{{}}")


def _conv_keys(old: str, new: str) -> Iterable[KeyRule]:
    yield KeyRule(f"{old}.0.{{}}", f"{new}.conv.{{}}")
    yield KeyRule(f"{old}.1.{{}}", f"{new}.norm.{{}}")


def _mask2former_keys() -> Iterable[KeyRule]:
    attention, ours = f"{_LAYER}.cross_attn", f"{_OUR_LAYER}.cross_attention"
    for part in ("weight", "bias"):
        yield KeyRule(f"{attention}.in_proj_{part}", f"{ours}.in_proj.{part}")
    yield KeyRule(f"{attention}.out_proj.{{}}", f"{ours}.out_proj.{{}}")
    yield from _layer_keys(_LAYER, _OUR_LAYER, "cross_attn", "self_attn", "final")
    old, new = f"{_DECODER}.encoder.layers.{{}}", "pixel_decoder.layers.{}"
    yield from _layer_keys(old, new, "self_attn", "final")
    yield KeyRule(f"{old}.self_attn.{{}}", f"{new}.attention.{{}}")
    yield KeyRule(f"{_DECODER}.level_embed", "pixel_decoder.level_embed.weight")
    yield from _conv_keys(f"{_DECODER}.input_projections.{{}}", "pixel_decoder.input_convs.{}")
    yield from _conv_keys(f"{_DECODER}.adapter_1", "pixel_decoder.lateral_convs.0")
    yield from _conv_keys(f"{_DECODER}.layer_1", "pixel_decoder.output_convs.0")
    module = "model.transformer_module"
    yield KeyRule(f"{module}.queries_features.{{}}", "query_features.{}")
    yield KeyRule(f"{module}.level_embed.{{}}", "level_embed.{}")
    yield KeyRule(f"{module}.input_projections.{{}}.{{}}", "level_convs.{}.{}")
    for i in range(3):
        yield KeyRule(f"{module}.decoder.mask_predictor.mask_embedder.{i}.0.{{}}", f"mask_embed.{2 * i}.{{}}")


def _maskformer_keys() -> Iterable[KeyRule]:
    yield from _attention_keys("encoder_attn", "cross_attention")
    yield from _layer_keys(_LAYER, _OUR_LAYER, "self_attn", "encoder_attn", "final")
    yield KeyRule("model.transformer_module.input_projection.{}", "projection.{}")
    yield from _conv_keys(f"{_DECODER}.fpn.stem", "pixel_decoder.coarsest_conv")
    for i in range(3):  # from coarse to fine there
        yield from _conv_keys(f"{_DECODER}.fpn.layers.{i}.proj", f"pixel_decoder.lateral_convs.{2 - i}")
        yield from _conv_keys(f"{_DECODER}.fpn.layers.{i}.block", f"pixel_decoder.output_convs.{2 - i}")
    for i in range(3):
        yield KeyRule(f"mask_embedder.{i}.0.{{}}", f"mask_embed.{2 * i}.{{}}")

"""MIT's scene-parsing models (https://github.com/CSAILVision/semantic-segmentation-pytorch), in two files each.

Their files hold only weights. The project's YAML config (``MODEL.arch_encoder``, ``MODEL.arch_decoder``) or the zoo
says which model they belong to, or the weights' names and shapes where only one model has these.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from segzoo import zoo
from segzoo.backbones import hrnet, mobilenetv2, resnet
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.labels import find_classes
from segzoo.conversion.options import Options
from segzoo.conversion.original_config import OriginalDataset
from segzoo.conversion.reading.checkpoints import OriginalCheckpoint
from segzoo.conversion.rules import hrnet as hrnet_rules
from segzoo.conversion.rules import resnet as resnet_rules
from segzoo.conversion.rules.common import MAX_CLASSES
from segzoo.conversion.translation import ComponentKeys, Translation, assemble
from segzoo.heads import FCNHeadConfig, HeadConfig, PSPHeadConfig, UPerHeadConfig
from segzoo.losses import CrossEntropyLoss

ENCODER, DECODER = "encoder.", "decoder."
"""Prefixes of the two files' keys in their common state dict."""

IMAGE_SIZES = (300, 375, 450, 525, 600)
MAX_SIZE = 1000
DEEP_SUPERVISION = 0.4
NORM_MOMENTUM = 0.001
"""The default of the project's own batch norm."""

# Buffers of the project's own batch norm, from which it computes its running statistics.
_BOOKKEEPING = tuple(
    KeyRule(f"{{}}.{name}", None) for name in ("_tmp_running_mean", "_tmp_running_var", "_running_iter")
)
_POOLED = 512  # width of every pooled grid, in all decoders


@dataclass(frozen=True)
class Encoder:
    """One encoder of the project.

    Args:
        build: makes its backbone config, with further fields as keyword arguments.
        keys: ``keys(backbone config)`` makes its key rules.
        channels: channels of the maps that decoders read, from fine to coarse.
        joined: decoders read the maps as one, concatenated at the resolution of the first (HRNet).
        norm_momentum: share of the new batch in the running statistics of its norms.
    """

    build: Callable[..., Any]
    keys: Callable[[Any], Iterable[KeyRule]]
    channels: tuple[int, ...]
    joined: bool = False
    norm_momentum: float = NORM_MOMENTUM

    @property
    def width(self) -> int:
        """Channels of the map that decoders for one map read (``fc_dim``)."""
        return sum(self.channels) if self.joined else self.channels[-1]


def _resnet_keys(config: resnet.ResNetConfig) -> Iterable[KeyRule]:
    for i in (1, 2, 3):
        yield from _conv_norm(f"conv{i}", f"bn{i}", f"stem.{i - 1}")
    yield from resnet_rules.stage_keys(config)


def _mobilenetv2_keys(config: mobilenetv2.MobileNetV2Config) -> Iterable[KeyRule]:
    yield from _conv_norm("features.0.0", "features.0.1", "stem")
    number = 1
    for stage, (expansion, _, blocks) in enumerate(mobilenetv2.STAGES):
        parts = ("depthwise", "project") if expansion == 1 else ("expand", "depthwise", "project")
        for block in range(blocks):
            for i, part in enumerate(parts):  # convolution, norm, and a ReLU6 that the last one lacks
                old = f"features.{number}.conv"
                yield from _conv_norm(f"{old}.{3 * i}", f"{old}.{3 * i + 1}", f"stages.{stage}.{block}.{part}")
            number += 1


def _resnet(depth: int, dilated: bool) -> Encoder:
    options = resnet.VARIANTS[f"resnet{depth}_mit{'_d8' if dilated else ''}"]
    expansion = 4 if resnet.DEPTHS[depth][1] else 1
    channels = tuple(expansion * 64 * 2**stage for stage in range(4))
    return Encoder(partial(resnet.ResNetConfig, **options), _resnet_keys, channels)


ENCODERS = {
    "mobilenetv2dilated": Encoder(
        partial(
            mobilenetv2.MobileNetV2Config,
            **mobilenetv2.VARIANTS["mobilenetv2_mit_d8"],
            out_features=["stage2", "stage3", "stage4", "stage6", "stage7"],
        ),
        _mobilenetv2_keys,
        (24, 32, 64, 160, 320),
    ),
    **{
        f"resnet{depth}{'dilated' if dilated else ''}": _resnet(depth, dilated)
        for depth in (18, 50, 101)
        for dilated in (False, True)
    },
    "hrnetv2": Encoder(
        partial(hrnet.HRNetConfig, **hrnet.VARIANTS["hrnet_w48"], upsample_by_factor=False),
        hrnet_rules.keys,
        (48, 96, 192, 384),
        joined=True,
        norm_momentum=0.1,
    ),
}


def _conv_norm(conv: str, norm: str, native: str) -> tuple[KeyRule, KeyRule]:
    return KeyRule(f"{conv}.{{}}", f"{native}.conv.{{}}"), KeyRule(f"{norm}.{{}}", f"{native}.norm.{{}}")


_C1_KEYS = (*_conv_norm("cbr.0", "cbr.1", "convs.0"), KeyRule("conv_last.{}", "classifier.{}"))
_PPM_KEYS = (
    *_conv_norm("ppm.{}.1", "ppm.{}.2", "pyramid.{}"),
    *_conv_norm("conv_last.0", "conv_last.1", "context_conv"),
    KeyRule("conv_last.4.{}", "classifier.{}"),
)
_UPERNET_KEYS = (
    *_conv_norm("ppm_conv.{}.0", "ppm_conv.{}.1", "pyramid.{}"),
    *_conv_norm("ppm_last_conv.0", "ppm_last_conv.1", "context_conv"),
    *_conv_norm("fpn_in.{}.0", "fpn_in.{}.1", "lateral_convs.{}"),
    *_conv_norm("fpn_out.{}.0.0", "fpn_out.{}.0.1", "fpn_convs.{}"),
    *_conv_norm("conv_last.0.0", "conv_last.0.1", "fusion_conv"),
    KeyRule("conv_last.1.{}", "classifier.{}"),
)
_DEEP_SUPERVISION_KEYS = (
    *_conv_norm("cbr_deepsup.0", "cbr_deepsup.1", "convs.0"),
    KeyRule("conv_last_deepsup.{}", "classifier.{}"),
)


def _one_map(encoder: Encoder) -> dict[str, Any]:
    """The fields for the map that a decoder for one map reads."""
    count = len(encoder.channels) if encoder.joined else 1
    return {
        "in_channels": list(encoder.channels[-count:]),
        "in_index": list(range(-count, 0)),
        "resize_concat": encoder.joined,
    }


def _c1(encoder: Encoder, **shared: Any) -> HeadConfig:
    width = encoder.width // 4
    return FCNHeadConfig(num_convs=1, concat_input=False, channels=width, **_one_map(encoder), **shared)


def _ppm(encoder: Encoder, **shared: Any) -> HeadConfig:
    return PSPHeadConfig(channels=_POOLED, **_one_map(encoder), **shared)


def _upernet(encoder: Encoder, *, channels: int, **shared: Any) -> HeadConfig:
    maps = encoder.channels[-4:] if encoder.joined else (*encoder.channels[:3], encoder.channels[-1])
    return UPerHeadConfig(
        channels=channels,
        pool_channels=None if channels == _POOLED else _POOLED,
        in_channels=list(maps),
        in_index=[0, 1, 2, -1],
        resize_pooled_first=True,
        **shared,
    )


@dataclass(frozen=True)
class Decoder:
    """One decoder of the project.

    Args:
        build: ``build(encoder, **shared)`` makes its head config; the keyword arguments are fields that all heads
            share.
        keys: its key rules.
        dropout: probability of dropping a channel before the classifier.
        deep_supervision: whether there is an auxiliary head on the last map but one.
    """

    build: Callable[..., HeadConfig]
    keys: tuple[KeyRule, ...]
    dropout: float = 0.0
    deep_supervision: bool = False


DECODERS = {
    "c1": Decoder(_c1, _C1_KEYS),
    "c1_deepsup": Decoder(_c1, _C1_KEYS, deep_supervision=True),
    "ppm": Decoder(_ppm, _PPM_KEYS, dropout=0.1),
    "ppm_deepsup": Decoder(_ppm, _PPM_KEYS, dropout=0.1, deep_supervision=True),
    "upernet": Decoder(partial(_upernet, channels=512), _UPERNET_KEYS),
    "upernet_lite": Decoder(partial(_upernet, channels=256), _UPERNET_KEYS),
}


def join_encoder_and_decoder(encoder: OriginalCheckpoint, decoder: OriginalCheckpoint) -> OriginalCheckpoint:
    """One checkpoint of the two files of a model; its keys begin with "encoder." and "decoder.".

    Returns:
        the weights of both files. ``sha256`` is the encoder's; the decoder's is in ``meta["decoder"]``.

    Raises:
        ConversionError: the files are swapped, or they are not such a pair.
    """
    is_decoder = [is_decoder_state(part.state_dict) for part in (encoder, decoder)]
    if is_decoder == [True, False]:
        raise ConversionError(
            f"{encoder.source}: this is a decoder; the two files are swapped, give the encoder first"
        )
    if is_decoder == [True, True]:
        raise ConversionError(f"{encoder.source}: this is a decoder, as {decoder.source} is; give the encoder first")
    if not is_decoder[1]:
        raise ConversionError(
            f"{decoder.source}: a second file is for the decoder of models that were published in two, and this is none; "
            "give the checkpoint alone"
        )
    state = {ENCODER + key: tensor for key, tensor in encoder.state_dict.items()}
    state |= {DECODER + key: tensor for key, tensor in decoder.state_dict.items()}
    return replace(encoder, state_dict=state, meta={"decoder": decoder.sha256})


def is_decoder_state(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is a decoder's: all decoders, and no encoder, have a layer ``conv_last``."""
    return any(key.startswith("conv_last.") for key in state)


def config_from_weights(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Any] | None:
    """The config that weights with these names and shapes belong to; None if they are not of such a model.

    Args:
        state: weights from `join_encoder_and_decoder`.
        source: name of their file, for messages.

    Raises:
        ConversionError: several encoders have such weights (ResNets, whose dilations weights do not reveal).
    """
    encoders, decoder = _encoders_of(state), _decoder_of(state)
    if not encoders or decoder is None:
        return None
    if len(encoders) > 1:
        names = [row.name for row in zoo.rows().values() if row.backbone in encoders and row.method == decoder]
        released = f" (the released one is {names[0]})" if names else ""
        raise ConversionError(
            f"{source}: the weights fit the encoders {' and '.join(encoders)} alike, with the decoder {decoder}; say which it is: "
            f"give the model's YAML config with --config, or its zoo name with --name{released}"
        )
    config: dict[str, Any] = {"MODEL": {"arch_encoder": encoders[0], "arch_decoder": decoder}}
    classifier = state.get(f"{DECODER}{KeyTable(DECODERS[decoder].keys).to_original('classifier.bias')}")
    if classifier is not None:
        config["DATASET"] = {"num_class": classifier.shape[0]}
    return config


def _encoders_of(state: Mapping[str, Tensor]) -> list[str]:
    def has(key: str) -> bool:
        return ENCODER + key in state

    if has("features.17.conv.6.weight"):
        return ["mobilenetv2dilated"]
    if has("transition1.0.0.weight"):
        return ["hrnetv2"]
    blocks = [len({k.split(".")[2] for k in state if k.startswith(f"{ENCODER}layer{i}.")}) for i in (1, 2, 3, 4)]
    found = (tuple(blocks), has("layer1.0.conv3.weight"))
    depths = [depth for depth, facts in resnet.DEPTHS.items() if facts == found]
    return [name for depth in depths for name in (f"resnet{depth}", f"resnet{depth}dilated") if name in ENCODERS]


def _decoder_of(state: Mapping[str, Tensor]) -> str | None:
    suffix = "_deepsup" if f"{DECODER}conv_last_deepsup.weight" in state else ""
    if f"{DECODER}cbr.0.weight" in state:
        return f"c1{suffix}"
    if f"{DECODER}ppm.0.1.weight" in state:
        return f"ppm{suffix}"
    fused = state.get(f"{DECODER}conv_last.0.0.weight")
    if fused is None:
        return None
    return "upernet_lite" if fused.shape[0] == 256 else "upernet"


def is_scene_parsing(config: Mapping[str, Any]) -> bool:
    """Whether a config is of this project, in which section names are in capitals."""
    return isinstance(config.get("MODEL"), Mapping)


def translate_scene_parsing(
    config: Mapping[str, Any], *, class_names: Sequence[str] | None = None, names_source: str = ""
) -> Translation:
    """Translates a config of the project: ``MODEL`` and, if there is one, ``DATASET``; the rest is about training.

    Args:
        config: the config as plain Python values.
        class_names: names of the classes instead of ADE20K's, or None.
        names_source: where they come from, in words.

    Raises:
        ConversionError: encoder or decoder is not known, they do not fit each other, or a value is not supported.
    """
    model = Options(config["MODEL"], "MODEL")
    names = [_known(model, "arch_encoder", ENCODERS), _known(model, "arch_decoder", DECODERS)]
    encoder, decoder = ENCODERS[names[0]], DECODERS[names[1]]
    model.expect("fc_dim", encoder.width)
    data = Options(config.get("DATASET") or {}, "DATASET")
    num_labels = data.take("num_class", 150)
    if not isinstance(num_labels, int) or not 2 <= num_labels <= MAX_CLASSES:
        raise data.error(f"num_class={num_labels!r} must be a number of classes")
    if decoder.deep_supervision and encoder.joined:
        raise model.error(
            f"arch_decoder={names[1]!r} reads the last map but one, and arch_encoder={names[0]!r} has one alone"
        )

    backbone = encoder.build(norm_momentum=encoder.norm_momentum)
    shared = {
        "norm_momentum": NORM_MOMENTUM,
        "dropout": decoder.dropout,
        "downsample_labels": True,
        "num_labels": num_labels,
    }
    loss = CrossEntropyLoss(average="valid")
    head = decoder.build(encoder, losses=[loss], **shared)
    components = [
        ComponentKeys(ENCODER, "backbone.", KeyTable((*_BOOKKEEPING, *encoder.keys(backbone))), names[0], backbone),
        ComponentKeys(DECODER, "decode_heads.0.", KeyTable((*_BOOKKEEPING, *decoder.keys)), names[1], head),
    ]
    if decoder.deep_supervision:
        auxiliary = FCNHeadConfig(
            num_convs=1,
            concat_input=False,
            channels=encoder.width // 4,
            in_channels=[encoder.channels[-2]],
            in_index=[-2],
            losses=[replace(loss, weight=DEEP_SUPERVISION)],
            **shared,
        )
        title, keys = f"{names[1]} (deep supervision)", KeyTable(_DEEP_SUPERVISION_KEYS)
        components.append(ComponentKeys(DECODER, "auxiliary_heads.0.", keys, title, auxiliary))
    classes = find_classes(
        OriginalDataset(type="ADE20KDataset", reduce_labels=True),
        num_labels,
        class_names=class_names,
        names_source=names_source,
    )
    multiple = 32 if encoder.joined or isinstance(head, UPerHeadConfig) else 8
    return assemble(components, classes, processor=_processor(data, multiple), notes=())


def _known(options: Options, name: str, table: Mapping[str, Any]) -> str:
    value = options.take(name)
    if not isinstance(value, str) or value.lower() not in table:
        raise options.error(f"{name}={value!r} is not supported (only {', '.join(table)})")
    return value.lower()


def _processor(data: Options, multiple: int) -> dict[str, Any]:
    """Keyword arguments of SegZooImageProcessor, with the middle one of the scales that the project averages over."""
    sizes = data.take("imgSizes", IMAGE_SIZES)
    if isinstance(sizes, str):  # YAML has no tuples, so the configs write them as text
        try:
            sizes = ast.literal_eval(sizes)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise data.error(f"imgSizes={sizes!r:.60} must be a list of sizes") from None
    sizes = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes]
    if not sizes or any(type(size) is not int for size in sizes):
        raise data.error(f"imgSizes={sizes!r:.60} must be a list of sizes")
    sizes.sort()
    edges = {"shortest_edge": sizes[len(sizes) // 2], "longest_edge": data.take("imgMaxSize", MAX_SIZE)}
    size_multiple = data.take("padding_constant", multiple)
    for name, value in (edges | {"padding_constant": size_multiple}).items():
        if type(value) is not int or value < 1:
            raise data.error(f"{name}={value!r} must be a number of pixels")
    return {
        "do_resize": True,
        "size": edges,
        "rounding": "down",
        "size_multiple": size_multiple,
        "size_multiple_mode": "round_up",
        "resample": 2,  # PIL's bilinear filter
        "antialias": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "channel_order": "rgb",
        "num_channels": 3,
        "resize_logits_to_input": False,
    }

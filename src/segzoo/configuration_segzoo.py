"""The composite config: a backbone, an optional neck, decode and auxiliary heads, and how the model is used."""

import copy
import os
from typing import Any, Self

from transformers import AutoConfig, PreTrainedConfig

from segzoo.backbones.base import BackboneConfig, evenly_spaced_layers, is_token
from segzoo.backbones.icnet import ICNetConfig
from segzoo.backbones.internvit import InternViTConfig
from segzoo.base import Ints, SegZooBaseConfig, check_depth, nested_dict, strict
from segzoo.compat import SubConfigSpec
from segzoo.errors import SegZooError
from segzoo.heads import (
    FCNHeadConfig,
    FPNHeadConfig,
    HeadConfig,
    SegmenterHeadConfig,
    SETRMLAHeadConfig,
    SETRUPHeadConfig,
    UPerHeadConfig,
)
from segzoo.hub import AUTO_MAP, WritesShim
from segzoo.losses import CrossEntropyLoss, build_loss
from segzoo.necks import FPNNeckConfig, ICNeckConfig, MLANeckConfig, NeckConfig, PyramidNeckConfig


@strict
class SegZooConfig(WritesShim, SegZooBaseConfig):
    """Config of ``SegZooForSemanticSegmentation``.

    Args:
        backbone_config: config, or its dict, of any backbone that ``AutoBackbone`` builds: segzoo's, transformers' or
            timm's. None is a ResNet-50.
        neck_config: config of a segzoo neck, or its dict; None for no neck.
        decode_head_configs: configs, or their dicts, of one or more heads in cascade: each sees the feature maps and
            the output of the head before it; the last gives ``logits``. None is a UPerNet head.
        auxiliary_head_configs: configs, or their dicts, of heads whose losses are added when there are labels, and
            which run for nothing else.
        semantic_loss_ignore_index: label of the pixels that do not count.
        window_size, window_stride: (height, width) of sliding windows and of the step between them, in pixels, if the
            model is meant to be used with windows; None for whole images. ``forward`` takes them as arguments;
            evaluation and the image processor read them from here.
        palette: a colour (red, green, blue), each 0..255, for every class, or None.
        id2label, label2id, num_labels: the classes, as in every transformers config.

    Raises:
        SegZooError: there is no decode head, a sub-config is of the wrong kind, heads do not fit their places,
            windows or palette do not fit, or the classes have other ids than 0 to n - 1.
    """

    model_type = "segzoo"
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="segzoo_resnet"),
        "neck_config": SubConfigSpec(config_class=AutoConfig, model_type="segzoo_pyramid_neck", optional=True),
    }
    keys_to_ignore_at_inference = [
        "loss",
        "losses",
        "hidden_states",
        "attentions",
        "class_queries_logits",
        "masks_queries_logits",
    ]

    backbone_config: PreTrainedConfig | dict | None = None
    neck_config: PreTrainedConfig | dict | None = None
    decode_head_configs: list | tuple | None = None
    auxiliary_head_configs: list | tuple = ()
    semantic_loss_ignore_index: int = 255
    window_size: Ints | None = None
    window_stride: Ints | None = None
    palette: list | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)  # written with every save
        if self.decode_head_configs is None:
            self.decode_head_configs = [UPerHeadConfig()]
        self.decode_head_configs = [_head_config(config) for config in self.decode_head_configs]
        self.auxiliary_head_configs = [_head_config(config) for config in self.auxiliary_head_configs]
        other_classes = self.id2label is not None and kwargs.get("num_labels") not in (None, len(self.id2label))
        if other_classes:
            # from_pretrained(..., num_labels=N): the names and colours of the old classes do not belong to the new
            # ones.
            self.id2label = self.label2id = self.palette = None
        super().__post_init__(**kwargs)
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: index for index, name in self.id2label.items()}
        self._share_num_labels(other_classes)

    def share_num_labels(self) -> None:
        """Give every head this config's number of classes; a palette and class weights for another are dropped.

        Heads with ``own_outputs`` keep their number of outputs. The model calls this, and saving does, because
        ``from_pretrained(..., id2label=...)`` and whoever sets ``id2label`` change the classes after the config was made.
        """
        if self.palette is not None and len(self.palette) != self.num_labels:
            self.palette = None
        heads = (*self.decode_head_configs, *self.auxiliary_head_configs)
        self._share_num_labels(any(config.num_labels != self.num_labels for config in heads))

    def _share_num_labels(self, other_classes: bool) -> None:
        for config in (*self.decode_head_configs, *self.auxiliary_head_configs):
            config.num_labels = self.num_labels
            for field in config.loss_fields:
                losses = [build_loss(loss) for loss in getattr(config, field)]
                if other_classes:
                    losses = [loss.for_classes(config.num_outputs) for loss in losses]
                    setattr(config, field, [loss.to_dict() for loss in losses])
                for loss in losses:
                    loss.check_num_labels(config.num_outputs)

    @property
    def size_multiple(self) -> int:
        """What both sides of the model's input must be multiples of, in pixels; 1 if any size will do."""
        return self.backbone_config.size_multiple if isinstance(self.backbone_config, BackboneConfig) else 1

    def check_trainable(self) -> None:
        """Check before a training that there is something to tell apart.

        Raises:
            SegZooError: one class alone, of heads that choose one class a pixel: every pixel has it, so that the loss is 0 and
                every score perfect.
        """
        if self.num_labels == 1 and not any(config.has_queries for config in self.decode_head_configs):
            raise SegZooError(
                "a model of one class learns nothing: every pixel is of that class. Train with two classes, such as background and "
                "the one, whose ids in the masks are 0 and 1"
            )

    def check(self) -> None:
        """The classes are numbered, the last head gives them, no first head reads another, and neck, windows and palette fit."""
        super().check()
        class_names(self)
        check_depth(self.backbone_config)
        if not self.decode_head_configs:
            raise SegZooError("decode_head_configs is empty; a segmentation model needs at least one decode head")
        last = self.decode_head_configs[-1]
        if last.own_outputs is not None:
            raise SegZooError(
                f"the last decode head ({type(last).__name__}) gives the model's logits, but has own_outputs={last.own_outputs}; "
                "set num_labels of the model instead"
            )
        for config in (self.decode_head_configs[0], *self.auxiliary_head_configs):
            if config.reads_previous:
                raise SegZooError(
                    f"{type(config).__name__} reads the output of the decode head before it, and there is none; put it behind "
                    "another one in decode_head_configs"
                )
        if self.neck_config is not None and not isinstance(self.neck_config, NeckConfig):
            raise SegZooError(f"neck_config is a {type(self.neck_config).__name__}; give the config of a segzoo neck")
        if (self.window_size is None) != (self.window_stride is None):
            raise SegZooError("window_size and window_stride go together; set both or none")
        if self.window_size is not None:
            pairs = len(self.window_size) == len(self.window_stride) == 2
            if not pairs or any(not 0 < s <= w for s, w in zip(self.window_stride, self.window_size, strict=True)):
                raise SegZooError(
                    f"window_size={self.window_size} and window_stride={self.window_stride} must be (height, width) in pixels, "
                    "the stride positive and no longer than the window"
                )
        if self.palette is not None and len(self.palette) != self.num_labels:
            raise SegZooError(
                f"palette has {len(self.palette)} colours for {self.num_labels} classes; give one per class"
            )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, with the same arguments, all parts for the classes that the config has now."""
        self.share_num_labels()
        super().save_pretrained(save_directory, *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The config as a dict ready for JSON, with the heads as dicts."""
        output = super().to_dict()
        output["auto_map"] = dict(AUTO_MAP)
        for key in ("decode_head_configs", "auxiliary_head_configs"):
            output[key] = [nested_dict(config) for config in getattr(self, key)]
        output["backbone_config"] = nested_dict(self.backbone_config)
        return output

    @classmethod
    def from_backbone(
        cls,
        backbone_config: PreTrainedConfig,
        head_config: HeadConfig | None = None,
        *,
        auxiliary: bool = True,
        auxiliary_channels: int = 256,
        **kwargs: Any,
    ) -> "SegZooConfig":
        """A config with sensible defaults around a backbone config.

        The model reads the maps that the config of a segzoo backbone names. Other backbones return only their last map
        unless maps are chosen; of these all stages are read, or four evenly spaced layers of a plain ViT (its last one
        if it has fewer than four). A ``PyramidNeck`` turns the maps of a plain ViT into a pyramid, unless class tokens
        are among them or the head is made for the maps as they are: a linear one (an FCN head without convolutions),
        Segmenter's, and SETR's, whose MLA head gets an ``MLANeck``. An ``ICNeck`` fuses the three of an ICNet; behind
        another backbone an ``FPNHead`` gets an ``FPNNeck`` in front of it. Set the backbone's ``out_features`` or
        ``out_indices`` beforehand to choose other maps.

        Args:
            backbone_config: config of any backbone, which is copied.
            head_config: config of the decode head; None is UPerNet's.
            auxiliary: add an FCN head with weight 0.4 on the last map but one, or the only one, as in mmsegmentation's
                models.
            auxiliary_channels: width of the auxiliary head.
            kwargs: further fields of ``SegZooConfig``, such as ``num_labels`` or ``id2label``.
        """
        backbone_config = copy.deepcopy(backbone_config)
        # timm's config names no maps before its model is built.
        named = getattr(backbone_config, "stage_names", None) is not None
        if named and not isinstance(backbone_config, BackboneConfig):
            _choose_maps(backbone_config)
        chosen = backbone_config.out_features if named else []
        scales = named and is_plain_vit(backbone_config) and not any(map(is_token, chosen))
        pyramid = scales and not _reads_unscaled_maps(head_config)
        neck: NeckConfig | None = None
        if scales and isinstance(head_config, SETRMLAHeadConfig):
            neck = MLANeckConfig(norm="batch_norm", activation="relu")  # as its published models have it
        elif pyramid:
            neck = PyramidNeckConfig()
            if isinstance(backbone_config, InternViTConfig):
                neck = PyramidNeckConfig(norm="layer_norm", norm_eps=1e-6)  # as its published models have it
        elif isinstance(backbone_config, ICNetConfig) and chosen == backbone_config.stage_names:
            neck = ICNeckConfig()
        elif isinstance(head_config, FPNHeadConfig) and not any(map(is_token, chosen)):
            neck = FPNNeckConfig()
        heads = []
        if auxiliary:
            index = [-2] if pyramid or not named else [_last_but_one(chosen)]
            options = {"num_convs": 1, "concat_input": False, "losses": [CrossEntropyLoss(weight=0.4)]}
            heads.append(FCNHeadConfig(in_index=index, channels=auxiliary_channels, **options))
        return cls(
            backbone_config=backbone_config,
            neck_config=neck,
            decode_head_configs=[UPerHeadConfig() if head_config is None else head_config],
            auxiliary_head_configs=heads,
            **kwargs,
        )

    @classmethod
    def tiny(cls) -> Self:
        """A composite of a tiny ResNet, a UPerNet head and an auxiliary head, small enough for tests."""
        from segzoo.backbones import ResNetConfig

        return cls.from_backbone(ResNetConfig.tiny(), UPerHeadConfig(channels=16), num_labels=5)


def _reads_unscaled_maps(config: HeadConfig | None) -> bool:
    """Whether a head is made for the maps of a plain ViT as they are."""
    if isinstance(config, FCNHeadConfig):
        return config.num_convs == 0
    return isinstance(config, (SegmenterHeadConfig, SETRUPHeadConfig, SETRMLAHeadConfig))


def input_channels(config: PreTrainedConfig) -> int:
    """Channels of the images that a model takes, segzoo's or another of transformers.

    It is the backbone's ``num_channels``, or the config's own; a config without that field is for RGB.
    """
    return getattr(getattr(config, "backbone_config", None) or config, "num_channels", 3)


def class_names(config: PreTrainedConfig, source: str | None = None) -> list[str]:
    """Names of a model's classes in the order of its outputs, of segzoo's config or another of transformers.

    Args:
        config: the model's config.
        source: where it comes from, for the message; None: the config's class is named.

    Raises:
        SegZooError: ``id2label`` gives no names to ids, a name is no text, or ids are left out, so that names would belong
            to other outputs.
    """
    source = source or type(config).__name__
    try:
        names = {int(index): name for index, name in config.id2label.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise SegZooError(
            f"{source}: id2label={config.id2label!r:.60} must give each class's id its name, as {{0: 'road', 1: 'sky'}} does"
        ) from error
    for index, name in names.items():
        if not isinstance(name, str):
            raise SegZooError(f"{source}: the name of class {index} is no text ({name!r:.40}); correct id2label")
    missing = set(range(len(names))) - names.keys()
    if missing:
        raise SegZooError(
            f"{source}: id2label names {len(names)} classes, and none of them has the id {min(missing)}, so that names and outputs do "
            f"not match; number the classes from 0 to {len(names) - 1} in id2label"
        )
    return [names[index] for index in range(len(names))]


def is_plain_vit(config: PreTrainedConfig) -> bool:
    """Whether a backbone config is of a plain ViT: patches, one width, a map after every block."""
    values = config.to_dict()
    plain = {"patch_size", "num_hidden_layers", "hidden_size"} <= values.keys() and "depths" not in values
    return plain and sum(not is_token(name) for name in config.stage_names) == config.num_hidden_layers + 1


def _choose_maps(config: PreTrainedConfig) -> None:
    """Choose all stages of a backbone that would return its last map alone, or four layers of a plain ViT."""
    if len(config.out_indices) != 1:
        return
    if is_plain_vit(config):
        config.out_indices = evenly_spaced_layers(config.num_hidden_layers)
    else:
        config.out_indices = [i for i, name in enumerate(config.stage_names) if name != "stem"]


def _last_but_one(names: list[str]) -> int:
    """Position, counted from the end, of the last map but one that is no class token, or of the only one."""
    maps = [i for i, name in enumerate(names) if not is_token(name)] or [0]
    return maps[-2:][0] - len(names)


def _head_config(config: HeadConfig | dict[str, Any]) -> HeadConfig:
    if isinstance(config, dict):
        if "model_type" not in config:
            raise SegZooError(f"a head config needs its model_type; got the keys {sorted(config)}")
        config = AutoConfig.for_model(**config)
    if not isinstance(config, HeadConfig):
        raise SegZooError(f"{type(config).__name__} is no head config; give one of segzoo.heads")
    return copy.deepcopy(config)

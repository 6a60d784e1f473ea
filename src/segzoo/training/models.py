"""From a few settings to a model with its image processor, and the training transform that fits them."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoBackbone, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.auto import HEADS
from segzoo.backbones import Backbone
from segzoo.configuration_segzoo import input_channels
from segzoo.data.augmentation import Augmentation
from segzoo.data.classes import ClassFacts
from segzoo.data.transforms import IMAGENET_MEAN, IMAGENET_STD, JointTransform, build_train_transform
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig, HeadConfig
from segzoo.hub_names import hub_or_cache
from segzoo.images.resizing import multiple_settings, per_channel
from segzoo.inference.loading import check_channels, read_config, read_processor
from segzoo.training.backbones import loading_from, new_backbone, refuse_other_channels, set_drop_path
from segzoo.training.classifiers import load_for_classes
from segzoo.training.recipes.groups import ModelOptions
from segzoo.universal import model_from_config

_EDGES, _SIDES = ("shortest_edge", "longest_edge"), ("height", "width")


def load_config(name: str | None, hub_options: Mapping[str, Any] | None = None) -> PreTrainedConfig | None:
    """Load the config of a model to fine-tune, which names the classes if the data do not.

    Args:
        name: folder or Hub name of the model or config; None gives None.
        hub_options: see `build_model`.

    Raises:
        SegZooError: the config cannot be loaded.
    """
    if name is None:
        return None
    name, options = str(name), dict(hub_options or {})
    asked = {key: options.get(key) for key in ("revision", "token")}
    with loading_from(name, f"cannot load {name}"), hub_or_cache(name, **asked):
        return read_config(name, options)


@dataclass(frozen=True)
class NewModel:
    """The parts of a new model.

    Args:
        backbone: name of a variant (``"resnet50"``, ``"internimage-t"``), a short name of transformers' or timm's
            (``"convnext_tiny"``), or folder or Hub name of a backbone. It begins with the weights that are published
            for this name; variants without such weights begin with random ones.
        head: ``"uper"``, ``"fcn"``, ``"psp"`` or another registered head, or ``"linear"`` for the head that probes the
            last map: a batch norm and the classifier.
        head_channels: width of the head; None keeps its usual one. The linear head has none of its own.
        auxiliary_channels: width of an FCN head on the last map but one, for the training only; 0 for none.
        random_backbone: the backbone begins with random weights.
    """

    backbone: str
    head: str = "uper"
    head_channels: int | None = None
    auxiliary_channels: int = 0
    random_backbone: bool = False


@dataclass(frozen=True)
class BuiltModel:
    """A model before its training.

    Args:
        model: the model.
        backbone_weights: what the backbone of a new model begins with, in words: a repository, or ``"random"``; None
            for a model that existed.
        notes: lines for the user about the weights that backbone and classifier begin with.
    """

    model: PreTrainedModel
    backbone_weights: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """The model that is wanted; the fields are the arguments of `build_model`."""

    new: NewModel | None = None
    model_name_or_path: str | None = None
    config_name: str | None = None
    num_channels: int | None = None
    ignore_index: int = 255
    crop_size: tuple[int, int] | None = None
    hub_options: Mapping[str, Any] | None = None
    verify: bool = True


def build_model(
    classes: ClassFacts,
    options: ModelOptions | None = None,
    *,
    new: NewModel | None = None,
    model_name_or_path: str | None = None,
    config_name: str | None = None,
    num_channels: int | None = None,
    ignore_index: int = 255,
    crop_size: tuple[int, int] | None = None,
    hub_options: Mapping[str, Any] | None = None,
    verify: bool = True,
) -> PreTrainedModel:
    """Build a model for the given classes: an existing one, one from a config, or a new one around a backbone.

    Args:
        classes: names and colours of the classes.
        options: losses, drop path, momentum of norms and windows, such as ``Recipe.model_options``; None keeps the
            model's.
        new: backbone and head of a new model.
        model_name_or_path: folder or Hub name of a model. Rows of its classifier go to the classes of their names;
            those of other classes begin with random weights.
        config_name: folder or Hub name of a config; without ``model_name_or_path`` the weights are random.
        num_channels: number of channels of the pictures; None: 3 for a new backbone, and what weights and configs that
            are loaded have. Another number than theirs is an error.
        ignore_index: label that does not count.
        crop_size: (height, width) of the training crops, to which the position embeddings of an InternViT in a new
            model are resized; None keeps them.
        hub_options: ``token``, ``revision``, ``cache_dir``, ``trust_remote_code`` for loading.
        verify: compare the weights of a folder with the hashes that were saved with them; False for those that were
            changed since.

    Raises:
        SegZooError: the settings name no model or more than one, do not fit the model or the classes, or the model
            does not load as it was saved: weights are missing, left over, of other shapes, changed or not finite.

    Warns:
        UserWarning: which weights a new backbone begins with, and which parts of a model begin anew: the classifier
            where its classes are others, the head where the weights are of a model without one.
    """
    request = ModelRequest(
        new=new,
        model_name_or_path=model_name_or_path,
        config_name=config_name,
        num_channels=num_channels,
        ignore_index=ignore_index,
        crop_size=crop_size,
        hub_options=hub_options,
        verify=verify,
    )
    built = start_model(classes, options or ModelOptions(), request)
    for note in built.notes:
        warnings.warn(note, stacklevel=2)
    return built.model


def start_model(classes: ClassFacts, options: ModelOptions, request: ModelRequest) -> BuiltModel:
    """`build_model`, with what there is to say about it.

    Raises:
        SegZooError: as in `build_model`.
    """
    name = request.model_name_or_path or request.config_name
    if (request.new is not None) == (name is not None):
        raise SegZooError(
            "give either --backbone for a new model or --model_name_or_path (or --config_name) for an old one"
        )
    if options.weights_rule is not None:
        raise SegZooError(
            f"class_weights {options.weights_rule}: a training counts the classes for it; give numbers here, such as those of "
            "segzoo.training.class_weights"
        )
    if options.class_weights is not None and len(options.class_weights) != len(classes.id2label):
        raise SegZooError(
            f"--class_weights has {len(options.class_weights)} numbers for {len(classes.id2label)} classes"
        )
    built = _existing(classes, options, request) if request.new is None else _new(classes, options, request)
    _apply(options, built.model)
    return built


def _labels(classes: ClassFacts) -> dict[str, Any]:
    return {"id2label": classes.id2label, "label2id": {name: i for i, name in classes.id2label.items()}}


def _new(classes: ClassFacts, options: ModelOptions, request: ModelRequest) -> BuiltModel:
    new = request.new
    make_head = _head_maker(new)
    backbone = new_backbone(
        new.backbone,
        random=new.random_backbone,
        drop_path_rate=options.drop_path_rate,
        num_channels=request.num_channels,
        hub_options=request.hub_options or {},
        verify=request.verify,
    )
    config = SegZooConfig.from_backbone(
        backbone.config,
        make_head(backbone.config),
        auxiliary=new.auxiliary_channels > 0,
        auxiliary_channels=new.auxiliary_channels,
        palette=classes.palette,
        semantic_loss_ignore_index=request.ignore_index,
        **_labels(classes),
    )
    config.check_trainable()
    model = SegZooForSemanticSegmentation(config)
    model.backbone, notes = backbone.load(model.backbone)
    if request.crop_size is not None and isinstance(model.backbone, Backbone):
        model.backbone.fit_images(request.crop_size)
        model.config.backbone_config = model.backbone.config  # loading may have made another one
    return BuiltModel(model, backbone.weights, [backbone.note, *notes])


def _existing(classes: ClassFacts, options: ModelOptions, request: ModelRequest) -> BuiltModel:
    hub_options, name = dict(request.hub_options or {}), str(request.model_name_or_path or request.config_name)
    described_by = str(request.config_name or name)
    with loading_from(described_by, f"cannot load {described_by}"):
        config = read_config(described_by, hub_options, **_labels(classes))
    refuse_other_channels(request.num_channels, config, name)
    if hasattr(config, "palette"):
        config.palette = classes.palette
    set_drop_path(getattr(config, "backbone_config", config), options.drop_path_rate)
    notes: list[str] = []
    with loading_from(name, f"cannot load {name}"):
        if request.model_name_or_path is None:
            model = model_from_config(config)
        else:
            model, notes = load_for_classes(
                name, config, hub_options, other_config=described_by != name, verify=request.verify
            )
    model.config.semantic_loss_ignore_index = request.ignore_index
    if hasattr(model.config, "loss_ignore_index"):  # UPerNet's name in transformers
        model.config.loss_ignore_index = request.ignore_index
    return BuiltModel(model, notes=notes)


def _apply(options: ModelOptions, model: PreTrainedModel) -> None:
    """Set losses, class weights, windows and the norms' momentum of a model, which must have something to learn."""
    own = isinstance(model, SegZooForSemanticSegmentation)
    if own:
        model.config.check_trainable()
    if any(value is not None for value in (options.losses, options.auxiliary_losses, options.class_weights)):
        if not own:
            raise SegZooError(
                f"{type(model).__name__} has its own loss; losses and --class_weights work with segzoo's models"
            )
        model.set_losses(options.losses, options.auxiliary_losses)
    if options.class_weights is not None:
        for head in (*model.decode_heads, *model.auxiliary_heads):
            if head.config.own_outputs is not None:
                continue  # the weights are of other classes than its outputs
            head.set_class_weights(options.class_weights)
    if options.window_size is not None:
        if not own:
            raise SegZooError(
                f"{type(model).__name__} takes whole images only; --window_size works with segzoo's models"
            )
        model.config.window_size = list(options.window_size)
        model.config.window_stride = list(options.window_stride or options.window_size)
    if options.norm_momentum is not None:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = options.norm_momentum


def _head_maker(new: NewModel) -> Callable[[PreTrainedConfig], HeadConfig]:
    """What makes the head's config of the backbone's; the names are checked before a backbone is looked for."""
    if new.head == "linear":
        if new.head_channels is not None:
            raise SegZooError("--head linear is as wide as the backbone's last map; leave --head_channels out")
        return _linear_head
    head_type = f"segzoo_{new.head}_head"
    if head_type not in HEADS:
        known = sorted([*(name.removeprefix("segzoo_").removesuffix("_head") for name in HEADS), "linear"])
        raise SegZooError(f"--head {new.head}: there is no such head; choose one of {', '.join(known)}")
    settings = {} if new.head_channels is None else {"channels": new.head_channels}
    return lambda backbone: HEADS[head_type].config(**settings)


def _linear_head(backbone: PreTrainedConfig) -> HeadConfig:
    """The head that probes frozen features, which has to know the width of the map that it reads."""
    with torch.device("meta"):
        width = AutoBackbone.from_config(copy.deepcopy(backbone)).channels[-1]
    return FCNHeadConfig(num_convs=0, concat_input=False, with_norm=True, channels=width, dropout=0.0)


def build_processor(
    model: PreTrainedModel | None,
    classes: ClassFacts,
    *,
    image_processor_name: str | None = None,
    scale_size: Sequence[int] | None = None,
    keep_ratio: bool = True,
    size_divisor: int | None = None,
    ignore_index: int = 255,
    hub_options: Mapping[str, Any] | None = None,
) -> BaseImageProcessor:
    """Load or make the image processor that a model is tested and saved with.

    Args:
        model: the model; may be None if ``image_processor_name`` is given.
        classes: the classes, whose label rule the processor gets.
        image_processor_name: folder or Hub name of a processor; None makes one that leaves pictures at their size, for
            the model's number of channels.
        scale_size: (short edge,) or (short edge, limit of the long edge) that pictures are resized to, in pixels; None
            keeps the processor's size.
        keep_ratio: pictures keep their aspect ratio; False: ``scale_size`` is (height, width).
        size_divisor: both sides of a picture are stretched to the next multiple of this number; None: they are not.
        ignore_index: label that does not count.
        hub_options: see `build_model`.

    Raises:
        SegZooError: the processor cannot be loaded, reads another number of channels than the model takes, or cannot
            stretch pictures to multiples.
    """
    if image_processor_name is not None:
        image_processor_name = str(image_processor_name)
        with loading_from(image_processor_name, f"cannot load an image processor from {image_processor_name}"):
            num_channels = 3 if model is None else input_channels(model.config)
            processor = read_processor(image_processor_name, dict(hub_options or {}), num_channels)
        if model is not None:
            check_channels(model.config, processor, image_processor_name)
    else:
        heads = getattr(model.config, "decode_head_configs", None)
        processor = new_processor(
            input_channels(model.config),
            align_corners=heads[-1].align_corners if heads else False,
            window_size=getattr(model.config, "window_size", None),
            window_stride=getattr(model.config, "window_stride", None),
        )
    if scale_size is not None:
        edges = dict(zip(_EDGES if keep_ratio else _SIDES, scale_size, strict=False))
        options = {**processor.to_dict(), "do_resize": True, "size": edges}
        processor = type(processor)(**{k: v for k, v in options.items() if k != "image_processor_type"})
    if size_divisor is not None:
        if not isinstance(processor, SegZooImageProcessor):
            raise SegZooError(
                f"--size_divisor: {type(processor).__name__} cannot do that; use segzoo's image processor"
            )
        processor.size_multiple, processor.size_multiple_mode = size_divisor, "stretch"
    if isinstance(processor, SegZooImageProcessor) and isinstance(getattr(model, "config", None), SegZooConfig):
        for name, value in multiple_settings(model.config.size_multiple, processor.size_multiple).items():
            setattr(processor, name, value)
    processor.do_reduce_labels = classes.reduce_labels
    if hasattr(processor, "ignore_index"):
        processor.ignore_index = ignore_index
    return processor


def new_processor(num_channels: int, **settings: Any) -> SegZooImageProcessor:
    """An image processor that leaves pictures at their size.

    Args:
        num_channels: number of channels of the pictures. RGB is normalised with ImageNet's mean and standard
            deviation; each channel of other pictures with the averages of these over the channels.
        settings: further fields of the processor.
    """
    mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
    if num_channels != 3:
        mean, std = ([round(sum(values) / 3, 3)] * num_channels for values in (mean, std))
    return SegZooImageProcessor(do_resize=False, num_channels=num_channels, image_mean=mean, image_std=std, **settings)


def no_distortion(num_channels: int) -> str:
    """A note for the user, for when `Augmentation.for_channels` leaves photometric distortion out."""
    return (
        f"no photometric distortion: it changes the saturation and hue of RGB pictures, and these have {num_channels} "
        f"channel{'s' * (num_channels != 1)}"
    )


def crop_size_of(processor: BaseImageProcessor) -> tuple[int, int]:
    """Default (height, width) of training crops: the processor's size, or its short edge as a square, or 512 x 512."""
    size = dict(processor.size) if getattr(processor, "do_resize", False) and processor.size else {}
    if size.get("height") is not None:
        return size["height"], size["width"]
    edge = size.get("shortest_edge") or 512
    return edge, edge


def training_transform(
    processor: BaseImageProcessor,
    augmentation: Augmentation | None = None,
    *,
    ignore_index: int = 255,
    num_channels: int | None = None,
) -> JointTransform:
    """Build the training transform with the scale and normalisation of an image processor.

    Args:
        processor: the model's image processor; if it resizes and the augmentation has no ``scale_size``, the random
            factor multiplies its ``size``.
        augmentation: such as ``Recipe.augmentation``; None: `Augmentation()`, for pictures that are not RGB without
            photometric distortion.
        ignore_index: label that does not count.
        num_channels: number of channels that the model takes; None: the processor's ``num_channels``, or 3 if it has
            none.

    Raises:
        SegZooError: the augmentation does not go with the processor's size or with the channels.
    """
    if num_channels is None:
        num_channels = getattr(processor, "num_channels", 3)
    augmentation = augmentation or Augmentation().for_channels(num_channels)
    size = getattr(processor, "size", None)
    if augmentation.scale_size is None and getattr(processor, "do_resize", False) and size:
        augmentation = replace(augmentation, **_scale(dict(size)))
    normalise = getattr(processor, "do_normalize", True)
    return build_train_transform(
        augmentation,
        image_mean=per_channel(processor.image_mean if normalise else 0.0, num_channels, "image_mean"),
        image_std=per_channel(processor.image_std if normalise else 1.0, num_channels, "image_std"),
        rescale_factor=processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0,
        channel_order=getattr(processor, "channel_order", "rgb"),
        reduce_labels=bool(getattr(processor, "do_reduce_labels", False)),
        ignore_index=ignore_index,
        antialias=bool(getattr(processor, "antialias", False)),
        num_channels=num_channels,
    )


def _scale(size: Mapping[str, int | None]) -> dict[str, Any]:
    """The fields of an augmentation that resizes like an image processor with this ``size``."""
    if size.get("height") is not None:
        return {"keep_ratio": False, "scale_size": (size["height"], size["width"])}
    short, long = size.get("shortest_edge"), size.get("longest_edge")
    if short is None and long is None:
        return {"keep_ratio": True}
    if long is None:
        return {"keep_ratio": True, "scale_size": (short,)}
    # The smaller limit is that of the short edge, however they are called; where that has none, the long edge decides.
    return {"keep_ratio": True, "scale_size": (long, long) if short is None else tuple(sorted((short, long)))}


def trained_in_float32(model: nn.Module) -> None:
    """Turn the parts of a model with half-precision weights to be trained into float32; small steps would be lost.

    Mixed precision still computes in half precision. Frozen parts stay as they are.
    """
    for part in model.children():
        if any(p.requires_grad and p.dtype in (torch.float16, torch.bfloat16) for p in part.parameters()):
            part.float()

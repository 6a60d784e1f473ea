"""From a few settings to classes, a model with its image processor, and the training transform that fits them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segzoo.data import DATASETS, build_train_transform, detect_facts, load_id2label
from segzoo.errors import SegZooError
from segzoo.images.drawing import default_palette

_EDGES, _SIDES = ("shortest_edge", "longest_edge"), ("height", "width")


@dataclass(frozen=True)
class ClassFacts:
    """The classes of the data.

    Args:
        id2label: name by id, ids 0..n-1.
        palette: colour (red, green, blue; 0..255) by id.
        reduce_labels: masks hold 0 for "no class" and 1..n for the classes.
        source: where the names come from, in words.
        dataset: title of a known data set with exactly these classes, or None.
    """

    id2label: dict[int, str]
    palette: list[list[int]]
    reduce_labels: bool = False
    source: str = ""
    dataset: str | None = None

    @property
    def names(self) -> list[str]:
        """Names in the order of their ids."""
        return [self.id2label[index] for index in range(len(self.id2label))]


def find_classes(
    dataset_name: str | os.PathLike,
    *,
    classes: str | None = None,
    num_labels: int | None = None,
    model_config: Any = None,
    reduce_labels: bool | None = None,
    token: str | None = None,
) -> ClassFacts:
    """The classes of a data set: as asked for, or as they lie beside it, or those of the model to be fine-tuned.

    Args:
        dataset_name: the folder or Hub name of the data.
        classes: a name in `segzoo.data.DATASETS`, or a JSON file of id and name.
        num_labels: a number of classes without names.
        model_config: config of a model that has these classes already; used when nothing else says.
        reduce_labels: the label rule; None takes the one of a known data set, which is asked for by name or recognised
            (`segzoo.data.detect_facts`), else of nobody: masks hold 0..n-1.
        token: for the Hub.

    Raises:
        SegZooError: nothing names the classes, or the ids are not 0..n-1.
    """
    facts = None
    if classes is not None and classes in DATASETS:
        facts = DATASETS[classes]
        names, source = facts.id2label, facts.title
    elif classes is not None:
        names, source = _read_id2label(Path(classes)), classes
    elif num_labels is not None:
        if num_labels < 1:
            raise SegZooError(f"--num_labels is {num_labels}; a model has at least one class")
        names, source = {index: f"class {index}" for index in range(num_labels)}, "--num_labels"
    elif (names := load_id2label(dataset_name, token=token)) is not None:
        source = f"id2label of {dataset_name}"
        if not (Path(dataset_name).expanduser() / "id2label.json").is_file():
            facts = detect_facts(dataset_name)
        if facts is not None and facts.id2label != names:
            facts = None
        elif facts is not None:
            source = facts.title
    elif model_config is not None and model_config.id2label:
        names, source = {int(index): name for index, name in model_config.id2label.items()}, "the model"
    else:
        raise SegZooError(
            f"{dataset_name} does not say what its classes are called: put id2label.json beside it, or pass --classes with "
            f"a JSON file or one of {', '.join(sorted(DATASETS))}, or --num_labels"
        )
    if sorted(names) != list(range(len(names))):
        raise SegZooError(
            f"the classes of {source} have the ids {sorted(names)[:10]}...; ids must run from 0 to n - 1"
        )
    names = {index: names[index] for index in range(len(names))}
    known = facts or next((d for d in DATASETS.values() if d.id2label == names), None)
    palette = [list(colour) for colour in known.palette] if known else default_palette(len(names))
    if reduce_labels is None:
        reduce_labels = facts is not None and facts.reduce_labels
    return ClassFacts(names, palette, reduce_labels, source, known.title if known else None)


def _read_id2label(file: Path) -> dict[int, str]:
    if not file.is_file():
        raise SegZooError(
            f"--classes {file}: is neither a file nor a known data set; known are {', '.join(sorted(DATASETS))}"
        )
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(loaded, list):
            loaded = dict(enumerate(loaded))
        return {int(index): str(name) for index, name in loaded.items()}
    except (ValueError, AttributeError) as error:
        raise SegZooError(f'{file} should be JSON such as {{"0": "sky", "1": "road"}}: {error}') from error


def load_config(name: str | None, hub_options: Mapping[str, Any] | None = None):
    """The config of a model to fine-tune, whose classes stand in for those of data that does not name its own.

    Args:
        name: folder or Hub name; None gives None.
        hub_options: as in `build_model`.

    Raises:
        SegZooError: it cannot be loaded.
    """
    if name is None:
        return None
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, **dict(hub_options or {}))
    except (OSError, ValueError) as error:
        raise SegZooError(f"cannot load {name}: {_first_line(error)}") from error


def build_model(
    classes: ClassFacts,
    *,
    model_name_or_path: str | None = None,
    config_name: str | None = None,
    backbone: str | None = None,
    head: str = "uper",
    head_channels: int | None = None,
    auxiliary_channels: int = 0,
    losses: Sequence[Mapping[str, Any]] | None = None,
    auxiliary_losses: Sequence[Mapping[str, Any]] | None = None,
    class_weights: Sequence[float] | None = None,
    drop_path_rate: float | None = None,
    norm_momentum: float | None = None,
    window_size: Sequence[int] | None = None,
    window_stride: Sequence[int] | None = None,
    ignore_index: int = 255,
    hub_options: Mapping[str, Any] | None = None,
):
    """A model for these classes: an existing one, one from a config, or a new one around a backbone.

    Args:
        classes: names and colours.
        model_name_or_path: folder or Hub name of a model; a classifier for other classes is replaced by random weights.
        config_name: folder or Hub name of a config; without ``model_name_or_path`` the weights are random.
        backbone: a variant (``"resnet18_v1c"``, ``"internimage-t"``), random weights; or folder or Hub name of a backbone
            with its weights.
        head: ``"uper"``, ``"fcn"``, ``"psp"`` or another registered head, for a new model.
        head_channels: its width; None keeps the head's usual one.
        auxiliary_channels: width of an FCN head on the last map but one, for the training only; 0 for none.
        losses, auxiliary_losses: of the decode heads and of the auxiliary heads (`segzoo.losses`); None leaves theirs.
        class_weights: factor per class on all these losses.
        drop_path_rate: largest probability of skipping a residual block, in 0..1; None leaves the backbone's.
        norm_momentum: share of the new batch in the running statistics of all batch norms; None leaves the model's.
        window_size, window_stride: (height, width) of the sliding windows that the model is tested with, and their step;
            None leaves what the model says.
        ignore_index: label that does not count.
        hub_options: ``token``, ``revision``, ``cache_dir``, ``trust_remote_code`` for loading.

    Raises:
        SegZooError: settings that do not name one model, that do not exist or do not fit.
    """
    from transformers import AutoConfig, AutoModelForSemanticSegmentation

    from segzoo import SegZooForSemanticSegmentation

    options = dict(hub_options or {})
    num_labels = len(classes.id2label)
    label_fields = {"id2label": classes.id2label, "label2id": {name: i for i, name in classes.id2label.items()}}
    if (backbone is not None) == (model_name_or_path is not None or config_name is not None):
        raise SegZooError(
            "give either --backbone for a new model or --model_name_or_path (or --config_name) for an old one"
        )
    if class_weights is not None and len(class_weights) != num_labels:
        raise SegZooError(f"--class_weights has {len(class_weights)} numbers for {num_labels} classes")
    if backbone is not None:
        fields = {**label_fields, "palette": classes.palette, "semantic_loss_ignore_index": ignore_index}
        model = _new_model(backbone, head, head_channels, auxiliary_channels, drop_path_rate, fields, options)
    else:
        try:
            config = AutoConfig.from_pretrained(config_name or model_name_or_path, **label_fields, **options)
            if hasattr(config, "palette"):
                config.palette = classes.palette
            _set_drop_path(getattr(config, "backbone_config", config), drop_path_rate)
            if model_name_or_path is None:
                model = AutoModelForSemanticSegmentation.from_config(config)
            else:
                model = AutoModelForSemanticSegmentation.from_pretrained(
                    model_name_or_path, config=config, ignore_mismatched_sizes=True, **options
                )
        except SegZooError:
            raise
        except (OSError, ValueError) as error:
            raise SegZooError(f"cannot load {model_name_or_path or config_name}: {_first_line(error)}") from error
        model.config.semantic_loss_ignore_index = ignore_index
    if losses is not None or auxiliary_losses is not None or class_weights is not None:
        if not isinstance(model, SegZooForSemanticSegmentation):
            raise SegZooError(
                f"{type(model).__name__} has its own loss; losses and --class_weights work with segzoo's models"
            )
        model.set_losses(losses, auxiliary_losses)
        for head in (*model.decode_heads, *model.auxiliary_heads) if class_weights is not None else ():
            head.set_losses([loss | {"class_weights": list(class_weights)} for loss in head.config.losses])
    if window_size is not None:
        if not isinstance(model, SegZooForSemanticSegmentation):
            raise SegZooError(
                f"{type(model).__name__} takes whole images only; --window_size works with segzoo's models"
            )
        model.config.window_size = list(window_size)
        model.config.window_stride = list(window_stride or window_size)
    if norm_momentum is not None:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = norm_momentum
    return model


def _set_drop_path(config, rate: float | None) -> None:
    if rate is None:
        return
    if not hasattr(config, "drop_path_rate"):
        if rate > 0:
            raise SegZooError(f"{type(config).__name__} has no drop path; leave --drop_path_rate out, or give none")
        return
    config.drop_path_rate = rate


def _new_model(backbone, head, head_channels, auxiliary_channels, drop_path_rate, fields, options):
    from transformers import AutoConfig

    from segzoo import SegZooConfig, SegZooForSemanticSegmentation
    from segzoo.auto import HEADS, AutoBackbone, backbone_variants
    from segzoo.heads import FCNHeadConfig

    head_type = f"segzoo_{head}_head"
    if head_type not in HEADS:
        known = sorted(name.removeprefix("segzoo_").removesuffix("_head") for name in HEADS)
        raise SegZooError(f"--head {head}: there is no such head; choose one of {', '.join(known)}")
    width = {} if head_channels is None else {"channels": head_channels}
    head_config = HEADS[head_type].config(**width)
    variants = backbone_variants()
    pretrained = backbone not in variants
    if pretrained:
        try:
            backbone_config = AutoConfig.from_pretrained(backbone, **options)
        except (OSError, ValueError) as error:
            raise SegZooError(
                f"--backbone {backbone}: is none of the variants ({', '.join(sorted(variants))}) and cannot be loaded: "
                f"{_first_line(error)}"
            ) from error
    else:
        backbone_config = variants[backbone].variant_config(backbone)
    _set_drop_path(backbone_config, drop_path_rate)
    config = SegZooConfig.from_backbone(
        backbone_config,
        head_config,
        auxiliary=False,
        **fields,
    )
    if auxiliary_channels:
        auxiliary = FCNHeadConfig(
            in_index=[-2],
            num_convs=1,
            concat_input=False,
            losses=[{"type": "cross_entropy", "weight": 0.4}],
            channels=auxiliary_channels,
        )
        auxiliary.num_labels = config.num_labels
        config.auxiliary_head_configs = [auxiliary]
    model = SegZooForSemanticSegmentation(config)
    if pretrained:
        try:
            model.backbone = AutoBackbone.from_pretrained(backbone, config=model.config.backbone_config, **options)
        except (OSError, ValueError) as error:
            raise SegZooError(f"--backbone {backbone}: cannot be loaded: {_first_line(error)}") from error
    return model


def build_processor(
    model,
    classes: ClassFacts,
    *,
    image_processor_name: str | None = None,
    scale_size: Sequence[int] | None = None,
    keep_ratio: bool = True,
    size_divisor: int | None = None,
    ignore_index: int = 255,
    hub_options: Mapping[str, Any] | None = None,
):
    """The image processor that a model is tested with, and that is saved with it.

    Args:
        model: the model.
        classes: their label rule goes into the processor.
        image_processor_name: folder or Hub name to take it from; None makes one that leaves pictures at their size.
        scale_size: (short edge,) or (short edge, long edge) limit that pictures are resized to; None keeps what the
            processor does.
        keep_ratio: pictures keep their shape; False: ``scale_size`` is (height, width).
        size_divisor: pictures are stretched up to multiples of it.
        ignore_index: label that does not count.
        hub_options: as in `build_model`.

    Raises:
        SegZooError: it cannot be loaded, or cannot resize so.
    """
    from segzoo import SegZooImageProcessor

    if image_processor_name is not None:
        from transformers import AutoImageProcessor

        try:
            processor = AutoImageProcessor.from_pretrained(image_processor_name, **dict(hub_options or {}))
        except (OSError, ValueError) as error:
            raise SegZooError(
                f"cannot load an image processor from {image_processor_name}: {_first_line(error)}"
            ) from error
    else:
        channels = getattr(model.config.backbone_config, "num_channels", 3)
        heads = getattr(model.config, "decode_head_configs", None)
        processor = SegZooImageProcessor(
            do_resize=False,
            num_channels=channels,
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
    processor.do_reduce_labels = classes.reduce_labels
    if hasattr(processor, "ignore_index"):
        processor.ignore_index = ignore_index
    return processor


def crop_size_of(processor) -> list[int]:
    """Height and width of training crops where nobody says: what the model is used at; 512 where pictures keep their size."""
    size = dict(processor.size) if getattr(processor, "do_resize", False) and processor.size else {}
    if size.get("height") is not None:
        return [size["height"], size["width"]]
    return [size.get("shortest_edge") or 512] * 2


def training_transform(
    processor,
    *,
    crop_size: Sequence[int] | None,
    scale_size: Sequence[int] | None = None,
    scale_edges: Sequence[int] = (),
    scale_range: Sequence[float] = (0.5, 2.0),
    keep_ratio: bool = True,
    size_divisor: int | None = None,
    cat_max_ratio: float = 0.75,
    flip_probability: float = 0.5,
    photometric_distortion: bool = True,
    ignore_index: int = 255,
):
    """The training transform whose scale and normalisation are those of an image processor.

    Args:
        processor: of the model; where it resizes, and ``scale_size`` is None, its ``size`` is what the random ratio multiplies.
        crop_size: (height, width) of the crops; None: whole pictures.
        scale_size, keep_ratio: as in `build_processor`, for the training.
        scale_edges, scale_range, size_divisor, cat_max_ratio, flip_probability, photometric_distortion: as in
            `segzoo.data.build_train_transform`.
        ignore_index: label that does not count.

    Raises:
        SegZooError: sizes or ranges that make no sense.
    """
    size = getattr(processor, "size", None)
    if scale_size is not None:
        scale_size = (*scale_size, None)[:2]
    elif getattr(processor, "do_resize", False) and size:
        size = dict(size)
        keep_ratio = size.get("height") is None
        scale_size = tuple(size.get(name) for name in (_EDGES if keep_ratio else _SIDES))
    normalise = getattr(processor, "do_normalize", True)
    return build_train_transform(
        crop_size=None if crop_size is None else tuple(crop_size),
        scale_size=scale_size,
        scale_edges=scale_edges,
        scale_range=tuple(scale_range),
        keep_ratio=keep_ratio,
        size_divisor=size_divisor,
        cat_max_ratio=cat_max_ratio,
        flip_probability=flip_probability,
        photometric=photometric_distortion,
        image_mean=_three(processor.image_mean) if normalise else (0.0, 0.0, 0.0),
        image_std=_three(processor.image_std) if normalise else (1.0, 1.0, 1.0),
        rescale_factor=processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0,
        channel_order=getattr(processor, "channel_order", "rgb"),
        reduce_labels=bool(getattr(processor, "do_reduce_labels", False)),
        ignore_index=ignore_index,
        antialias=bool(getattr(processor, "antialias", False)),
    )


def _three(values) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(values)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

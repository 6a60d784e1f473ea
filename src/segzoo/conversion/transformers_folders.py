"""Models as transformers saves them -> ours, and back: the same layers, with other names and layouts.

They are SegFormer, UPerNet, Mask2Former and MaskFormer.

transformers' SegFormer has an epsilon of 1e-5 in every norm, where SegFormer's authors have 1e-6 in most: models that were
converted from theirs differ by some 1e-6 of the largest logit when they go to transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import (
    Mask2FormerConfig,
    Mask2FormerImageProcessor,
    MaskFormerConfig,
    PreTrainedConfig,
    SegformerConfig,
    SegformerImageProcessor,
    UperNetConfig,
)

from segzoo.backbones.mit import MiTConfig
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.labels import GIVEN_NAMES, OriginalClasses
from segzoo.conversion.options import values_that_fit
from segzoo.conversion.reading.checkpoints import OriginalCheckpoint, read_checkpoint
from segzoo.conversion.rules.mit import transformers_mit_keys
from segzoo.conversion.rules.segformer import transformers_segformer_keys
from segzoo.conversion.transformers_queries import (
    ARCHITECTURES,
    ignored_label,
    query_config,
    query_notes,
    query_parts,
)
from segzoo.conversion.transformers_upernet import (
    has_upernet_of_transformers,
    upernet_config,
    upernet_notes,
    upernet_parts,
)
from segzoo.conversion.translation import ComponentKeys, Translation, assemble
from segzoo.conversion.weights import original_state_dict
from segzoo.files import whole_folder
from segzoo.heads import QueryHeadConfig, SegFormerHeadConfig
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation

ARCHITECTURE = "SegformerForSemanticSegmentation"
_KINDS: dict[str, type[PreTrainedConfig]] = {
    "segformer": SegformerConfig,
    "upernet": UperNetConfig,
    "mask2former": Mask2FormerConfig,
    "maskformer": MaskFormerConfig,
}
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_NOTE = "model.decode_head: dropout drops whole channels here, and single values or none there (training)"
_QUERY_NOTE = "model.decode_head: all its parts have one dropout rate here (training)"
_EPS = 1e-5  # of every norm of transformers' class, whatever its config says
# Settings of image processors that mean the same in both.
_SHARED = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


def is_transformers_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a model that transformers saved and that we have too."""
    folder = Path(path)
    return (folder / _CONFIG).is_file() and _read_json(folder / _CONFIG).get("model_type") in _KINDS


def is_transformers_config(config: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint's config is that of a folder that `read_transformers_folder` read."""
    return config is not None and "transformers" in config


def read_transformers_folder(path: str | Path) -> OriginalCheckpoint:
    """Reads a folder with a model of transformers that we have too; its config holds those of the model and of the processor.

    Raises:
        ConversionError: the folder has no weights in one file, or they cannot be read.
    """
    folder = Path(path)
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise ConversionError(
            f"{folder}: the folder has neither {' nor '.join(_WEIGHTS)}; save the model in one file with save_pretrained"
        )
    found = read_checkpoint(file)
    processor = folder / _PROCESSOR
    config = {
        "transformers": _read_json(folder / _CONFIG),
        "processor": _read_json(processor) if processor.is_file() else {},
    }
    return replace(found, config=config, config_text=None, source=folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: cannot be read ({error}); save the model again") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path}: holds no settings; save the model again")
    return values


def translate_transformers(config: Mapping[str, Any], *, class_names: list[str] | None = None) -> Translation:
    """Translates the config of a folder that `read_transformers_folder` read.

    Args:
        config: the config.
        class_names: names that come before the config's, or None.

    Raises:
        ConversionError: it is not a segmentation model, has one output or another activation than GELU, or the names
            are not as many as its classes.
    """
    where = "config.json"
    with values_that_fit(where):
        values = dict(config["transformers"])
        theirs = _KINDS[values["model_type"]].from_dict(values)
        _check_architecture(theirs, where)
        if theirs.num_labels < 2:
            raise ConversionError(f"{where}: a model with one output is not supported; train one with two classes")
        if isinstance(theirs, SegformerConfig):
            components, ignore_index = _components(*_our_configs(theirs)), theirs.semantic_loss_ignore_index
        elif isinstance(theirs, UperNetConfig):
            components, ignore_index = upernet_parts(theirs), theirs.loss_ignore_index
        else:
            components, ignore_index = query_parts(theirs), ignored_label(theirs)
    names, source = [theirs.id2label[i] for i in range(theirs.num_labels)], where
    if class_names is not None:
        names, source = list(class_names), GIVEN_NAMES
        if len(names) != theirs.num_labels:
            raise ConversionError(
                f"class counts disagree: {source} names {len(names)} classes, the model has {theirs.num_labels}; give one "
                "name for each class"
            )
    elif all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        names, source = None, ""
    processor, reduce_labels = _our_processor(config["processor"], theirs)
    return assemble(
        components,
        OriginalClasses(names, None, source, None, reduce_labels),
        processor=processor,
        notes=[_QUERY_NOTE if _has_queries(theirs) else _NOTE],
        ignore_index=ignore_index,
    )


def _has_queries(theirs: PreTrainedConfig) -> bool:
    return theirs.model_type in ARCHITECTURES


def _check_architecture(theirs: PreTrainedConfig, where: str) -> None:
    if not isinstance(theirs, SegformerConfig):
        return
    if theirs.architectures and ARCHITECTURE not in theirs.architectures:
        raise ConversionError(
            f"{where}: this is a {', '.join(map(str, theirs.architectures))}, which has no decode head; as a backbone "
            "it is trained with --backbone FOLDER"
        )
    if theirs.hidden_act != "gelu":
        raise ConversionError(f"{where}: hidden_act={theirs.hidden_act!r} is not supported (only 'gelu')")


def _components(backbone: MiTConfig, head: SegFormerHeadConfig) -> list[ComponentKeys]:
    return [
        ComponentKeys("", "backbone.", KeyTable(transformers_mit_keys(backbone)), "SegformerModel", backbone),
        ComponentKeys(
            "decode_head.",
            "decode_heads.0.",
            KeyTable(transformers_segformer_keys(head)),
            "SegformerDecodeHead",
            head,
        ),
    ]


def _our_configs(theirs: SegformerConfig) -> tuple[MiTConfig, SegFormerHeadConfig]:
    backbone = MiTConfig(
        num_channels=theirs.num_channels,
        channels=list(theirs.hidden_sizes),
        depths=list(theirs.depths),
        num_heads=list(theirs.num_attention_heads),
        patch_sizes=list(theirs.patch_sizes),
        strides=list(theirs.strides),
        reductions=list(theirs.sr_ratios),
        mlp_ratios=list(theirs.mlp_ratios),
        norm_eps=_EPS,
        patch_norm_eps=_EPS,
        dropout=float(theirs.hidden_dropout_prob),
        attention_dropout=float(theirs.attention_probs_dropout_prob),
        drop_path_rate=float(theirs.drop_path_rate),
    )
    head = SegFormerHeadConfig(
        in_channels=list(theirs.hidden_sizes),
        in_index=list(range(len(theirs.hidden_sizes))),
        channels=theirs.decoder_hidden_size,
        dropout=float(theirs.classifier_dropout_prob),
        linear_projections=True,
        num_labels=theirs.num_labels,
    )
    return backbone, head


def _our_processor(theirs: Mapping[str, Any], model: PreTrainedConfig) -> tuple[dict[str, Any], bool]:
    """Keyword arguments of our image processor, and whether labels are reduced."""
    defaults = (Mask2FormerImageProcessor if _has_queries(model) else SegformerImageProcessor)().to_dict()
    settings = {name: theirs.get(name, defaults[name]) for name in _SHARED}
    multiple: dict[str, Any] = {"size_multiple": None}
    if _has_queries(model):
        if isinstance(settings["size"], int):  # as the first versions wrote it
            settings["size"] = {"shortest_edge": settings["size"], "longest_edge": theirs.get("max_size", 1333)}
        divisor = theirs.get("size_divisor", theirs.get("size_divisibility", 32)) if settings["do_resize"] else None
        multiple = {"size_multiple": divisor or None, "size_multiple_mode": "round_up"}
    elif isinstance(settings["size"], int):
        settings["size"] = {"height": settings["size"], "width": settings["size"]}
    reduced = theirs.get("do_reduce_labels", theirs.get("reduce_labels", False))
    return {**settings, "antialias": True, **multiple}, bool(reduced)


def write_transformers_folder(
    model: SegZooForSemanticSegmentation, processor: SegZooImageProcessor, output: str | Path
) -> list[str]:
    """Writes a SegFormer, UPerNet, Mask2Former or MaskFormer of ours as a folder that transformers loads.

    Args:
        model: the model.
        processor: its image processor.
        output: folder to make; it may exist if it is empty.

    Returns:
        remarks about what differs there.

    Raises:
        ConversionError: transformers has no such model.
        SegZooError: the folder is not empty, or cannot be written.
    """
    notes: list[str] = []
    heads = model.config.decode_head_configs
    queries = heads[0] if isinstance(heads[0], QueryHeadConfig) else None
    if queries is not None:
        config = query_config(model.config)
        components = query_parts(config)
        notes += query_notes(queries)
    elif has_upernet_of_transformers(model.config.backbone_config):
        config = upernet_config(model.config)
        components = upernet_parts(config)
        notes += upernet_notes(model.config.backbone_config)
    else:
        backbone, head = _parts_for_transformers(model.config)
        config, components = _segformer_config(model.config, backbone, head), _components(backbone, head)
        if (backbone.norm_eps, backbone.patch_norm_eps) != (_EPS, _EPS):
            notes.append(
                f"norms: transformers' class has an epsilon of {_EPS} in all of them; logits differ by some 1e-6"
            )
    if not processor.antialias and processor.do_resize:
        notes.append("images: transformers' processor antialiases when it shrinks them")
    settings = {name: getattr(processor, name) for name in _SHARED if name != "size"}
    settings["do_reduce_labels"] = processor.do_reduce_labels
    write = _queries_processor if queries is not None else _segformer_processor
    theirs = write(processor, settings, notes)
    state = original_state_dict(model.state_dict(), components)
    with whole_folder(output) as folder:
        config.save_pretrained(folder)
        theirs.save_pretrained(folder)
        save_file(
            {key: tensor.contiguous() for key, tensor in state.items()},
            folder / _WEIGHTS[0],
            metadata={"format": "pt"},
        )
    return notes


def _segformer_processor(
    processor: SegZooImageProcessor, settings: dict[str, Any], notes: list[str]
) -> SegformerImageProcessor:
    """The image processor for SegFormer and UPerNet; adds remarks on what differs to ``notes``."""
    size = processor.size
    if "height" not in size:
        notes.append("images: transformers' processor takes the ratio from no image; they are resized to a square")
        size = {"height": size["shortest_edge"], "width": size["shortest_edge"]}
    if processor.size_multiple is not None or processor.window_size is not None or processor.channel_order != "rgb":
        notes.append("images: multiples of sizes, sliding windows and the order bgr are left out")
    return SegformerImageProcessor(size=dict(size), **settings)


def _queries_processor(
    processor: SegZooImageProcessor, settings: dict[str, Any], notes: list[str]
) -> Mask2FormerImageProcessor:
    """The image processor for Mask2Former, which MaskFormer has too; adds remarks on what differs to ``notes``."""
    if processor.window_size is not None or processor.channel_order != "rgb":
        notes.append("images: sliding windows and the order bgr are left out")
    if processor.size_multiple is not None and processor.size_multiple_mode != "round_up":
        notes.append("images: transformers' processor resizes to multiples of sizes in one step, and pads none")
    return Mask2FormerImageProcessor(
        size=dict(processor.size),
        size_divisor=processor.size_multiple or 1,
        ignore_index=processor.ignore_index,
        **settings,
    )


def _segformer_config(config: SegZooConfig, backbone: MiTConfig, head: SegFormerHeadConfig) -> SegformerConfig:
    return SegformerConfig(
        architectures=[ARCHITECTURE],
        num_channels=backbone.num_channels,
        num_encoder_blocks=backbone.num_stages,
        hidden_sizes=backbone.channels,
        depths=backbone.depths,
        num_attention_heads=backbone.num_heads,
        patch_sizes=backbone.patch_sizes,
        strides=backbone.strides,
        sr_ratios=backbone.reductions,
        mlp_ratios=backbone.mlp_ratios,
        hidden_dropout_prob=backbone.dropout,
        attention_probs_dropout_prob=backbone.attention_dropout,
        drop_path_rate=backbone.drop_path_rate,
        classifier_dropout_prob=head.dropout,
        decoder_hidden_size=head.channels,
        semantic_loss_ignore_index=config.semantic_loss_ignore_index,
        id2label=config.id2label,
        label2id=config.label2id,
    )


def _parts_for_transformers(config: SegZooConfig) -> tuple[MiTConfig, SegFormerHeadConfig]:
    """Backbone and head of a model that transformers has too.

    Raises:
        ConversionError: it has none.
    """
    backbone, heads = config.backbone_config, config.decode_head_configs
    only = heads[0] if len(heads) == 1 and config.neck_config is None and not config.auxiliary_head_configs else None
    if not isinstance(backbone, MiTConfig) or not isinstance(only, SegFormerHeadConfig):
        raise ConversionError(
            "transformers: only a MiT with SegFormer's head alone can be written for it, or a Swin or ConvNeXt with UPerNet's"
        )
    as_theirs = (
        backbone.qkv_bias and backbone.projection_bias,
        only.linear_projections,
        not only.align_corners,
        (only.norm, only.norm_eps, only.activation) == ("batch_norm", 1e-5, "relu"),
        list(only.in_channels) == list(backbone.channels),
        list(backbone.out_features) == backbone.stage_names,
    )
    if not all(as_theirs):
        raise ConversionError(
            "transformers: its SegFormer is that of the authors, with linear projections (linear_projections) of all maps, "
            "which this model is not; mmsegmentation's has norms that transformers lacks"
        )
    return backbone, only

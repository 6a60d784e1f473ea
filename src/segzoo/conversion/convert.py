"""Original checkpoint -> Hugging Face model folder.

checkpoint file -> checkpoint_reader -> state dict, config text, class names
config text     -> config_reader     -> plain values -> translate -> SegZooConfig, processor, key tables
state dict      -> weights           -> native state dict -> model folder, written whole or not at all
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segzoo import zoo
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.conversion.card import conversion_card
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import values_that_fit
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.pretrained.base import PretrainedKind, convert_backbone
from segzoo.conversion.pretrained.vit import read_npz
from segzoo.conversion.reading.archives import file_kind
from segzoo.conversion.reading.checkpoints import OriginalCheckpoint, read_checkpoint
from segzoo.conversion.reading.configs import read_config_file, read_config_text
from segzoo.conversion.report import ConversionReport
from segzoo.conversion.scene_parsing import config_from_weights, is_decoder_state, read_encoder_and_decoder
from segzoo.conversion.translate import Translation, is_scene_parsing, translate_config
from segzoo.conversion.weights import match_weights
from segzoo.files import check_folder_is_free, sha256_of
from segzoo.hub import save_model_folder
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Args:
        folder: the model folder that was written.
        report: what went where.
    """

    folder: Path
    report: ConversionReport


def convert_checkpoint(
    checkpoint: str | Path,
    decoder: str | Path | None = None,
    *,
    output: str | Path,
    config: str | Path | None = None,
    name: str | None = None,
    ema: bool = False,
    max_shard_size: int | str = "5GB",
) -> Conversion:
    """Converts a checkpoint of the mmsegmentation family into a folder that the Auto classes load.

    A pre-training file without a decode head (an InternImage classifier, a plain ViT) becomes a backbone to train from.

    The folder holds safetensors weights with our names, ``config.json``, ``preprocessor_config.json``, a model card
    and the shim for ``trust_remote_code``. It appears only when it is complete.

    Args:
        checkpoint: file as the original code wrote it (.pth, .pth.tar, .safetensors, a zip with one of them inside).
        decoder: the second file of a model that was published in two.
        output: folder to make; it may exist if it is empty.
        config: the original training config (.py), for checkpoints that carry none, or instead of theirs.
        name: zoo name or original file name of the released checkpoint; gives the config where there is none, and the
            published scores for the model card.
        ema: take the averaged weights where the file has them.
        max_shard_size: size of one weight file at most.

    Raises:
        ConversionError: the file cannot be read safely, has no config, is no segmentation model, or its weights do not
            fit the config (every missing, unexpected and wrong key is listed). Nothing is written then.
        SegZooError: the output is not empty or cannot be written, or the zoo does not know ``name``.
    """
    check_folder_is_free(output)
    row = None if name is None else zoo.find(name)
    given = None if config is None else read_config_file(config)
    if decoder is None:
        if row is not None and row.decoder_url is not None:
            raise ConversionError(f"{checkpoint}: {row.name} was published in two files; give the decoder's too")
        original = read_checkpoint(checkpoint, prefer_ema=ema) if not _is_npz(checkpoint) else _read_npz(checkpoint)
        if (kind := find_kind(original.state_dict)) is not None:
            if name is not None or config is not None:
                raise ConversionError(
                    f"{checkpoint}: these are pre-training weights without a decode head; leave --name and --config out to "
                    "get the backbone"
                )
            return _convert_backbone(kind, original, output, max_shard_size)
        refuse_other_tasks(original.state_dict, checkpoint)
    else:
        original = read_encoder_and_decoder(checkpoint, decoder, prefer_ema=ema)
        checkpoint = f"{checkpoint} and {Path(decoder).name}"
    values, config_source = _find_config(original, given, config, row)
    if (decoder is not None) != is_scene_parsing(values):
        fix = "give the encoder's file and then the decoder's" if decoder is None else "give the checkpoint alone"
        number = "two files" if decoder is None else "one file"
        raise ConversionError(f"{checkpoint}: models of this config ({config_source}) come in {number}; {fix}")

    translation = translate_config(values, class_names=original.class_names, palette=original.palette)
    notes = list(translation.notes)
    recognised, remarks = _identify(original, checkpoint)
    notes += remarks
    if decoder is not None:
        notes.append(f"files: the SHA-256 given is the encoder's; the decoder's is {original.meta['decoder']}")
    row = row or recognised
    model = build_without_weights(translation.config)
    expected = model.state_dict()
    _check_class_count(original.state_dict, expected, translation, checkpoint)
    state, match = match_weights(original.state_dict, translation.components, expected)
    match.raise_for_problems(str(checkpoint))
    original.state_dict.clear()  # what was copied need not be held twice
    model.load_state_dict(state, assign=True)
    model.eval()
    if original.averaged:
        notes.append("weights: the moving average was taken, not the weights that training goes on from")
    if match.converted_dtypes:
        kinds = ", ".join(f"{count} {kind}" for kind, count in match.converted_dtypes.items())
        notes.append(f"weights: {kinds} tensors are stored as float32, as the original code loads them")

    native = translation.config
    parts = [native.backbone_config, native.neck_config, *native.decode_head_configs, *native.auxiliary_head_configs]
    types = [part.model_type for part in parts if part is not None]
    report = ConversionReport(
        source=str(checkpoint),
        sha256=original.sha256,
        config_source=config_source,
        zoo_name=None if row is None else row.name,
        components=[(c.original_type, kind) for c, kind in zip(translation.components, types, strict=True)],
        parameters=sum(p.numel() for p in model.parameters()),
        labels_source=translation.classes.source,
        notes=notes,
        keys=match,
    )
    processor = SegZooImageProcessor(**translation.processor)
    card = conversion_card(model, translation, report, row)
    folder = save_model_folder(model, processor, output, card=card, max_shard_size=max_shard_size)
    return Conversion(folder, report)


def _is_npz(checkpoint: str | Path) -> bool:
    return Path(checkpoint).suffix == ".npz"


def _read_npz(checkpoint: str | Path) -> OriginalCheckpoint:
    path = Path(checkpoint)
    file_kind(path, path)  # there, a file, and no web page
    return OriginalCheckpoint(state_dict=read_npz(path), source=path, sha256=sha256_of(path))


def _convert_backbone(
    kind: PretrainedKind, original: OriginalCheckpoint, output: str | Path, max_shard_size: int | str
) -> Conversion:
    notes = ["weights: the moving average was taken"] if original.averaged else []
    report = convert_backbone(
        kind,
        original.state_dict,
        source=original.source,
        sha256=original.sha256,
        output=output,
        notes=notes,
        max_shard_size=max_shard_size,
    )
    return Conversion(Path(output), report)


def build_without_weights(config: SegZooConfig) -> SegZooForSemanticSegmentation:
    """The model of a config on the meta device: names, shapes and dtypes, and no memory.

    Raises:
        ConversionError: the values of the config contradict each other.
    """
    try:
        with torch.device("meta"), values_that_fit("model"):
            return SegZooForSemanticSegmentation(config)
    except (RuntimeError, ZeroDivisionError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise ConversionError(f"the model of the config cannot be built ({cause}); correct the config") from error


def refuse_other_tasks(state: Mapping[str, Tensor], checkpoint: str | Path) -> None:
    """Raises where the keys are those of another kind of model.

    Raises:
        ConversionError: a detector, a classifier or backbone, or a model that has been converted already.
    """
    first = {key.partition(".")[0] for key in state}
    if not first:
        raise ConversionError(f"{checkpoint}: the checkpoint holds no weights")
    if "decode_head" in first:
        return
    if is_decoder_state(state):
        raise ConversionError(
            f"{checkpoint}: this is the decoder of a model of MIT's scene parsing; give the encoder's file and then this one"
        )
    if first & {"rpn_head", "roi_head", "bbox_head", "mask_head", "panoptic_head"}:
        raise ConversionError(
            f"{checkpoint}: this is a detection checkpoint (it has {_some(first)}); "
            "only semantic-segmentation models can be converted"
        )
    if "decode_heads" in first:
        raise ConversionError(f"{checkpoint}: this is a segzoo model already; load it with from_pretrained")
    if first & {"head", "fc", "classifier", "cls_head", "backbone", "layer1", "levels", "stages", "blocks", "conv1"}:
        raise ConversionError(
            f"{checkpoint}: this is a classification checkpoint or a backbone alone (it has {_some(first)}, and no "
            "decode_head); only whole semantic-segmentation models can be converted"
        )
    raise ConversionError(
        f"{checkpoint}: no weights of a segmentation model (it has {_some(first)}, and no decode_head); "
        "give a checkpoint of the mmsegmentation family"
    )


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def _stem(path: str | Path) -> str:
    name = Path(path).name
    for ending in (".tar", ".pth", ".pt", ".zip", ".safetensors"):
        name = name.removesuffix(ending)
    return name


def _find_config(
    original: OriginalCheckpoint, given: Mapping[str, Any] | None, file: str | Path | None, row: zoo.ZooRow | None
) -> tuple[Mapping[str, Any], str]:
    """The original config and where it came from: the file, else the checkpoint, else the zoo."""
    if given is not None:
        return given, f"the file {file}"
    if original.config_text:
        text = read_config_text(original.config_text, filename=f"{original.source} (config in the checkpoint)")
        return text, "the checkpoint"
    if original.config:
        return original.config, "the checkpoint"
    if row is not None:
        config = zoo.original_config(row.name)
        if config is not None:
            return config, f"the zoo ({row.name})"
    config = config_from_weights(original.state_dict, original.source)
    if config is not None:
        return config, "the names and shapes of the weights"
    known = zoo.lookup(_stem(original.source))
    hint = (
        f"its file name is that of {known.name}: try --name {known.name}"
        if known
        else ("give the training config with --config FILE, or the zoo name with --name")
    )
    raise ConversionError(f"{original.source}: the checkpoint carries no config; {hint}")


def _check_class_count(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], translation: Translation, checkpoint: str | Path
) -> None:
    wanted = translation.config.num_labels
    for component in translation.components:
        key = component.table.to_original("classifier.weight")
        weight = None if key is None else state.get(component.original_prefix + key)
        native = expected.get(component.native_prefix + "classifier.weight")
        if weight is None or native is None or not weight.ndim or weight.shape[0] == native.shape[0]:
            continue
        layer = component.original_prefix + key.removesuffix(".weight")
        more = native.shape[0] - wanted  # outputs that stand for no class, such as Mask2Former's "no object"
        raise ConversionError(
            f"{checkpoint}: class counts disagree: the config has {wanted} classes, the weights of {layer} "
            f"{weight.shape[0] - more}; give the config that they were trained with"
        )


def _identify(original: OriginalCheckpoint, checkpoint: str | Path) -> tuple[zoo.ZooRow | None, list[str]]:
    """The released checkpoint that a file is by its name, and notes about that.

    Scores and addresses of a release must not be put on somebody's own training, which often bears the config's name. So a
    release whose file name ends in digits of its hash, as OpenMMLab's do, is believed by these alone.
    """
    stem = _stem(checkpoint)
    row = zoo.lookup(stem)
    if row is None or row.url is None or stem != _stem(row.url):
        return None, []
    digits = re.search(r"-([0-9a-f]{8})$", stem)
    if digits is None:
        return row, [f"origin: the file was taken for the released {row.name} by its name alone"]
    if original.sha256.startswith(digits[1]):
        return row, []
    return None, [
        f"file: its name says that its SHA-256 begins with {digits[1]}, but it is {original.sha256}; "
        "unless you changed the file, download it again"
    ]

"""Original checkpoint -> Hugging Face model folder, in three steps.

read   files           -> reading -> weights, config text, class names
plan   config          -> plain values -> translate -> our config, processor, key tables, notes
write  weights, tables -> native state dict -> model folder, written whole or not at all
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from segzoo import __version__, zoo
from segzoo.backbones import Backbone
from segzoo.conversion.bases import load_config
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import Original, Plan, make_plan
from segzoo.conversion.pretrained.vit import read_npz
from segzoo.conversion.reading.archives import check_unpacked_size, file_kind, open_zip
from segzoo.conversion.reading.checkpoints import OriginalCheckpoint, read_checkpoint
from segzoo.conversion.report import ConversionReport
from segzoo.conversion.transformers_folders import is_transformers_folder, read_transformers_folder
from segzoo.conversion.two_files import read_two_files
from segzoo.conversion.weights import match_weights
from segzoo.files import check_folder_is_free, sha256_of
from segzoo.hub import save_model_folder
from segzoo.model_folder import CARD

_MARK = "<!-- segzoo conversion {} -->"


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Args:
        folder: path of the model folder.
        report: what became of each key, and notes.
        kept: whether an earlier run of the same conversion had written the folder.
    """

    folder: Path
    report: ConversionReport
    kept: bool = False


def convert_checkpoint(
    checkpoint: str | Path,
    decoder: str | Path | None = None,
    *,
    output: str | Path,
    config: str | Path | None = None,
    name: str | None = None,
    ema: bool = False,
    weights: str | None = None,
    class_names: list[str] | None = None,
    max_shard_size: int | str = "5GB",
    keep: bool = False,
) -> Conversion:
    """Converts a checkpoint of the mmsegmentation family into a folder that the Auto classes load.

    A pre-training file without a decode head (an InternImage classifier, a plain ViT) becomes a backbone to train
    from.

    The folder holds safetensors weights with our names, ``config.json``, ``preprocessor_config.json``, a model card
    and the shim for ``trust_remote_code``. It appears only when it is complete.

    Args:
        checkpoint: file that the original code wrote (.pth, .pth.tar, .safetensors, a zip archive with one of them
            inside, or .npz for AugReg's ViTs); or a folder with a SegFormer that transformers saved.
        decoder: the second file of a model that was published in two.
        output: folder to make; it may exist if it is empty.
        config: the original training config (.py, or .yaml for MIT's models), if the checkpoint carries none, or
            instead of its own.
        name: zoo name or original file name of the released checkpoint; gives the config if there is no other, and the
            published scores for the model card.
        ema: take the averaged weights.
        weights: "student" or "teacher", to take that model of a file with both.
        class_names: names of the classes, in the order of their ids, instead of those in the file or of its data set.
        max_shard_size: largest size of one weight file, in bytes or as text such as "5GB".
        keep: if ``output`` holds this very conversion already, leave it as it is instead of raising an error.

    Raises:
        ConversionError: the file cannot be read safely, has no config, is not a segmentation model, has no averaged
            weights with ``ema``, has several models and none was chosen, or its weights do not fit the config (every
            missing, unexpected and wrong key is listed), or ``output`` holds another conversion. Nothing is written then.
        SegZooError: the output is not empty or cannot be written, or the zoo does not know ``name``.
    """
    check_output(output, keep=keep)
    original = read_original(
        checkpoint, decoder, config=config, name=name, ema=ema, weights=weights, class_names=class_names
    )
    return write_plan(make_plan(original), output, max_shard_size=max_shard_size, keep=keep)


def check_output(output: str | Path, *, keep: bool = False, option: str = "") -> None:
    """Checks before any work that a conversion can be written to a folder, or, with ``keep``, that one is there.

    Args:
        output: the folder.
        keep: as in `convert_checkpoint`.
        option: the option that names the folder, for messages.

    Raises:
        SegZooError: the folder is not empty or cannot be written.
    """
    if not keep or _conversion_in(output) is None:
        check_folder_is_free(output, option=option)


def read_original(
    checkpoint: str | Path,
    decoder: str | Path | None = None,
    *,
    config: str | Path | None = None,
    name: str | None = None,
    ema: bool = False,
    weights: str | None = None,
    class_names: list[str] | None = None,
) -> Original:
    """Reads the files of an original; the arguments are those of `convert_checkpoint`.

    Raises:
        ConversionError: a file cannot be read safely, or the second file is missing or is not a decoder.
        SegZooError: the zoo does not know ``name``.
    """
    row = None if name is None else zoo.find(name)
    values = None if config is None else load_config(config)
    title = str(checkpoint)
    if weights is not None and (decoder is not None or Path(checkpoint).suffix == ".npz"):
        raise ConversionError(f"{title}: such files hold one model; leave --weights out")
    if decoder is not None:
        found = read_two_files(checkpoint, decoder, prefer_ema=ema)
        title = f"{checkpoint} and {Path(decoder).name}"
    elif row is not None and row.decoder_url is not None:
        raise ConversionError(f"{checkpoint}: {row.name} was published in two files; give the decoder's too")
    elif Path(checkpoint).suffix == ".npz":
        found = _read_npz(Path(checkpoint))
    elif is_transformers_folder(checkpoint):
        found = read_transformers_folder(checkpoint)
    else:
        found = read_checkpoint(checkpoint, prefer_ema=ema, weights=weights)
    return Original(
        found,
        title,
        in_two_files=decoder is not None,
        config=values,
        config_file=config,
        row=row,
        class_names=class_names,
    )


def _read_npz(path: Path) -> OriginalCheckpoint:
    if file_kind(path, path) == "zip":  # raises if the file does not exist or is a web page
        with open_zip(path, path) as archive:
            check_unpacked_size(archive, path)
    return OriginalCheckpoint(state_dict=read_npz(path), source=path, sha256=sha256_of(path))


def write_plan(plan: Plan, output: str | Path, *, max_shard_size: int | str = "5GB", keep: bool = False) -> Conversion:
    """Fills the planned model with its weights, and writes its folder.

    The state dicts of plan and checkpoint are emptied, so that tensors that were copied are not held twice.

    Args:
        plan: what `make_plan` returned.
        output: folder to make; it may exist if it is empty.
        max_shard_size: largest size of one weight file, in bytes or as text such as "5GB".
        keep: as in `convert_checkpoint`.

    Raises:
        ConversionError: the weights do not fit the config; every missing, unexpected and wrong key is listed. Or the folder
            holds another conversion.
        SegZooError: the folder cannot be written.
    """
    identity = _identity(plan)
    earlier = _conversion_in(output) if keep else None
    if earlier not in (None, identity):
        raise ConversionError(
            f"{output}: holds another conversion than that of these files with these options by this version of segzoo; "
            "choose another folder, or empty it first"
        )
    model, original = plan.model, plan.original
    state, match = match_weights(
        plan.state, plan.components, model.state_dict(), in_bfloat16=_parts_in_bfloat16(model)
    )
    match.raise_for_problems(original.title, own_config=plan.own_config)
    match.left_out += plan.left_out
    plan.state.clear()
    original.checkpoint.state_dict.clear()
    model.load_state_dict(state, assign=True)
    model.eval()
    notes = list(plan.notes)
    if match.converted_dtypes:
        kinds = ", ".join(f"{count} {kind}" for kind, count in match.converted_dtypes.items())
        notes.append(f"weights: {kinds} tensors are stored as float32, as the original code loads them")
    if match.to_bfloat16:
        kinds = ", ".join(f"{count} {kind}" for kind, count in match.to_bfloat16.items())
        notes.append(f"weights: {kinds} tensors are stored as bfloat16, in which the original code runs them")
    report = ConversionReport(
        source=original.title,
        sha256=original.checkpoint.sha256,
        config_source=plan.config_source,
        zoo_name=None if plan.row is None else plan.row.name,
        components=[(component.original_type, component.config.model_type) for component in plan.components],
        parameters=sum(p.numel() for p in model.parameters()),
        labels_source=plan.labels_source,
        notes=notes,
        keys=match,
    )
    if earlier is not None:
        return Conversion(Path(output), report, kept=True)
    card = f"{plan.card(model, report)}\n{_MARK.format(identity)}\n"
    folder = save_model_folder(model, plan.processor, output, card=card, max_shard_size=max_shard_size)
    return Conversion(Path(folder), report)


def _identity(plan: Plan) -> str:
    """The SHA-256 of all that the model of a plan follows from: files, choice of weights, configs, version."""
    checkpoint = plan.original.checkpoint
    facts = {
        "version": __version__,
        "files": [checkpoint.sha256, checkpoint.meta["decoder"] if plan.original.in_two_files else None],
        "weights": [checkpoint.entry, checkpoint.model, checkpoint.averaged],
        "config": plan.model.config.to_json_string(use_diff=False),
        "processor": None if plan.processor is None else plan.processor.to_json_string(),
        "release": None if plan.row is None else plan.row.name,
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _conversion_in(folder: str | Path) -> str | None:
    """The `_identity` of the conversion that wrote a folder, which stands in its card; None for any other folder."""
    card = Path(folder) / CARD
    if not card.is_file():
        return None
    marks = re.findall(_MARK.format("([0-9a-f]{64})"), card.read_text(encoding="utf-8", errors="replace"))
    return marks[-1] if marks else None


def _parts_in_bfloat16(model: PreTrainedModel) -> tuple[str, ...]:
    """Beginnings of the names of tensors that stay in bfloat16: those of a backbone that runs so, and of its neck."""
    backbone = model if isinstance(model, Backbone) else model.backbone
    if not (isinstance(backbone, Backbone) and backbone.heads_in_float32):
        return ()
    return ("",) if backbone is model else ("backbone.", "neck.")

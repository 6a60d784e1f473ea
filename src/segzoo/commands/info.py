"""Show the facts about a released checkpoint or a model, and count its operations."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import zoo
from segzoo.errors import SegZooError, first_line
from segzoo.files import json_text
from segzoo.progress import print_text
from segzoo.sizes import MAX_SIZE, Size, SizesAction, usual_size
from segzoo.text import line_text

if TYPE_CHECKING:
    from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo info``."""
    parser.add_argument(
        "model",
        metavar="NAME",
        help="name of a released checkpoint (see segzoo list), model folder, or name on the Hub",
    )
    parser.add_argument(
        "--size",
        action=SizesAction,
        help="count the operations for pictures of these sizes, such as 512x1024 or 512 1024 (default: the training crop, and the publisher's size)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    training = parser.add_argument_group(
        "memory of a training on each GPU, from its recipe's batch, crop and optimizer"
    )
    training.add_argument(
        "--training",
        action="store_true",
        help="print parameters, gradients, optimizer state and activations; --size is the crop",
    )
    training.add_argument("--world-size", "--world_size", type=_positive, default=1, help="GPUs (default: 1)")
    training.add_argument(
        "--sharding",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="the whole model on each GPU, or a part (default: ddp)",
    )
    training.add_argument(
        "--precision", choices=("no", "bf16", "fp16"), help="mixed precision (default: the recipe's, or no)"
    )
    training.add_argument(
        "--batch-size",
        "--batch_size",
        type=_positive,
        help="crops on each GPU at a time (default: the recipe's, divided by the GPUs)",
    )
    training.add_argument(
        "--gradient-checkpointing",
        "--gradient_checkpointing",
        action="store_true",
        help="blocks keep their input alone",
    )


def run(args: argparse.Namespace) -> int:
    """Print the facts and the counts; returns 0.

    Raises:
        SegZooError: there is no such model; the message suggests similar names of released checkpoints.
    """
    folder, training = Path(args.model), _training(args) if args.training else None
    if folder.is_dir() or (zoo.lookup(args.model) is None and "/" in args.model):
        facts = facts_of_folder(args.model, args.size, training)
        lines = _folder_lines(facts)
    else:
        row = zoo.find(args.model)
        facts = facts_of_row(row, args.size, training)
        lines = _row_lines(row, facts)
    if facts.get("training"):
        lines += _training_lines(facts["training"])
    if args.json:
        print_text(json_text(facts, indent=1), end="")
    else:
        width = max(len(title) for title, _ in lines)
        print_text(line_text(facts["name"]))
        print_text("\n".join(line_text(f"  {title:<{width}}  {text}") for title, text in lines))
    return 0


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What ``--training`` was given with; None is what the recipe says."""

    world_size: int = 1
    sharding: str = "ddp"
    precision: str | None = None
    batch_size: int | None = None
    gradient_checkpointing: bool = False


def _training(args: argparse.Namespace) -> TrainingRequest:
    return TrainingRequest(**{entry.name: getattr(args, entry.name) for entry in fields(TrainingRequest)})


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_SIZE}")
    return int(text)


def facts_of_row(
    row: zoo.ZooRow, sizes: list[Size] | None = None, training: TrainingRequest | None = None
) -> dict[str, Any]:
    """Everything about a released checkpoint, ready for JSON: the row's fields, its licences, test and counts.

    Args:
        row: the released checkpoint.
        sizes: (height, width) of the pictures to count operations for; None: the training crop and the publisher's
            size.
        training: calculate the memory of a training with the row's recipe too.

    Raises:
        SegZooError: the memory of a training is wanted of a backbone or of what does not convert, or the model does
            not take crops of the first size.
    """
    from segzoo.conversion.card import protocol
    from segzoo.conversion.plan import build_translated
    from segzoo.conversion.translate import translate_config

    system = zoo.SYSTEMS[row.system]
    facts = asdict(row) | {
        "sha256_start": row.sha256_start,
        "licence_code": row.licence_code,
        "licence_weights": row.licence_weights,
        "name_in_1x": row.name_in_1x,
        "source": system.url,
    }
    if row.pretrained:
        if training is not None:
            raise SegZooError(
                f"{row.name} is a backbone: --training is about models; name one that has it (segzoo list), or a model folder"
            )
        return facts | {"converts": True, "num_labels": None, "test": None, "counted": None}
    config = zoo.original_config(row.name)
    try:
        if config is None:
            raise SegZooError("the zoo does not have its config")
        translation = translate_config(config)
        model = build_translated(translation)
    except SegZooError as error:
        if training is not None:
            raise
        return facts | {"converts": False, "why_not": str(error), "test": None, "counted": None}
    return facts | {
        "converts": True,
        "num_labels": translation.config.num_labels,
        "test": protocol(translation.processor),
        "counted": _counts(model, sizes or [size for size in (row.crop, row.flops_size) if size] or [(512, 512)]),
        **_memory_facts(model, row.recipe, training, (sizes or [row.crop])[0]),
    }


def facts_of_folder(
    name: str, sizes: list[Size] | None = None, training: TrainingRequest | None = None
) -> dict[str, Any]:
    """The facts about a model folder or a model on the Hub, and the counts; its weights are not loaded.

    Args:
        name: the folder, or ``"namespace/name"``.
        sizes: (height, width) of the pictures to count operations for; None: the model's windows, else the image
            processor's size for a square picture, else 512x512.
        training: calculate the memory of a training too, with the default recipe.

    Raises:
        SegZooError: the model is not for semantic segmentation, or cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoImageProcessor

    from segzoo.cards.model_card import facts_of_model
    from segzoo.conversion.card import protocol
    from segzoo.hub_names import hub_or_cache
    from segzoo.universal import model_from_config

    try:
        with hub_or_cache(name):
            config = AutoConfig.from_pretrained(name)
            try:
                processor = AutoImageProcessor.from_pretrained(name).to_dict()
            except (OSError, ValueError):
                processor = {}
        with torch.device("meta"):
            model = model_from_config(config)
    except (OSError, ValueError, SegZooError) as error:
        raise SegZooError(
            f"{name}: is no released checkpoint (segzoo list), and does not load as a segmentation model ({first_line(error)})"
        ) from error
    ours = model.config.model_type == "segzoo"
    described = facts_of_model(model) if ours else {"backbone": config.model_type, "head": type(model).__name__}
    files = list(Path(name).glob("*.safetensors"))
    return {
        "name": name,
        "model_type": config.model_type,
        "method": described["head"],
        "backbone": described["backbone"],
        "num_labels": config.num_labels,
        "test": protocol(processor) if ours and processor else None,
        "size_bytes": sum(path.stat().st_size for path in files) or None,
        "counted": _counts(model, sizes or [usual_size(processor)]),
        **_memory_facts(model, None, training, (sizes or [usual_size(processor)])[0]),
    }


def _counts(model: nn.Module, sizes: list[Size]) -> dict[str, Any]:
    from segzoo.flops import count_operations, count_parameters

    operations = [count_operations(model, size) for size in dict.fromkeys(map(tuple, sizes))]
    return {
        "parameters": count_parameters(model),
        "operations": [
            {
                "size": list(c.size),
                "multiply_adds": c.multiply_adds,
                "flops": c.flops,
                "by_operator": dict(c.by_operator),
            }
            for c in operations
        ],
    }


def _memory_facts(
    model: nn.Module, name: str | None, request: TrainingRequest | None, size: Size | None
) -> dict[str, Any]:
    """The entry ``training``, in bytes on each GPU; nothing without a request.

    Args:
        model: on the meta device.
        name: of the recipe; None: the defaults of ``segzoo train``.
        request: what is asked for.
        size: (height, width) of the crops; None: the recipe's.
    """
    if request is None:
        return {}
    from segzoo.training.footprint import Setup, training_footprint
    from segzoo.training.options import DEFAULTS
    from segzoo.training.recipes.recipe import load_recipe

    recipe = DEFAULTS if name is None else load_recipe(name)
    batch = request.batch_size or -(-(recipe.total_train_batch_size or 8 * request.world_size) // request.world_size)
    setup = Setup(
        size=tuple(size or recipe.crop_size or (512, 512)),
        batch_size=batch,
        world_size=request.world_size,
        sharding=request.sharding,
        precision=request.precision
        or {None: "no", "auto": "bf16"}.get(recipe.mixed_precision, recipe.mixed_precision),
        gradient_checkpointing=request.gradient_checkpointing,
    )
    found = training_footprint(model, recipe, setup)
    return {
        "training": {
            "recipe": recipe.name,
            "optimizer": recipe.optimizer,
            "frozen_backbone": recipe.freeze_backbone,
            **asdict(setup),
            "bytes": {**asdict(found), "total": found.total},
        }
    }


def _training_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The memory of a training; its keys are those of `training_footprint`."""
    count = facts["world_size"]
    gpus = "one GPU" if count == 1 else f"{count} GPUs ({facts['sharding'].upper()})"
    found = dict(facts["bytes"])
    has_loss = found.pop("has_loss")
    remarks = {
        "optimizer": facts["optimizer"] + (", backbone frozen" if facts["frozen_backbone"] else ""),
        "activations": f"{facts['batch_size']} crops of {_by(facts['size'])}"
        + (", blocks run twice" if facts["gradient_checkpointing"] else "")
        + ("" if has_loss else ", without the loss"),
        "total": "about 1 GB of the libraries comes on top",
    }
    lines = [("memory", f"training on {gpus}, {facts['precision']} precision, recipe {facts['recipe']}; on each GPU:")]
    for name, size in found.items():
        remark = f" ({remarks[name]})" if name in remarks else ""
        lines.append((f"  {name}", f"{size / 1e9:.3g} GB{remark}"))
    return lines


def _row_lines(row: zoo.ZooRow, facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("model", f"{row.method}, {row.backbone}; trained on {row.dataset}"),
        ("origin", f"{row.system}, {facts['source']}"),
        (
            "licence",
            f"code {row.licence_code or 'not stated'}; weights {row.licence_weights or 'not stated by the publisher'}",
        ),
    ]
    crop = f"crops of {_by(row.crop)}" if row.crop else None
    steps = f"{row.iterations} iterations" if row.iterations else None
    recipe = f"recipe {row.recipe}" if row.recipe else None
    lines.append(("training", "; ".join(part for part in (steps, crop, recipe) if part) or "not known"))
    if facts["test"]:
        lines.append(("test", facts["test"] + (" With mirror images." if row.test_flip else "")))
    scales = [f"x{s:g}" for s in row.test_scales] + [f"{side} px" for side in row.test_short_sides]
    if scales:
        lines.append(("several scales", ", ".join(scales) + (", with mirror images" if row.test_flip_ms else "")))
    for title, one, several in (
        ("mean IoU", row.miou, row.miou_ms),
        ("pixel accuracy", row.pixel_accuracy, row.pixel_accuracy_ms),
        ("overall score", row.score, row.score_ms),
    ):
        if one is not None or several is not None:
            lines.append((title, f"published: {_percent(one)} on one scale, {_percent(several)} on several"))
    if row.dice is not None:
        lines.append(("Dice", f"published: {_percent(row.dice)} on one scale"))
    if row.images_per_second is not None:
        several = f", {row.images_per_second_ms:g} on several scales" if row.images_per_second_ms else ""
        lines.append(("speed", f"published: {row.images_per_second:g} images/s{several} ({row.speed_device})"))
    if row.parameters is not None:
        lines.append(("parameters", f"published: {_weights(row.parameters)}"))
    if row.flops is not None:
        lines.append(
            ("operations", f"published: {_short(row.flops)} at {_by(row.flops_size)} (one for each multiply-add)")
        )
    if facts["counted"]:
        lines += _count_lines(facts["counted"])
    lines.append(
        ("converts", f"segzoo convert {row.name} --output DIR" if facts["converts"] else f"no: {facts['why_not']}")
    )
    if facts["counted"]:
        lines.append(("try", f"segzoo benchmark {row.name} (how fast its architecture is here)"))
    for title, url, size, sha256 in (
        ("checkpoint", row.url, row.size_bytes, row.sha256_start),
        ("second file", row.decoder_url, row.decoder_size_bytes, row.decoder_sha256),
    ):
        if url is not None:
            known = [
                f"{size} bytes" if size else None,
                f"SHA-256 {sha256}{'' if len(sha256) == 64 else '...'}" if sha256 else None,
            ]
            lines.append((title, ", ".join([url, *(part for part in known if part)])))
    if row.url is None:
        lines.append(("checkpoint", "published without weights"))
    if row.note:
        lines.append(("note", row.note))
    return lines


def _folder_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("model", f"{facts['method']}, {facts['backbone']}; {facts['num_labels']} classes")]
    if facts["test"]:
        lines.append(("test", facts["test"]))
    if facts["size_bytes"]:
        lines.append(("weights", f"{facts['size_bytes'] / 1e6:.1f} MB"))
    tries = f"segzoo benchmark {facts['name']} (how fast it is here), segzoo demo {facts['name']} (a page to try it)"
    return [*lines, *_count_lines(facts["counted"]), ("try", tries)]


def _count_lines(counted: dict[str, Any]) -> list[tuple[str, str]]:
    parts = dict(counted["parameters"])
    total = parts.pop("total")
    listed = ", ".join(f"{name} {_weights(n)}" for name, n in parts.items())
    lines = [("parameters", f"counted: {total:,} ({listed})")]
    for entry in counted["operations"]:
        pairs, single = _short(entry["multiply_adds"]), _short(entry["flops"])
        lines.append(
            (
                "operations",
                f"counted: {pairs} multiply-adds at {_by(entry['size'])}, which are {single} single operations (FLOPs)",
            )
        )
    return lines


def _by(size: Any) -> str:
    return "x".join(map(str, size)) if size else "a size that is not stated"


def _percent(value: float | None) -> str:
    return "not published" if value is None else f"{value:.2f} %"


def _weights(number: int) -> str:
    return _short(number).replace("G", "B")


def _short(number: int) -> str:
    """A number with four significant digits and a unit: 944G, 59.08M; from 1000G on all its digits, 3571G."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            scaled = number / factor
            return f"{scaled:.0f}{unit}" if scaled >= 1000 else f"{scaled:.4g}{unit}"
    return str(number)

"""The model cards of converted checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from segzoo.cards.model_card import ModelCardFacts, build_model_card, facts_of_model
from segzoo.cards.scores import table_cell
from segzoo.conversion.report import ConversionReport
from segzoo.conversion.translation import Translation
from segzoo.images.resizing import pads_to_multiple
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation
from segzoo.text import MOST_IN_NAME, line_text, markdown_code, markdown_text, shorten
from segzoo.zoo import SYSTEMS, ZooRow


def conversion_card(
    model: SegZooForSemanticSegmentation, report: ConversionReport, *, translation: Translation, row: ZooRow | None
) -> str:
    """The text of README.md for a converted model.

    Args:
        model: the converted model.
        report: the report of the conversion.
        translation: the translation of its original config.
        row: the released checkpoint that was converted, for scores, licences and address; None where it is not known.
    """
    dataset = translation.classes.dataset
    facts: dict[str, Any] = facts_of_model(model) | {
        "title": row.name if row else _title(translation),
        "dataset": dataset.title if dataset else None,
        "dataset_url": dataset.url or None if dataset else None,
        "source_file": Path(report.source).name,
        "source_sha256": report.sha256,
        "verification": _verification(report),
        "inference": protocol(translation.processor),
        "limitations": [f"Conversion note: {note}." for note in report.notes],
    }
    if row is not None:
        system = SYSTEMS[row.system]
        facts |= {
            "family": system.title,
            "backbone": row.backbone,
            "head": row.method,
            "dataset": facts["dataset"] or row.dataset,
            "code_licence": system.licence_code,
            "weights_licence": system.licence_weights,
            "source_url": row.url,
            "source_code_url": system.url,
            "published_miou": None if row.miou is None else row.miou / 100,
            "published_miou_multi_scale": None if row.miou_ms is None else row.miou_ms / 100,
            "published_dice": None if row.dice is None else row.dice / 100,
            "published_flip": row.test_flip_ms is not False,
            "published_url": system.url,
            "limitations": facts["limitations"] + ([f"About the release: {row.note}."] if row.note else []),
        }
    return build_model_card(ModelCardFacts(**facts))


def _title(translation: Translation) -> str:
    heads = [c.original_type for c in translation.components if c.native_prefix.startswith("decode_heads.")]
    return f"{heads[-1]} on {translation.components[0].original_type}"


def _verification(report: ConversionReport) -> str:
    return (
        f"all {len(report.keys.renamed)} tensors of the model were found in the file; none was missing, left over, of "
        "another shape, or not finite. The outputs of this file were not compared with the original code's; segzoo's "
        "parity tests do that for its architectures, with synthesised weights."
    )


def backbone_card(model: PreTrainedModel, report: ConversionReport, *, title: str) -> str:
    """The text of README.md for a backbone from a pre-training file.

    Args:
        model: the backbone.
        report: the report of the conversion.
        title: the kind of the file, in words.
    """
    name = shorten(line_text(Path(report.source).name), MOST_IN_NAME)
    notes = "".join(f"- {table_cell(note)}\n" for note in report.notes)
    return f"""---
library_name: segzoo
tags:
- backbone
- {model.config.model_type}
---
# Backbone of {markdown_text(name)}

{title}, {report.parameters / 1e6:.1f}M weights, for training a segmentation model. It has no decode head and labels nothing by itself.

    segzoo train --backbone FOLDER ...

or, in Python,

    from segzoo import AutoBackbone
    backbone = AutoBackbone.from_pretrained("FOLDER")

- File: {markdown_code(name)}, SHA-256 `{report.sha256}`
- Licence of the weights: that of their publisher; it is not known here.
{notes}"""


def protocol(processor: dict[str, Any]) -> str:
    """The test protocol in words: sizes, multiples, windows.

    Args:
        processor: keyword arguments of SegZooImageProcessor.
    """
    size = processor.get("size") or {}
    if not processor["do_resize"]:
        parts = ["images at their own size"]
    elif "height" in size:
        parts = [f"images resized to {size['height']} x {size['width']} (height x width)"]
    else:
        longest = size.get("longest_edge")
        limit = f" and the long side at most {longest}" if longest else ""
        parts = [f"images resized so that the short side is {size['shortest_edge']}{limit}, ratio kept"]
    if processor.get("size_multiple"):
        how = "padded" if pads_to_multiple(processor["size_multiple_mode"]) else "stretched"
        sides = ""
        if processor["size_multiple_mode"] == "pad_pass" and processor.get("window_size"):
            sides = "sides shorter than a window "
        parts.append(f"{sides}{how} up to multiples of {processor['size_multiple']}")
    if processor.get("window_size"):
        (h, w), (dy, dx) = processor["window_size"], processor["window_stride"]
        parts.append(f"sliding windows of {h} x {w} every {dy} x {dx} pixels, averaged")
    else:
        parts.append("one pass over the whole image")
    return "; ".join(parts) + "."

"""Pre-training checkpoints -> backbones to train from: files of classifiers and of masked image modelling, without a decode head.

A `PretrainedKind` says how a kind of files is recognised and how it becomes a backbone. What belongs to its old task is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from segzoo.auto import AutoBackbone
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.report import ConversionReport, KeyMatch
from segzoo.conversion.weights import prepared
from segzoo.hub import save_model_folder


@dataclass
class PretrainedBackbone:
    """A backbone out of a pre-training file.

    Args:
        config: of the backbone.
        state_dict: its weights under our names, complete.
        left_out: original keys that a backbone does not need.
        notes: remarks for the user.
        renamed: original key -> our key.
    """

    config: PreTrainedConfig
    state_dict: dict[str, Tensor]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PretrainedKind:
    """One kind of pre-training file.

    Args:
        title: for people.
        recognises: whether these weights are of this kind.
        translate: ``translate(weights, file name) -> PretrainedBackbone``, or ConversionError.
    """

    title: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    translate: Callable[[Mapping[str, Tensor], str], PretrainedBackbone]


def rename(state: Mapping[str, Tensor], config: PreTrainedConfig, table: KeyTable, source: str) -> PretrainedBackbone:
    """The weights under our names, complete or not at all.

    Args:
        state: original key -> tensor; tensors of another type than the model's become that.
        config: of the backbone.
        table: the renaming; what it maps to None is left out.
        source: the file, for messages.

    Raises:
        ConversionError: keys that are not known, not there or given twice, values that are not finite, or shapes that do not fit.
    """
    with torch.device("meta"):
        expected = AutoBackbone.from_config(config).state_dict()
    result = PretrainedBackbone(config, {})
    match = KeyMatch()
    for key, tensor in state.items():
        rule, native = table.find(key)
        if rule is not None and native is None:
            result.left_out.append(key)
        elif native not in expected:
            match.unexpected.append(key)
        elif native in result.state_dict:
            match.doubled.append(key)
        elif tensor.shape != expected[native].shape:
            match.wrong_shapes.append((key, list(tensor.shape), list(expected[native].shape)))
        else:
            result.renamed[key] = native
            result.state_dict[native] = prepared(key, tensor, expected[native].dtype, match)
    found = result.state_dict.keys() | {table.to_native(key) for key, *_ in match.wrong_shapes}
    match.missing = {name: table.to_original(name) or name for name in expected.keys() - found}
    match.raise_for_problems(source)
    return result


def convert_backbone(
    kind: PretrainedKind,
    state: dict[str, Tensor],
    *,
    source: str | Path,
    sha256: str,
    output: str | Path,
    notes: list[str] | None = None,
    max_shard_size: int | str = "5GB",
) -> ConversionReport:
    """Makes the folder of a backbone, which ``AutoBackbone`` and ``--backbone`` of the training script load.

    Args:
        kind: of the file, from `find_kind`.
        state: its weights; the dict is emptied.
        source, sha256: the file and its SHA-256.
        output: folder to make; it may exist if it is empty.
        notes: remarks for the user that are known already.
        max_shard_size: size of one weight file at most.

    Raises:
        ConversionError: the weights are not all there, or not of this kind.
        SegZooError: the folder cannot be written.
    """
    done = kind.translate(state, str(source))
    state.clear()
    with torch.device("meta"):
        model = AutoBackbone.from_config(done.config)
    model.load_state_dict(done.state_dict, assign=True)
    report = ConversionReport(
        source=str(source),
        sha256=sha256,
        config_source="the weights themselves",
        zoo_name=None,
        components=[(kind.title, done.config.model_type)],
        parameters=sum(p.numel() for p in model.parameters()),
        labels_source="",
        notes=[*(notes or ()), *done.notes, *_about(done.left_out)],
        keys=KeyMatch(renamed=done.renamed, left_out=done.left_out),
    )
    save_model_folder(model, None, output, card=_card(kind, report, done.config), max_shard_size=max_shard_size)
    return report


def _about(left_out: list[str]) -> list[str]:
    if not left_out:
        return []
    first = ", ".join(left_out[:4]) + (f" and {len(left_out) - 4} more" if len(left_out) > 4 else "")
    return [f"left out: {len(left_out)} tensors of the task that it was pre-trained on ({first})"]


def _card(kind: PretrainedKind, report: ConversionReport, config: Any) -> str:
    notes = "".join(f"- {note}\n" for note in report.notes)
    return f"""---
library_name: segzoo
tags:
- backbone
- {config.model_type}
---
# Backbone of {Path(report.source).name}

{kind.title}, {report.parameters / 1e6:.1f}M weights, for training a segmentation model. It has no decode head and labels nothing by itself.

    segzoo train --backbone FOLDER ...

or, in Python,

    from segzoo import AutoBackbone
    backbone = AutoBackbone.from_pretrained("FOLDER")

- File: `{Path(report.source).name}`, SHA-256 `{report.sha256}`
- Licence of the weights: that of their publisher; it is not known here.
{notes}"""

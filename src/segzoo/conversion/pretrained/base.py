"""Pre-training checkpoints -> backbones to train from: files of classifiers and of masked image modelling, without a decode head.

A `PretrainedKind` says how a kind of files is recognised and how it becomes a backbone. What belongs to its old task is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from transformers import PreTrainedConfig

from segzoo.conversion.keys import KeyTable


@dataclass(frozen=True)
class PretrainedBackbone:
    """What a pre-training file says about its backbone.

    Args:
        config: of the backbone.
        state_dict: original key -> tensor; keys and tensors may have been brought into the layout that ``table`` renames.
        table: the renaming; what belongs to the old task it leaves out.
        left_out: names of what the file holds beside ``state_dict``, which a backbone does not need.
        notes: remarks for the user.
    """

    config: PreTrainedConfig
    state_dict: dict[str, Tensor]
    table: KeyTable
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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

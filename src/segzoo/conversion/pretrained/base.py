"""Pre-training checkpoints (classifiers, masked image modelling) -> backbones to train from.

A `PretrainedKind` says how a kind of file is recognised and how it becomes a backbone. What belongs to its old task is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from transformers import PreTrainedConfig

from segzoo.conversion.keys import KeyTable


def count_entries(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of modules in the list whose tensors' names begin with ``prefix``, dot included."""
    return len({key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)})


@dataclass(frozen=True)
class PretrainedBackbone:
    """The backbone of a pre-training file.

    Args:
        config: the backbone's config.
        state_dict: tensors by original key, brought into the layout that ``table`` renames if need be.
        table: the renaming, which leaves out what belongs to the old task.
        left_out: names of what the file holds besides ``state_dict``, which a backbone does not need.
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
        title: the kind in words, for cards and reports.
        recognises: ``recognises(weights)`` tells whether weights are of this kind.
        translate: ``translate(weights, file name) -> PretrainedBackbone``; raises ConversionError.
    """

    title: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    translate: Callable[[Mapping[str, Tensor], str], PretrainedBackbone]

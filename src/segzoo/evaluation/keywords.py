"""The options of `segzoo.evaluate` by the names that ``segzoo evaluate`` has for them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from segzoo.errors import SegZooError
from segzoo.options import nearest


class WhatKeywords(TypedDict, total=False):
    """What is scored: the fields of `segzoo.evaluation.Scored`."""

    split: str | None
    dataset_id: str | None
    max_samples: int | None
    classes: str | os.PathLike[str] | None
    num_labels: int | None
    do_reduce_labels: bool | None
    ignore_index: int


class HowKeywords(TypedDict, total=False):
    """The protocol: windows, scales and flips, as `segzoo.inference.InferenceSettings` explains them."""

    slide: bool | None
    window: int | Sequence[int] | None
    stride: int | Sequence[int] | None
    scales: float | Sequence[float] | None
    short_sides: int | Sequence[int] | None
    flip: bool
    average: str | None


class RunKeywords(TypedDict, total=False):
    """How the evaluation runs, and what it writes: the fields of `segzoo.evaluation.EvaluationOptions`."""

    batch_size: int
    num_workers: int | None
    num_streams: int | None
    output: str | os.PathLike[str] | None
    overwrite: bool
    save_predictions: bool
    save_every: float
    worst: int
    task_id: str


class EvaluateKeywords(WhatKeywords, HowKeywords, RunKeywords, total=False):
    """The options of an evaluation besides model, data and device."""


def parted(given: Mapping[str, Any], others: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What is scored, the protocol and the run, by the names that `Scored`, `settings_from_options` and
    `EvaluationOptions` have.

    Args:
        given: options by the command's names.
        others: further names that an error may suggest.

    Raises:
        SegZooError: there is no such option.
    """
    kinds = (WhatKeywords, HowKeywords, RunKeywords)
    for name in given:
        if name not in EvaluateKeywords.__annotations__:
            known = [*EvaluateKeywords.__annotations__, *others]
            hint = nearest(name, known) or "; segzoo evaluate --help has them all"
            raise SegZooError(f"evaluate has no option {name!r}{hint}")
    what, how, runs = ({name: given[name] for name in kind.__annotations__ if name in given} for kind in kinds)
    if "do_reduce_labels" in what:
        what["reduce_labels"] = what.pop("do_reduce_labels")
    for name in ("window", "stride", "scales", "short_sides"):
        if isinstance(how.get(name), int | float):
            how[name] = [how[name]]
    return what, how, runs

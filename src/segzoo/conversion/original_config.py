"""The parts of an original training config that conversion reads, wherever each generation of configs has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segzoo.conversion.options import values_that_fit


@dataclass(frozen=True)
class OriginalDataset:
    """The data set that a checkpoint is tested on.

    Args:
        type: name of its class, without scopes; None where the config does not name it.
        options: its dict; empty where there is none.
        where: the dict's place in the config.
        metainfo: names and colours in the form of 1.x.
        reduce_labels: whether label files hold 0 for "no class" and 1..n for the classes; None where the config does
            not say.
        trained_on: name of the class of the data set that it is trained on; None where the config does not name it.
        relabelled: whether a step of the training maps its labels to those of the data set that is tested on, so that the
            names of the training's data set are not those of the outputs.
        ignore_index: the label that does not count in scores, unchecked; None where the config does not say.
    """

    type: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    metainfo: Mapping[str, Any] = field(default_factory=dict)
    reduce_labels: bool | None = None
    trained_on: str | None = None
    relabelled: bool = False
    ignore_index: Any = None


@dataclass(frozen=True)
class OriginalConfig:
    """A training config of mmsegmentation 0.x, 1.x or a fork.

    Values are unchecked and of any type; those who read them check them. Where a setting may be inside the model or
    beside it, the one inside comes first.

    Args:
        model: the model's dict; None where there is none.
        train_cfg, test_cfg: settings of training and of testing, from inside the model or beside it.
        dataset: the data set that the model is tested on.
        test_pipeline: steps that prepare an image in testing; None where there are none.
        pipeline_place: place of these steps in the config.
        train_pipeline: steps that prepare an image in training; None where they are not beside the model.
        normalisation: ``img_norm_cfg``, which pipelines refer to.
        preprocessor: ``data_preprocessor`` of 1.x, from inside the model or beside it.
        is_1x: whether the config is of mmsegmentation 1.x, which normalises inside the model.
        version: (major, minor) of the mmsegmentation 0.x that wrote the checkpoint; None where it is not known.
    """

    model: Any = None
    train_cfg: Any = None
    test_cfg: Any = None
    dataset: OriginalDataset = field(default_factory=OriginalDataset)
    test_pipeline: list[Any] | None = None
    pipeline_place: str = ""
    train_pipeline: list[Any] | None = None
    normalisation: Any = None
    preprocessor: Any = None
    is_1x: bool = False
    version: tuple[int, int] | None = None

    def is_before(self, major: int, minor: int) -> bool | None:
        """Whether the checkpoint is of an earlier version of mmsegmentation than this one; None where that is not known."""
        if self.is_1x:
            return False
        return None if self.version is None else self.version < (major, minor)

    @classmethod
    def parse(cls, config: Mapping[str, Any], *, version: Any = None) -> OriginalConfig:
        """Finds the parts of a whole config.

        Args:
            config: the config as plain Python values.
            version: the ``mmseg_version`` of the checkpoint, such as "0.14.1+abc1234"; anything else is no version.

        Raises:
            ConversionError: the part that describes the data set has values of wrong types.
        """
        model = config.get("model")
        parts: Mapping[str, Any] = model if isinstance(model, Mapping) else {}
        test_cfg = config.get("test_cfg")
        if isinstance(test_cfg, Mapping) and "type" in test_cfg:
            test_cfg = None  # 1.x: the loop that tests
        with values_that_fit("the data set"):
            options, where = _find_dataset(config)
            steps, place = _find_test_pipeline(config, options, where)
            trained_on, _ = _find_dataset(config, ("train",))
            training = [*(trained_on.get("pipeline") or ()), *(config.get("train_pipeline") or ())]
            dataset = OriginalDataset(
                type=_class_name(options.get("type") or config.get("dataset_type")),
                options=options,
                where=where,
                metainfo=options.get("metainfo") or config.get("metainfo") or {},
                reduce_labels=_reduces_labels(config, options, steps),
                trained_on=_class_name(trained_on.get("type")),
                relabelled="MapillaryHack" in map(_class_name, _types(training)),
                ignore_index=_uncounted(config, options),
            )
        return cls(
            model=model,
            train_cfg=parts.get("train_cfg") or config.get("train_cfg"),
            test_cfg=parts.get("test_cfg") or test_cfg,
            dataset=dataset,
            test_pipeline=steps,
            pipeline_place=place,
            train_pipeline=list(train) if isinstance(train := config.get("train_pipeline"), (list, tuple)) else None,
            normalisation=config.get("img_norm_cfg"),
            preprocessor=parts.get("data_preprocessor") or config.get("data_preprocessor"),
            is_1x="data_preprocessor" in parts or "data_preprocessor" in config or "default_scope" in config,
            version=_version(version),
        )


def _types(steps: Iterable[Any]) -> list[Any]:
    return [step.get("type") for step in steps if isinstance(step, Mapping)]


def _version(text: Any) -> tuple[int, int] | None:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    return None if match is None else (int(match[1]), int(match[2]))


def _uncounted(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> Any:
    """The label that does not count in scores, which 0.x has in the data set and 1.x in the metric."""
    if "test_evaluator" not in config:
        return dataset.get("ignore_index")
    metrics = config["test_evaluator"]
    for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
        if isinstance(metric, Mapping) and "ignore_index" in metric:
            return metric["ignore_index"]
    return None


def _class_name(kind: Any) -> str | None:
    return kind.rpartition(".")[2] if isinstance(kind, str) else None


def _find_dataset(
    config: Mapping[str, Any], splits: Sequence[str] = ("test", "val", "train")
) -> tuple[Mapping[str, Any], str]:
    """The dict of the data set of the first of some splits, and its place; ({}, "") where there is none.

    Wrappers (``RepeatDataset``, ``ConcatDataset``, lists) are followed to the first data set inside.
    """
    places = [("data", split) for split in splits]
    places += [(f"{split}_dataloader", "dataset") for split in splits]
    for outer, inner in places:
        found, where = config.get(outer), f"{outer}.{inner}"
        found = found.get(inner) if isinstance(found, Mapping) else None
        while isinstance(found, (Mapping, list, tuple)):
            if isinstance(found, (list, tuple)):
                found, where = (found[0] if found else None), f"{where}[0]"
            elif "dataset" in found:
                found, where = found["dataset"], f"{where}.dataset"
            elif "datasets" in found:
                found, where = found["datasets"], f"{where}.datasets"
            elif "type" in found:
                return found, where
            else:
                break
    return {}, ""


def _find_test_pipeline(
    config: Mapping[str, Any], dataset: Mapping[str, Any], where: str
) -> tuple[list[Any] | None, str]:
    """The steps of the test pipeline and their place; (None, "") where there is none."""
    if not where.startswith(("data.train", "train_dataloader")) and isinstance(dataset.get("pipeline"), (list, tuple)):
        return list(dataset["pipeline"]), f"{where}.pipeline"
    if isinstance(config.get("test_pipeline"), (list, tuple)):
        return list(config["test_pipeline"]), "test_pipeline"
    return None, ""


def _reduces_labels(
    config: Mapping[str, Any], dataset: Mapping[str, Any], test_pipeline: Sequence[Any] | None
) -> bool | None:
    said = [config.get("reduce_zero_label"), dataset.get("reduce_zero_label")]
    pipelines = [dataset.get("pipeline"), config.get("train_pipeline"), test_pipeline]
    steps = [step for steps in pipelines for step in steps or () if isinstance(step, Mapping)]
    said += [step.get("reduce_zero_label") for step in steps]
    said = [bool(value) for value in said if value is not None]
    if said:
        return any(said)
    if _class_name(dataset.get("type") or config.get("dataset_type")) == "COCOStuffDataset":
        return False  # the class of two data sets, which reduces labels only where a config says so
    # Before 1.x the step that loads labels leaves them unchanged by default; in 1.x the data set decides.
    old = "train_dataloader" not in config and "test_dataloader" not in config
    return False if old and any(_class_name(step.get("type")) == "LoadAnnotations" for step in steps) else None

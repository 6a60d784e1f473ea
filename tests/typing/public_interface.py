"""What a user writes, for the type checker: `make lint` runs mypy over this file, which is never executed.

Whatever the packages offer on first use must be seen, with its types.
"""

from typing import Any, assert_type

import numpy as np
from torch import Tensor

import segzoo
from segzoo import (
    LoadedModel,
    SegZooConfig,
    SegZooError,
    SegZooForSemanticSegmentation,
    SegZooImageProcessor,
    SegZooOutput,
)
from segzoo.backbones import ResNetConfig
from segzoo.data import DatasetFacts, SegmentationDataset, dataset_facts, decode_image, decode_mask
from segzoo.evaluation import Evaluation, EvaluationReport
from segzoo.heads import FCNHeadConfig, Head, HeadConfig, HeadOutput, OneMapHeadConfig
from segzoo.inference import InferenceSettings, Predictor
from segzoo.metrics import ConfusionMatrix, mean_iou_path
from segzoo.prediction import Prediction, Speed
from segzoo.training import Recipe, RunOptions, WeightAverage, list_recipes, load_recipe


def models(pixel_values: Tensor) -> None:
    config = SegZooConfig.from_backbone(ResNetConfig(depth=18), FCNHeadConfig(channels=8), num_labels=3)
    assert_type(config, SegZooConfig)
    model = SegZooForSemanticSegmentation(config)
    output: SegZooOutput = model(pixel_values)
    print(output.logits, output.losses)
    maps, _ = model.forward_maps(pixel_values)
    assert_type(model.decode(maps), list[HeadOutput])
    assert_type(segzoo.__version__, str)


def heads(head: Head, config: HeadConfig) -> None:
    assert_type(head.forward([]), HeadOutput)
    assert_type(head.features(), Tensor)
    assert_type(config.num_outputs, int)
    assert_type(OneMapHeadConfig().resize_concat, bool)


def data() -> None:
    assert_type(decode_image("picture.png"), np.ndarray)
    assert_type(decode_mask("mask.png"), np.ndarray)
    assert_type(dataset_facts("ade20k"), DatasetFacts)
    dataset: type[SegmentationDataset] = SegmentationDataset
    print(dataset)


def scores(predictor: Predictor, evaluation: Evaluation, report: EvaluationReport) -> None:
    assert_type(ConfusionMatrix(3, 255), ConfusionMatrix)
    print(predictor, evaluation.confusion, report)
    assert_type(mean_iou_path(), str)
    assert_type(InferenceSettings(), InferenceSettings)


def training() -> None:
    assert_type(load_recipe("default"), Recipe)
    assert_type(list_recipes(), list[Recipe])
    assert_type(segzoo.train("resnet50", recipe="quick", dataset_name="data", max_train_steps=2), dict[str, Any])
    segzoo.train("resnet50", Recipe(), learning_rat=2)  # type: ignore[call-overload]
    assert_type(segzoo.train(RunOptions(output_dir="out"), Recipe()), dict[str, Any])
    average: type[WeightAverage] = WeightAverage
    raise SegZooError(f"{average} {SegZooImageProcessor}")


def predictions(model: LoadedModel) -> None:
    assert_type(segzoo.predict("model", "street.jpg"), Prediction)
    results = segzoo.predict(model, ["street.jpg", np.zeros((8, 8, 3), np.uint8)], speed=Speed(dtype="auto"))
    assert_type(results, list[Prediction])
    assert_type(results[0].label_map, np.ndarray)
    assert_type(results[0].confidence, np.ndarray)

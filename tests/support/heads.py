"""Heads of no released model, each of which uses one seam for coming heads; `registered` makes them known for a while."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from segzoo.auto import HEADS, AutoHead, register_head
from segzoo.heads import Head, HeadConfig, HeadOutput, OneMapHeadConfig
from segzoo.layers import resize


@strict
class EdgeHeadConfig(OneMapHeadConfig):
    """Of a head that finds where classes meet: two outputs, whatever the classes are."""

    model_type = "test_edge_head"

    own_outputs: int | None = 2


class EdgeHead(Head):
    """Makes its own targets: 1 where a pixel and its right neighbour differ."""

    config: EdgeHeadConfig

    def __init__(self, config: EdgeHeadConfig):
        super().__init__(config)
        self.conv = config.block(sum(config.in_channels), config.channels, 3, padding=1)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    @property
    def has_loss(self) -> bool:
        return True

    def compute_loss(self, output: HeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        targets = (labels != labels.roll(-1, dims=-1)).long()
        return {"edges": F.cross_entropy(resize(output.logits, labels.shape[-2:]), targets)}


@strict
class RefiningHeadConfig(OneMapHeadConfig):
    """Of a head that reads the one before it."""

    model_type = "test_refining_head"
    reads_previous: ClassVar[bool] = True

    steps: int = 1

    def tiny_inputs(self, batch: int = 2, height: int = 16, width: int = 24):
        return super().tiny_inputs(batch, height, width) | {
            "previous": HeadOutput(logits=torch.randn(batch, self.num_labels, height, width))
        }


@dataclass
class RefiningHeadOutput(HeadOutput):
    """With what no loss of another head reads, and with a field that the model's output has too."""

    masks_queries_logits: torch.FloatTensor | None = None
    presence: torch.FloatTensor | None = None


class RefiningHead(Head):
    """Adds to the logits of the head before; its second loss compares a vector of its output with the classes that there are."""

    config: RefiningHeadConfig

    def __init__(self, config: RefiningHeadConfig):
        super().__init__(config)
        self.conv = config.block(sum(config.in_channels), config.channels, 1)
        self.presence = nn.Linear(config.channels, config.num_labels)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> RefiningHeadOutput:
        features = self.features(*self.select(feature_maps))
        logits = self.classify(features)
        logits = resize(logits, previous.logits.shape[-2:]) + self.config.steps * previous.logits
        return RefiningHeadOutput(
            logits=logits, masks_queries_logits=logits.sigmoid(), presence=self.presence(features.mean((2, 3)))
        )

    def compute_loss(self, output: RefiningHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        there = torch.stack([(labels == i).flatten(1).any(1) for i in range(self.config.num_labels)], dim=1)
        own = F.binary_cross_entropy_with_logits(output.presence, there.to(output.presence.dtype))
        return super().compute_loss(output, labels, ignore_index) | {"presence": own}


@contextlib.contextmanager
def registered(*pairs: tuple[type[HeadConfig], type[Head]]) -> Iterator[None]:
    """Pairs of a config and a model class, known to the Auto classes while the block runs."""
    for config_class, model_class in pairs:
        register_head(config_class, model_class)
    try:
        yield
    finally:
        for config_class, _ in pairs:
            del HEADS[config_class.model_type]
            del CONFIG_MAPPING._extra_content[config_class.model_type]
            del AutoHead._model_mapping._extra_content[config_class]

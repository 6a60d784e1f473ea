"""What all decode heads share: which maps they read, how they are classified, and their loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from segzoo.base import ConvBlockConfig, Ints, SegZooPreTrainedModel
from segzoo.errors import SegZooError
from segzoo.layers import concatenate, resize
from segzoo.losses import CrossEntropyLoss, Loss, build_loss


@strict
class HeadConfig(ConvBlockConfig):
    """Options of every head, beside ``norm``, ``norm_eps`` and ``activation``.

    Args:
        in_channels: channels of the maps that the head reads, in the order of ``in_index``. None lets
            ``SegZooForSemanticSegmentation`` fill them in from the backbone or neck.
        in_index: which feature maps the head reads; negative ones count from the last. None: all of them.
        channels: width of the head.
        dropout: probability of dropping a whole channel before the classifier, while training; 0 for none.
        align_corners: how the head resizes maps and logits.
        own_outputs: number of the head's outputs where they are not the model's classes: STDC's boundary head has such, and an
            auxiliary head that came with other classes than its model. None: one output a class of the model.
        downsample_labels: the losses compare the logits at their own resolution with labels resized to it (nearest pixel, MIT
            scene parsing), instead of the resized logits with the labels.
        losses: what the head trains with, summed: dicts such as ``{"type": "dice", "weight": 3.0}``, or the losses of
            ``segzoo.losses`` themselves. Cross-entropy over all pixels by default.
        num_labels: number of classes (keyword argument of every transformers config).
    """

    _writes_num_labels: ClassVar[bool] = True
    has_queries: ClassVar[bool] = False
    """Whether the head has queries with a class and a mask each, for losses that read them."""
    reads_previous: ClassVar[bool] = False
    """Whether the head reads the output of the one before it, and so cannot be the first or an auxiliary one."""
    pools_to_points: ClassVar[bool] = False
    """Whether a norm of the head sees the mean of a whole map, which batch norms cannot train on from one image."""

    in_channels: Ints | None = None
    in_index: Ints | None = None
    channels: int = 256
    dropout: float = 0.1
    align_corners: bool = False
    own_outputs: int | None = None
    downsample_labels: bool = False
    losses: list | tuple = (CrossEntropyLoss(),)

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = [loss.to_dict() for loss in self.build_losses(self.losses)]
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuse a number of channels that does not fit the number of maps, and a dropout that is no probability."""
        super().check()
        if self.in_channels is not None and self.in_index is not None and len(self.in_channels) != len(self.in_index):
            raise SegZooError(
                f"{type(self).__name__}: in_channels {self.in_channels} and in_index {self.in_index} differ in length; "
                "give the channels of exactly the maps that in_index names"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise SegZooError(f"{type(self).__name__}: dropout={self.dropout} is no probability below 1")
        if self.own_outputs is not None and self.own_outputs < 1:
            raise SegZooError(f"{type(self).__name__}: own_outputs={self.own_outputs} must be 1 at least, or None")

    @property
    def num_outputs(self) -> int:
        """Number of channels of the head's logits: ``own_outputs``, or the number of classes."""
        return self.num_labels if self.own_outputs is None else self.own_outputs

    @classmethod
    def build_losses(cls, losses: Sequence[Loss | Mapping[str, Any]]) -> tuple[Loss, ...]:
        """The losses of a head of this config.

        Raises:
            SegZooError: there is none, one is not known, or one reads queries that the head has not.
        """
        if not isinstance(losses, (list, tuple)) or not losses:
            raise SegZooError(
                f"losses={losses!r:.80} must be a list with at least one loss, such as {{'type': 'cross_entropy'}}"
            )
        built = tuple(build_loss(loss) for loss in losses)
        for loss in built:
            if loss.reads_queries and not cls.has_queries:
                raise SegZooError(
                    f"the loss {loss.name!r} reads queries and their masks, which {cls.__name__} has not; "
                    "use it with a head such as Mask2FormerHead, or another loss"
                )
        return built

    def tiny_inputs(self, batch: int = 2, height: int = 16, width: int = 24) -> dict[str, Any]:
        """Random keyword arguments of the head's ``forward``, for tests that run over every registered head.

        There are as many maps as the config's indices ask for. Map i has ``height / 2**i`` rows, rounded up, and the channels that
        the config names for it, or 8. A head that reads more than maps adds it.
        """
        index = range(len(self.in_channels)) if self.in_index is None else self.in_index
        count = 1 + max(i if i >= 0 else -i - 1 for i in index)
        channels = {i % count: c for i, c in zip(index, self.in_channels, strict=True)}
        maps = [torch.randn(batch, channels.get(i, 8), -(-height // 2**i), -(-width // 2**i)) for i in range(count)]
        return {"feature_maps": maps}


@strict
class OneMapHeadConfig(HeadConfig):
    """Options of the heads that read one map, beside those of ``HeadConfig``.

    Args:
        in_index: the map, the last one by default.
        resize_concat: read several maps, all resized to the first one's size and concatenated.
    """

    in_index: Ints | None = (-1,)
    resize_concat: bool = False

    def check(self) -> None:
        """Refuse several maps without ``resize_concat``."""
        super().check()
        maps = self.in_channels or self.in_index
        if not self.resize_concat and maps is not None and len(maps) != 1:
            raise SegZooError(
                f"{type(self).__name__} reads one feature map, but with in_index={self.in_index} it reads {len(maps)} maps; name "
                "one, or set resize_concat=True to resize and concatenate them"
            )


@dataclass
class HeadOutput(ModelOutput):
    """Output of a head.

    A head that returns more derives its own output from this one. Its further tensors are what ``compute_loss`` and the next head
    of a cascade read; those that ``SegZooOutput`` has too reach the user.

    Args:
        logits: dense scores (batch, num_labels, height / stride, width / stride), before softmax.
    """

    logits: torch.FloatTensor | None = None


class Head(SegZooPreTrainedModel):
    """Base of the decode heads. A head sees feature maps, never an image or a backbone.

    A simple head writes its constructor and ``features``. One whose ``reads_previous`` is set, or with more to return, writes
    ``forward``; one with losses of its own ``compute_loss``, which makes them from the tensors of its output.
    """

    config: HeadConfig
    base_model_prefix = "head"
    main_input_name = "feature_maps"

    def __init__(self, config: HeadConfig):
        super().__init__(config)
        if config.in_channels is None:
            raise SegZooError(
                f"{type(config).__name__}.in_channels is not set; give the channels of the feature maps that the head reads"
            )
        config.check()  # once more: in_channels may have come from the backbone
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = self.build_classifier(config)
        self.losses = config.build_losses(config.losses)

    def build_classifier(self, config: HeadConfig) -> nn.Module:
        """The last layer, the only one whose shape depends on the number of classes."""
        return nn.Conv2d(config.channels, config.num_outputs, kernel_size=1)

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> HeadOutput:
        """Logits of feature maps.

        Args:
            feature_maps: all maps of the backbone or neck, each (B, C, H, W); ``in_index`` says which are read.
            previous: output of the head before this one in a cascade; None for the first and for auxiliary heads.
        """
        return HeadOutput(logits=self.classify(self.features(*self.select(feature_maps))))

    def features(self, *maps: Tensor) -> Tensor:
        """What the classifier reads, (B, channels, H, W), of the maps that the head selects, each (B, C, H, W)."""
        raise SegZooError(f"{type(self).__name__} has neither `features` nor a `forward` of its own")

    def select(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps that the head reads, in its own order; one, where the config concatenates them.

        Raises:
            SegZooError: a map is missing or has other channels than the config says.
        """
        index = range(len(feature_maps)) if self.config.in_index is None else self.config.in_index
        count = len(feature_maps)
        missing = [i for i in index if not -count <= i < count]
        maps = [] if missing else [feature_maps[i] for i in index]
        channels = [x.shape[1] for x in maps]
        if missing or channels != list(self.config.in_channels):
            raise SegZooError(
                f"{type(self).__name__} reads maps {list(index)} with {list(self.config.in_channels)} channels, but was given "
                f"{count} maps with {[x.shape[1] for x in feature_maps]} channels; set in_index and in_channels to fit"
            )
        if isinstance(self.config, OneMapHeadConfig):
            return [concatenate(maps, align_corners=self.config.align_corners)]
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, num_labels, H, W) of features (B, channels, H, W)."""
        return self.classifier(self.dropout(features))

    @property
    def has_loss(self) -> bool:
        """Whether the model's labels train the head; those of a head with ``own_outputs`` are other classes than the labels'."""
        return self.config.own_outputs is None

    def set_losses(self, losses: Sequence[Loss | Mapping[str, Any]]) -> None:
        """Train with other losses, and keep them in the config.

        Raises:
            SegZooError: a loss is not known, or made for another number of classes.
        """
        losses = self.config.build_losses(losses)
        for loss in losses:
            loss.check_num_labels(self.config.num_outputs)
        self.losses = losses
        self.config.losses = [loss.to_dict() for loss in losses]

    def compute_loss(self, output: HeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """The weighted parts of the head's loss, by the losses' names; those of one name are summed.

        Losses that read queries are added by the heads that have them. A head that makes its own targets of the labels overrides
        this, and ``has_loss``.

        Args:
            output: what ``forward`` returned.
            labels: class ids (B, H, W), int64; the logits are resized to them, or they to the logits (``downsample_labels``).
            ignore_index: id of the pixels that do not count.
        """
        losses = [loss for loss in self.losses if not loss.reads_queries]
        if not losses or not self.has_loss:
            return {}
        logits = output.logits
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()  # before the resize, whose rounding would be the labels' size otherwise
        if self.config.downsample_labels:
            labels = F.interpolate(labels[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()
        else:
            logits = resize(logits, labels.shape[-2:], align_corners=self.config.align_corners)
        parts: dict[str, Tensor] = {}
        for loss in losses:
            value = loss(logits, labels, ignore_index)
            parts[loss.name] = parts[loss.name] + value if loss.name in parts else value
        return parts

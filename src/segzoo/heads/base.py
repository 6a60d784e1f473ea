"""What all decode heads share: which maps they read, how these become logits, and the loss of the logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from segzoo.base import ConvBlockConfig, Ints, SegZooPreTrainedModel, strict
from segzoo.errors import SegZooError
from segzoo.layers import SelfAttention, concatenate, resize
from segzoo.layers.conv import Conv2d
from segzoo.losses import CrossEntropyLoss, Loss, build_loss


@strict
class HeadConfig(ConvBlockConfig):
    """Options of every head, besides ``norm``, ``norm_eps`` and ``activation``.

    Args:
        in_channels: channels of the maps that the head reads, in the order of ``in_index``. None lets
            ``SegZooForSemanticSegmentation`` fill them in from the backbone or neck.
        in_index: positions of the feature maps that the head reads; negative ones count from the last. None reads all
            maps.
        channels: width of the head.
        dropout: probability of dropping a whole channel before the classifier, while training.
        align_corners: whether resizing maps and logits aligns the centres of the corner pixels.
        own_outputs: number of the head's outputs where they are not the model's classes, as in STDC's boundary head,
            or in an auxiliary head that was trained with other classes than its model. None is one output for each of
            the model's classes.
        downsample_labels: the losses compare the logits at their own resolution with labels resized to it (nearest
            pixel, MIT scene parsing), instead of resized logits with the labels.
        losses: losses whose sum trains the head: dicts such as ``{"type": "dice", "weight": 3.0}``, or the losses of
            ``segzoo.losses`` themselves. By default cross-entropy over all pixels.
        num_labels: number of classes, a keyword argument of every transformers config.

    Raises:
        SegZooError: ``in_channels`` and ``in_index`` differ in length, a number is out of range, or a loss does not
            fit the head.
    """

    _writes_num_labels: ClassVar[bool] = True
    has_queries: ClassVar[bool] = False
    """Whether the head has queries with a class and a mask each, for losses that read them."""
    reads_previous: ClassVar[bool] = False
    """Whether the head reads the output of the head before it, and so cannot be the first or an auxiliary one."""
    loss_fields: ClassVar[tuple[str, ...]] = ("losses",)
    """Names of the fields that hold losses of the model's classes."""
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
        for field in self.loss_fields:
            setattr(self, field, [loss.to_dict() for loss in self.build_losses(getattr(self, field))])
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Every map has its channels, and ``dropout`` is in 0..1 (1 excluded)."""
        super().check()
        if self.in_channels is not None and self.in_index is not None and len(self.in_channels) != len(self.in_index):
            raise SegZooError(
                f"{type(self).__name__}: in_channels {self.in_channels} and in_index {self.in_index} differ in length; "
                "give the channels of exactly the maps that in_index names"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise SegZooError(f"{type(self).__name__}: dropout={self.dropout} is no probability below 1")

    @property
    def num_outputs(self) -> int:
        """Number of channels of the head's logits: ``own_outputs``, or the number of classes."""
        return self.num_labels if self.own_outputs is None else self.own_outputs

    @classmethod
    def build_losses(cls, losses: Sequence[Loss | Mapping[str, Any]]) -> tuple[Loss, ...]:
        """Build losses from their dicts, and check that heads of this class can use them.

        Raises:
            SegZooError: the list is empty, a loss is not known, or a loss reads queries, which the head does not have.
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

        There are as many maps as ``in_index`` needs. Map i has ``height / 2**i`` rows, rounded up, and the channels
        that the config names for it, or 8. The config of a head that reads more than maps adds the rest.
        """
        index = range(len(self.in_channels)) if self.in_index is None else self.in_index
        count = 1 + max(i if i >= 0 else -i - 1 for i in index)
        channels = {i % count: c for i, c in zip(index, self.in_channels, strict=True)}
        maps = [torch.randn(batch, channels.get(i, 8), -(-height // 2**i), -(-width // 2**i)) for i in range(count)]
        return {"feature_maps": maps}


@strict
class OneMapHeadConfig(HeadConfig):
    """Options of the heads that read one map, besides those of ``HeadConfig``.

    Args:
        in_index: position of the map, by default the last one.
        resize_concat: read several maps, resized (bilinear) to the first one's size and concatenated.

    Raises:
        SegZooError: ``in_index`` names several maps without ``resize_concat``.
    """

    in_index: Ints | None = (-1,)
    resize_concat: bool = False

    def check(self) -> None:
        """The head reads a single map, unless ``resize_concat`` is set."""
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

    A head that returns more derives its own output from this one. ``compute_loss`` and the next head of a cascade read
    the further tensors; those whose names are fields of ``SegZooOutput`` reach the user.

    Args:
        logits: dense scores before softmax, (batch, num_labels, height / stride, width / stride).
    """

    logits: torch.FloatTensor | None = None


class Head(SegZooPreTrainedModel):
    """Base of the decode heads. A head sees feature maps, never an image or a backbone.

    A simple head writes its constructor and ``features``. A head whose ``reads_previous`` is set, or which returns
    more than logits, writes ``forward`` instead; one with losses of its own writes ``compute_loss``, which makes them
    from its output.

    Raises:
        SegZooError: ``config.in_channels`` is not set.
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
        config.check()  # again, because in_channels may have been filled in from the backbone
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = self.build_classifier(config)
        for field in config.loss_fields:
            setattr(self, field, config.build_losses(getattr(config, field)))

    def build_classifier(self, config: HeadConfig) -> nn.Module:
        """The last layer, which alone depends on the number of classes: ``channels`` to ``num_outputs``."""
        return Conv2d(config.channels, config.num_outputs, kernel_size=1)

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif isinstance(module, SelfAttention):  # which comes after its layers
            module.reset()
        else:
            super()._init_weights(module)

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> HeadOutput:
        """Turn feature maps into logits.

        Args:
            feature_maps: all maps of the backbone or neck, each (B, C, H, W), of which the head reads those of
                ``in_index``.
            previous: output of the head before this one in a cascade; None for the first and for auxiliary heads.
        """
        return HeadOutput(logits=self.classify(self.features(*self.select(feature_maps))))

    def features(self, *maps: Tensor) -> Tensor:
        """Features for the classifier, (B, channels, H, W), from the maps that `select` returns, each (B, C, H, W)."""
        raise SegZooError(f"{type(self).__name__} has neither `features` nor a `forward` of its own")

    def fits(self, channels: Sequence[int | None]) -> bool:
        """Whether maps of these channels, all that there are, are those that the head was built for."""
        count, index = len(channels), self.config.in_index
        index = range(count) if index is None else index
        if any(not -count <= i < count for i in index):
            return False
        return [channels[i] for i in index] == list(self.config.in_channels)

    def select(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps that the head reads, in the order of ``in_index``; a `OneMapHeadConfig` joins them into one.

        Raises:
            SegZooError: a map is missing or has other channels than the config says.
        """
        index = range(len(feature_maps)) if self.config.in_index is None else self.config.in_index
        # A map that the head does not read may be None.
        channels = [None if x is None else x.shape[1] for x in feature_maps]
        if not self.fits(channels):
            raise SegZooError(
                f"{type(self).__name__} reads maps {list(index)} with {list(self.config.in_channels)} channels, but was given "
                f"{len(channels)} maps with {channels} channels; set in_index and in_channels to fit"
            )
        maps = [feature_maps[i] for i in index]
        if isinstance(self.config, OneMapHeadConfig):
            return [concatenate(maps, align_corners=self.config.align_corners)]
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, channels, H, W) -> logits (B, num_outputs, H, W), with dropout while training."""
        return self.classifier(self.dropout(features))

    def image_logits(self, output: HeadOutput, size: Sequence[int]) -> Tensor:
        """The logits that the model returns for images: the output's own, (B, num_outputs, h, w), by default.

        A head that makes its logits at the images' size does so here, after its losses and only where they are needed.

        Args:
            output: what ``forward`` returned.
            size: (height, width) of the images.
        """
        return output.logits

    @property
    def has_loss(self) -> bool:
        """Whether the model's labels train the head; False with ``own_outputs``, which are other classes."""
        return self.config.own_outputs is None

    def set_losses(self, losses: Sequence[Loss | Mapping[str, Any]]) -> None:
        """Replace the head's losses, in the config too.

        Args:
            losses: losses or their dicts, one at least.

        Raises:
            SegZooError: a loss is not known, does not fit the head, or is made for another number of classes.
        """
        self._set_losses("losses", losses)

    def set_class_weights(self, class_weights: Sequence[float]) -> None:
        """Give all of the head's losses of classes these weights, in the config too.

        Args:
            class_weights: a factor for each class.

        Raises:
            SegZooError: they are no weights, or not one for each class.
        """
        for field in self.config.loss_fields:
            losses = [loss | {"class_weights": list(class_weights)} for loss in getattr(self.config, field)]
            self._set_losses(field, losses)

    def _set_losses(self, field: str, losses: Sequence[Loss | Mapping[str, Any]]) -> None:
        losses = self.config.build_losses(losses)
        for loss in losses:
            loss.check_num_labels(self.config.num_outputs)
        setattr(self, field, losses)
        setattr(self.config, field, [loss.to_dict() for loss in losses])

    def targets(self, labels: Tensor, ignore_index: int) -> tuple[Tensor, int]:
        """What the losses compare the logits with, (B, H, W), int64, and the id of its pixels that do not count.

        Args:
            labels: class ids (B, H, W), int64.
            ignore_index: id of the pixels that do not count.
        """
        return labels, ignore_index

    def compute_loss(self, output: HeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """The weighted losses of the head, by name; losses of the same name are summed. Empty where the head has none.

        Heads with queries add the losses that read them. A head that makes its own targets from the labels overrides
        `targets` and ``has_loss``.

        Args:
            output: what ``forward`` returned.
            labels: class ids (B, H, W), int64; the logits are resized to them, or with ``downsample_labels`` they to
                the logits.
            ignore_index: id of the pixels that do not count.
        """
        losses = [loss for loss in self.losses if not loss.reads_queries]
        if not losses or not self.has_loss:
            return {}
        labels, ignore_index = self.targets(labels, ignore_index)
        return self.compare(output.logits, losses, labels, ignore_index)

    def compare(self, logits: Tensor, losses: Sequence[Loss], labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """Losses by name; those of the same name are summed.

        Args:
            logits: (B, C, h, w), which are resized to the labels, or with ``downsample_labels`` they to the logits.
            losses: the losses.
            labels: what the losses compare the logits with, (B, H, W), int64.
            ignore_index: id of the pixels that do not count.
        """
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()  # before the resize, which would otherwise round its result to half precision
        if self.config.downsample_labels:
            labels = F.interpolate(labels[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()
        align_corners = self.config.align_corners
        if len(losses) > 1:  # once for all
            logits = resize(logits, labels.shape[-2:], align_corners=align_corners)
        parts: dict[str, Tensor] = {}
        for loss in losses:
            value = loss(logits, labels, ignore_index, align_corners=align_corners)
            parts[loss.name] = parts[loss.name] + value if loss.name in parts else value
        return parts

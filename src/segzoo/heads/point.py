"""PointRend's head: the prediction of the head before it is made finer, and corrected where it is least certain.

From "PointRend: Image Segmentation as Rendering" (Kirillov et al., 2019), https://arxiv.org/abs/1912.08193, as
mmsegmentation's ``PointHead`` trains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import in_float32, rescale, without_autocast
from segzoo.layers.points import MAX_POINTS, random_numbers, sample_maps, uncertain_points

_MAX_MAGNIFICATION = 64  # of all subdivisions together; the released models have 4


@strict
class PointHeadConfig(HeadConfig):
    """Options of ``PointHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the maps whose values at the points are read, by default the first.
        num_layers: number of layers before the classifier.
        coarse_in_each_layer: give each layer, and the classifier, the logits of the head before as well, not only the
            first layer.
        dropout: probability of dropping a value before the classifier, while training.
        num_points: number of points of each image that train the head; 2**20 at most.
        oversample_ratio: number of random points from which uncertain ones are chosen, relative to ``num_points``; 1
            to 100.
        importance_sample_ratio: share of the points, 0..1, that lie where the head before is least certain; the others
            are random.
        subdivision_steps: number of times that the logits are enlarged and corrected in evaluation.
        scale_factor: by how much each of these steps enlarges them.
        subdivision_num_points: number of pixels, the least certain, that each step corrects; 2**20 at most. Smaller
            maps are corrected everywhere.

    Raises:
        SegZooError: a number is out of range, or the steps together enlarge more than 64 times.
    """

    model_type = "segzoo_point_head"
    reads_previous: ClassVar[bool] = True

    in_index: Ints | None = (0,)
    norm: Literal["batch_norm", "group_norm"] | None = None
    num_layers: int = 3
    coarse_in_each_layer: bool = True
    num_points: int = 2048
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    subdivision_steps: int = 2
    scale_factor: float = 2.0
    subdivision_num_points: int = 8196

    def check(self) -> None:
        """Ratios and numbers of points are in their ranges, and the logits stay at a size that can be held."""
        super().check()
        for name, least, most in (
            ("num_points", 1, MAX_POINTS),
            ("subdivision_num_points", 1, MAX_POINTS),
            ("oversample_ratio", 1, 100),
            ("importance_sample_ratio", 0, 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise SegZooError(f"PointHeadConfig: {name}={value} must be {least} at least and {most} at most")
        steps, scale = self.subdivision_steps, self.scale_factor
        if not 0 < scale <= _MAX_MAGNIFICATION or (scale > 1 and scale ** min(steps, 1000) > _MAX_MAGNIFICATION):
            raise SegZooError(
                f"PointHeadConfig: subdivision_steps={steps} with scale_factor={scale} must enlarge the logits, and not more "
                f"than {_MAX_MAGNIFICATION} times together"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[16],
            in_index=[1],
            channels=16,
            num_layers=2,
            num_points=60,
            subdivision_steps=1,
            subdivision_num_points=50,
            num_labels=5,
        )

    def tiny_inputs(self, batch: int = 2, height: int = 16, width: int = 24) -> dict[str, Any]:
        """As `HeadConfig.tiny_inputs`, with the logits of a head before this one, of the size of the first map."""
        inputs = super().tiny_inputs(batch, height, width)
        return inputs | {"previous": HeadOutput(logits=torch.randn(batch, self.num_outputs, height, width))}


@dataclass
class PointHeadOutput(HeadOutput):
    """Output of ``PointHead``.

    Args:
        logits: in evaluation the corrected logits, (batch, num_labels, height, width), larger than those of the head
            before; in training, which corrects nothing, those of the head before.
        point_logits: logits at the points that train the head, (batch, num_labels, num_points); None in evaluation.
        points: these points, (batch, num_points, 2), (x, y) in 0..1; None in evaluation.
    """

    point_logits: torch.FloatTensor | None = None
    points: torch.FloatTensor | None = None


class PointHead(Head):
    """Reads values of maps at points, and the logits of the head before it, which may have any resolution.

    Each point's logits follow, by layers that all points share, from the maps and the earlier logits there. In training
    the points are random, more of them where the head before is uncertain. In evaluation the earlier logits are
    enlarged step by step, and in each step the least certain pixels are replaced.
    """

    config: PointHeadConfig

    def __init__(self, config: PointHeadConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        first, width, later = sum(config.in_channels) + config.num_outputs, config.channels, self._later_width(config)
        self.layers = nn.ModuleList(config.block(later if i else first, width, 1) for i in range(config.num_layers))
        self.post_init()

    @staticmethod
    def _later_width(config: PointHeadConfig) -> int:
        """Channels that all layers but the first read."""
        return config.channels + (config.num_outputs if config.coarse_in_each_layer else 0)

    def build_classifier(self, config: PointHeadConfig) -> nn.Module:
        """The last layer; the others read the earlier logits, and so depend on the number of classes too."""
        width = self._later_width(config) if config.num_layers else sum(config.in_channels) + config.num_outputs
        return nn.Conv2d(width, config.num_outputs, kernel_size=1)

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> PointHeadOutput:
        """As `Head.forward`.

        Raises:
            SegZooError: there is no head before, or its logits are of another number of classes.
        """
        maps, config = self.select(feature_maps), self.config
        if previous is None:
            raise SegZooError("PointHead reads the logits of the head before it; pass previous=HeadOutput(logits=...)")
        if previous.logits.shape[1] != config.num_outputs:
            raise SegZooError(
                f"PointHead has {config.num_outputs} classes, and the head before it returns logits of "
                f"{previous.logits.shape[1]}; give both the same number"
            )
        coarse, dtype = previous.logits, maps[0].dtype
        coarse_and_maps = in_float32(coarse, *maps)  # for places of points are too fine for half precision
        if not self.training:
            return PointHeadOutput(logits=self._refine(coarse_and_maps, dtype).to(coarse.dtype))
        with torch.no_grad(), without_autocast(coarse.device):
            points = uncertain_points(
                coarse_and_maps[0],
                config.num_points,
                certainty=certainty,
                oversample_ratio=config.oversample_ratio,
                importance_ratio=config.importance_sample_ratio,
                draw=random_numbers(coarse.device),
            )
        return PointHeadOutput(
            logits=coarse, point_logits=self._logits_at(points, coarse_and_maps, dtype), points=points
        )

    def _refine(self, coarse_and_maps: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """The logits (B, K, H, W), enlarged and corrected ``subdivision_steps`` times."""
        config, logits = self.config, coarse_and_maps[0]
        for _ in range(config.subdivision_steps):
            logits = rescale(logits, config.scale_factor, align_corners=config.align_corners)
            height, width = logits.shape[-2:]
            flat, count = logits.flatten(2), config.subdivision_num_points
            sure = certainty(flat)
            if is_exporting():
                # A graph for any size takes the same number of pixels from all: behind a map's own stand others that
                # are taken last, and cut off again.
                sure, flat = F.pad(sure, (0, count), value=torch.inf), F.pad(flat, (0, count))
            else:
                count = min(count, height * width)
            pixels = sure.topk(count, dim=1, largest=False).indices
            row = pixels // width
            column = pixels - row * width  # a remainder by a free size has no form in ONNX
            places = [(column.to(flat.dtype) + 0.5) / width, (row.to(flat.dtype) + 0.5) / height]
            points = torch.stack(places, dim=2)
            found = self._logits_at(points, coarse_and_maps, dtype).to(flat.dtype)
            flat = flat.scatter(2, pixels[:, None].expand(-1, flat.shape[1], -1), found)
            logits = flat[:, :, : height * width].unflatten(2, (height, width))
        return logits

    def _logits_at(self, points: Tensor, coarse_and_maps: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Logits (B, K, P) at points (B, P, 2), computed in ``dtype`` from the coarse logits and the maps there."""
        with without_autocast(points.device):
            values = [sample_maps(x, points, align_corners=self.config.align_corners) for x in coarse_and_maps]
        coarse, *fine = (x.to(dtype).unsqueeze(2) for x in values)  # maps of one row
        x = torch.cat([*fine, coarse], dim=1)
        for layer in self.layers:
            x = layer(x)
            if self.config.coarse_in_each_layer:
                x = torch.cat([x, coarse.to(x.dtype)], dim=1)
        return self.classify(x).squeeze(2)

    def compute_loss(self, output: PointHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """The weighted losses of the head, by name.

        In training they compare the logits at the points with the labels of the nearest pixels, in evaluation the
        corrected logits with all labels, as `Head.compute_loss` does.

        Args:
            output: what ``forward`` returned.
            labels: class ids (B, H, W), int64.
            ignore_index: id of the pixels that do not count.
        """
        if output.points is None:
            return super().compute_loss(output, labels, ignore_index)
        points = output.points
        with without_autocast(points.device):
            found = sample_maps(
                labels[:, None].to(points.dtype),
                points,
                align_corners=self.config.align_corners,
                mode="nearest",
                padding="border",
            )
        at_points = HeadOutput(logits=output.point_logits.unsqueeze(2))  # images of one row
        return super().compute_loss(at_points, found.long(), ignore_index)


def certainty(logits: Tensor) -> Tensor:
    """By how much the highest logit exceeds the second, (B, ...), of logits (B, K, ...); 0 of a single class."""
    highest = logits.topk(min(2, logits.shape[1]), dim=1).values
    return highest[:, 0] - highest[:, -1]


register_head(PointHeadConfig, PointHead)

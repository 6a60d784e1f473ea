"""SegFormer's head: maps of all resolutions, projected to one width, resized to the finest one and fused.

From "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers" (Xie et al., 2021),
https://arxiv.org/abs/2105.15203, as its authors' ``SegFormerHead`` trains it and as mmsegmentation's ``SegformerHead``
does, which has a norm and an activation after each projection.
"""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import ConvNormAct, FusionConv
from segzoo.layers.fusion_conv import ConvOfMaps, sum_of_projected
from segzoo.layers.pointwise import is_plain, may_be_skipped


@strict
class SegFormerHeadConfig(HeadConfig):
    """Options of ``SegFormerHead``, besides those of ``HeadConfig``.

    Args:
        activation: of the projections, before a fusion with a ReLU; with ``linear_projections`` that of the fusion.
        linear_projections: project the maps by a linear layer with bias alone (SegFormer's authors), not by a
            convolution with norm and activation (mmsegmentation).
    """

    model_type = "segzoo_segformer_head"

    linear_projections: bool = False

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[8, 16, 24, 32], channels=16, num_labels=5)


class SegFormerHead(Head):
    """Reads several maps, the finest first, and returns logits at the first one's resolution."""

    config: SegFormerHeadConfig

    def __init__(self, config: SegFormerHeadConfig):
        super().__init__(config)
        width, options = config.channels, config.block_options
        if config.linear_projections:
            projection, fusion = {"norm": None, "activation": None}, options
        else:
            projection, fusion = options, options | {"activation": "relu"}
        self.projections = nn.ModuleList(
            ConvNormAct(channels, width, 1, **projection) for channels in config.in_channels
        )
        self.fusion_conv = FusionConv(
            len(config.in_channels) * width, width, 1, align_corners=config.align_corners, **fusion
        )
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        if self.config.linear_projections and self._weights_are_there():
            return self._in_one_step(maps)
        return self.fusion_conv([project(x) for project, x in zip(self.projections, maps, strict=True)])

    def _weights_are_there(self) -> bool:
        """Whether no adapter and no quantiser has replaced a layer or its weight, and no hook needs a layer's call."""
        blocks = [*self.projections, self.fusion_conv]
        convolutions = [block.conv for block in blocks]
        return (
            isinstance(convolutions[-1], ConvOfMaps)
            and all(isinstance(layer, nn.Conv2d) and is_plain(layer.weight) for layer in convolutions)
            and all(may_be_skipped(layer) for layer in (*blocks, *convolutions))
        )

    def _in_one_step(self, maps: Sequence[Tensor]) -> Tensor:
        """The fusion of linear projections, whose product with the fusion's weights is a narrower linear layer."""
        width, fusion = self.config.channels, self.fusion_conv.conv
        bias, weights = fusion.bias, []
        for project, part in zip(self.projections, fusion.weight[..., 0, 0].split(width, dim=1), strict=True):
            weights.append((part @ project.conv.weight[..., 0, 0])[..., None, None])
            shift = part @ project.conv.bias
            bias = shift if bias is None else bias + shift
        total = sum_of_projected(maps, weights, bias, maps[0].shape[-2:], self.config.align_corners)
        return self.fusion_conv.activation(self.fusion_conv.norm(total))


register_head(SegFormerHeadConfig, SegFormerHead)

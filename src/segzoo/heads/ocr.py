"""OCRNet's head: pixels attend to the means of the regions that the head before it found.

From "Object-Contextual Representations for Semantic Segmentation" (Yuan et al., 2020),
https://arxiv.org/abs/1909.11065, as mmsegmentation's ``OCRHead`` trains it.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadOutput, OneMapHeadConfig
from segzoo.layers import attend, to_tokens


@strict
class OCRHeadConfig(OneMapHeadConfig):
    """Options of ``OCRHead``, besides those of ``OneMapHeadConfig``.

    Args:
        ocr_channels: width of the attention between pixels and regions.
    """

    model_type = "segzoo_ocr_head"
    reads_previous: ClassVar[bool] = True

    channels: int = 512
    ocr_channels: int = 256

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, ocr_channels=32, num_labels=5)

    def tiny_inputs(self, batch: int = 2, height: int = 16, width: int = 24) -> dict[str, Any]:
        """As `HeadConfig.tiny_inputs`, with the logits of a head before this one, of the size of the map."""
        inputs = super().tiny_inputs(batch, height, width)
        size = inputs["feature_maps"][self.in_index[0]].shape[-2:]
        return inputs | {"previous": HeadOutput(logits=torch.randn(batch, self.num_labels, *size))}


class OCRHead(Head):
    """Reads one map, or the concatenation of several, and the logits of the head before, which have its resolution.

    For each class, the mean of the features weighted with the softmax of its logits over all pixels is a region's
    vector. The pixels' features attend to these vectors, and are fused with what they find.
    """

    config: OCRHeadConfig

    def __init__(self, config: OCRHeadConfig):
        super().__init__(config)
        width, inner = config.channels, config.ocr_channels
        self.key = nn.Sequential(config.block(width, inner, 1), config.block(inner, inner, 1))
        self.query = nn.Sequential(config.block(width, inner, 1), config.block(inner, inner, 1))
        self.value = config.block(width, inner, 1)
        self.context_conv = config.block(inner, width, 1)
        self.fusion = config.block(2 * width, width, 1)
        self.pixel_conv = config.block(sum(config.in_channels), width, 3, padding=1)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> HeadOutput:
        """As `Head.forward`.

        Raises:
            SegZooError: there is no head before, or its logits have another resolution than the map.
        """
        (x,) = self.select(feature_maps)
        if previous is None:
            raise SegZooError("OCRHead reads the logits of the head before it; pass previous=HeadOutput(logits=...)")
        if previous.logits.shape[-2:] != x.shape[-2:]:
            raise SegZooError(
                f"OCRHead reads a map of {tuple(x.shape[-2:])} pixels, and the head before it returns logits of "
                f"{tuple(previous.logits.shape[-2:])}; let both read maps of the same resolution"
            )
        return HeadOutput(logits=self.classify(self._in_context(self.pixel_conv(x), previous.logits)))

    def _in_context(self, pixels: Tensor, logits: Tensor) -> Tensor:
        """Features (B, channels, H, W) with their context; ``logits`` (B, regions, H, W)."""
        shares = logits.flatten(2).softmax(dim=-1)  # of each pixel in each region
        regions = (shares @ to_tokens(pixels)).mT.unsqueeze(-1)  # (B, channels, regions, 1)
        context = self.context_conv(attend(self.query(pixels), self.key(regions), self.value(regions)))
        return self.fusion(torch.cat([context, pixels], dim=1))


register_head(OCRHeadConfig, OCRHead)

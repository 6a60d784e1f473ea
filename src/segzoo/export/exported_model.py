"""The module that an exported file computes: a model with the steps that are put into the file with it."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from segzoo.configuration_segzoo import SegZooConfig
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.layers import resize


class ExportedModel(nn.Module):
    """A model, optionally with normalisation before it, and with upsampling and argmax after it.

    Args:
        model: a model for semantic segmentation in eval mode.
        processor: its image processor; needed only with ``uint8``.
        labels: return class ids at the input's size, int64 (B, H, W), instead of logits at the head's resolution,
            float32 (B, num_labels, H / stride, W / stride).
        uint8: the input is RGB pictures of 0..255, uint8 (B, H, W, 3), instead of normalised images, float32 (B, C, H,
            W).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: SegZooImageProcessor | None = None,
        *,
        labels: bool = False,
        uint8: bool = False,
    ):
        super().__init__()
        self.model, self.labels, self.uint8 = model, labels, uint8
        own = isinstance(model.config, SegZooConfig)
        self.align_corners = own and model.config.decode_head_configs[-1].align_corners
        if uint8:
            scale, shift = _affine(processor)
            self.register_buffer("scale", scale, persistent=False)
            self.register_buffer("shift", shift, persistent=False)
            self.bgr = processor.channel_order == "bgr"

    def forward(self, image: Tensor) -> Tensor:
        x = image
        if self.uint8:
            x = x.permute(0, 3, 1, 2).float()
            x = x.flip(1) if self.bgr else x
            x = x * self.scale + self.shift
        logits = self.model(x.to(self.model.dtype)).logits.float()
        if not self.labels:
            return logits
        return resize(logits, x.shape[-2:], align_corners=self.align_corners).argmax(1)

    @property
    def input_name(self) -> str:
        """Name of the input in the file."""
        return "image" if self.uint8 else "pixel_values"

    @property
    def output_name(self) -> str:
        """Name of the output in the file."""
        return "labels" if self.labels else "logits"


def _affine(processor: SegZooImageProcessor) -> tuple[Tensor, Tensor]:
    """Factor and summand, (1, 3, 1, 1) each, that rescale and normalise values of 0..255."""
    scale = torch.full((3,), float(processor.rescale_factor) if processor.do_rescale else 1.0, dtype=torch.float64)
    shift = torch.zeros(3, dtype=torch.float64)
    if processor.do_normalize:
        mean, std = (
            torch.as_tensor(v, dtype=torch.float64).expand(3) for v in (processor.image_mean, processor.image_std)
        )
        scale, shift = scale / std, -mean / std
    return scale.float().view(1, 3, 1, 1), shift.float().view(1, 3, 1, 1)

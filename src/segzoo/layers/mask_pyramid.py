"""MaskFormer's pixel decoder: a feature pyramid from the coarsest map down to the finest, which gives mask features.

From "Per-Pixel Classification is Not All You Need for Semantic Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2107.06278, with the weights of mmdetection's ``PixelDecoder`` and ``TransformerEncoderPixelDecoder``.
"""

from collections.abc import Callable, Sequence
from itertools import chain

from torch import Tensor, nn
from transformers import initialization as init

from segzoo.layers.detr import DetrEncoderLayer
from segzoo.layers.pixel_decoder import ConvGroupNorm, sine_positions
from segzoo.layers.resize import resize
from segzoo.layers.tokens import to_map, to_tokens


class MaskPyramid(nn.Module):
    """Adds each map to what comes from the coarser ones, and makes mask features of the finest.

    Args:
        in_channels: channels of the maps, finest first.
        channels: width of the decoder; a multiple of 4.
        mask_channels: channels of the mask features.
        encoder: makes the layers that first refine the coarsest map.
        encoder_layers: their number; without any, the coarsest map enters through a 3x3 convolution.
        norm_groups: number of groups of the group norms.
        norm_eps: epsilon of the group norms.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        mask_channels: int,
        *,
        encoder: Callable[[], DetrEncoderLayer],
        encoder_layers: int,
        norm_groups: int,
        norm_eps: float,
    ):
        super().__init__()
        *fine, coarsest = in_channels
        norms = {"norm_groups": norm_groups, "norm_eps": norm_eps}
        self.projection = nn.Conv2d(coarsest, channels, 1) if encoder_layers else None
        self.layers = nn.ModuleList(encoder() for _ in range(encoder_layers))
        self.coarsest_conv = ConvGroupNorm(channels if encoder_layers else coarsest, channels, 3, relu=True, **norms)
        self.lateral_convs = nn.ModuleList(ConvGroupNorm(c, channels, 1, **norms) for c in fine)
        self.output_convs = nn.ModuleList(ConvGroupNorm(channels, channels, 3, relu=True, **norms) for _ in fine)
        self.mask_features = nn.Conv2d(channels, mask_channels, 3, padding=1)

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Join the maps.

        Args:
            feature_maps: each (B, C, H, W), finest first.

        Returns:
            Mask features (B, mask_channels, H, W) at the size of the finest map, and the coarsest map: as it is, or
            refined by the encoder, (B, channels, H, W).
        """
        *fine, coarsest = feature_maps
        if self.projection is not None:
            coarsest = self._refined(self.projection(coarsest))
        x = self.coarsest_conv(coarsest)
        steps = zip(reversed(fine), reversed(self.lateral_convs), reversed(self.output_convs), strict=True)
        for finer, lateral, output in steps:
            finer = lateral(finer)
            x = output(finer + resize(x, finer.shape[-2:], mode="nearest"))
        return self.mask_features(x), coarsest

    def _refined(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        positions = to_tokens(sine_positions(height, width, x.shape[1], dtype=x.dtype, device=x.device))
        tokens = to_tokens(x)
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return to_map(tokens, (height, width))

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        blocks = (block.conv for block in (self.coarsest_conv, *self.lateral_convs, *self.output_convs))
        for conv in chain(blocks, (conv for conv in (self.projection, self.mask_features) if conv is not None)):
            init.kaiming_uniform_(conv.weight, a=1)  # what Caffe2 calls Xavier
            if conv.bias is not None:
                init.zeros_(conv.bias)
        for layer in self.layers:
            layer.reset()

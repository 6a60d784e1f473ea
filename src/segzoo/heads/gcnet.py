"""GCNet's head: one vector of the whole map, which is added to every pixel or scales it.

From "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond" (Cao et al., 2019),
https://arxiv.org/abs/1904.11492, as mmsegmentation's ``GCHead`` trains it.
"""

from typing import Literal, Self

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.context import ContextHead, ContextHeadConfig
from segzoo.layers import ChannelNorm, to_tokens
from segzoo.layers.conv import Conv2d
from segzoo.layers.initial import reset_as_torch

FusionType = Literal["channel_add", "channel_mul"]


@strict
class GCHeadConfig(ContextHeadConfig):
    """Options of ``GCHead``, besides those of ``FCNHeadConfig``.

    Args:
        ratio: width of the layer between the map's vector and what is made of it, as a part of ``channels``.
        pooling_type: the map's vector is a mean of its pixels with learnt weights ("att"), or with equal ones ("avg").
        fusion_types: what becomes of it: a vector that is added to every pixel ("channel_add"), factors of the
            channels ("channel_mul"), which come first, or both.

    Raises:
        SegZooError: the layer would have no channel, or ``fusion_types`` is empty.
    """

    model_type = "segzoo_gc_head"

    ratio: float = 0.25
    pooling_type: Literal["att", "avg"] = "att"
    fusion_types: list[FusionType] | tuple[FusionType, ...] = ("channel_add",)

    def check(self) -> None:
        """There is a layer of one channel at least, and a use for the vector."""
        super().check()
        if self.width < 1:
            raise SegZooError(
                f"GCHeadConfig: ratio={self.ratio} of channels={self.channels} is no channel; give a larger ratio"
            )
        if not self.fusion_types:
            raise SegZooError("GCHeadConfig: fusion_types is empty; name channel_add, channel_mul or both")

    @property
    def width(self) -> int:
        """Channels of the layer between the map's vector and what is made of it."""
        return int(self.channels * self.ratio)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[32], in_index=[2], channels=16, fusion_types=["channel_add", "channel_mul"], num_labels=5
        )


class VectorTransform(nn.Module):
    """Two 1x1 convolutions of a map's vector, with a layer norm between them; at first its result is 0.

    Args:
        channels: of the vector.
        width: channels between the convolutions.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.reduction = Conv2d(channels, width, 1)
        self.norm = ChannelNorm(width)
        self.expansion = Conv2d(width, channels, 1)

    def forward(self, vector: Tensor) -> Tensor:
        """(B, channels, 1, 1) -> (B, channels, 1, 1)."""
        return self.expansion(F.relu(self.norm(self.reduction(vector))))

    def reset(self) -> None:
        """Initialise the layers as the original does."""
        reset_as_torch(self.reduction)
        init.ones_(self.norm.weight)
        init.zeros_(self.norm.bias)
        init.zeros_(self.expansion.weight)
        init.zeros_(self.expansion.bias)


class GlobalContextBlock(nn.Module):
    """Pools a map to a vector, and adds what it makes of it to every pixel, or scales the channels with it.

    Args:
        config: the head's options.
    """

    def __init__(self, config: GCHeadConfig):
        super().__init__()
        channels, width, uses = config.channels, config.width, config.fusion_types
        self.mask = Conv2d(channels, 1, 1) if config.pooling_type == "att" else None
        self.factor = VectorTransform(channels, width) if "channel_mul" in uses else None
        self.summand = VectorTransform(channels, width) if "channel_add" in uses else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)."""
        vector = self.pool(x)
        if self.factor is not None:
            x = x * self.factor(vector).sigmoid()
        return x if self.summand is None else x + self.summand(vector)

    def pool(self, x: Tensor) -> Tensor:
        """The vector of a map, (B, channels, 1, 1)."""
        if self.mask is None:
            return x.mean((2, 3), keepdim=True)
        shares = self.mask(x).flatten(2).softmax(dim=-1)
        return (shares @ to_tokens(x)).mT.unsqueeze(-1)


class GCHead(ContextHead):
    """`ContextHead` with a `GlobalContextBlock`."""

    config: GCHeadConfig

    def build_context(self, config: GCHeadConfig) -> GlobalContextBlock:
        return GlobalContextBlock(config)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VectorTransform):
            module.reset()
        elif isinstance(module, GlobalContextBlock) and module.mask is not None:
            init.kaiming_normal_(module.mask.weight, mode="fan_in", nonlinearity="relu")


register_head(GCHeadConfig, GCHead)

"""EMANet's head: pixels are rebuilt from a few bases, which expectation-maximisation fits to each picture.

From "Expectation-Maximization Attention Networks for Semantic Segmentation" (Li et al., ICCV 2019),
https://arxiv.org/abs/1907.13426, as mmsegmentation's ``EMAHead`` trains it.
"""

import math
from typing import Self

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import in_float32, without_autocast


@strict
class EMAHeadConfig(OneMapHeadConfig):
    """Options of ``EMAHead``, besides those of ``OneMapHeadConfig``.

    Args:
        ema_channels: width of the pixels that are rebuilt, and of the bases.
        num_bases: number of bases.
        num_stages: rounds of expectation and maximisation, 1 at least.
        concat_input: whether the result is concatenated with the input and fused by another convolution.
        momentum: share of a training batch's bases in the bases that the next picture begins with, in 0..1.

    Raises:
        SegZooError: ``num_stages`` is 0, or ``momentum`` is no share.
    """

    model_type = "segzoo_ema_head"

    ema_channels: int = 512
    num_bases: int = 64
    num_stages: int = 3
    concat_input: bool = True
    momentum: float = 0.1

    def check(self) -> None:
        """There is a round, and ``momentum`` is in 0..1."""
        super().check()
        if self.num_stages < 1 or not 0.0 <= self.momentum <= 1.0:
            raise SegZooError(
                f"EMAHeadConfig: num_stages={self.num_stages} must be 1 at least, momentum={self.momentum} between 0 and 1"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, ema_channels=32, num_bases=8, num_labels=5)


class ExpectationMaximization(nn.Module):
    """Rebuilds a map from bases that it fits to it; no gradient passes.

    The bases that every picture begins with are a buffer. In training each batch moves it, by the mean over the
    pictures of all processes, which therefore must all run the layer.

    Args:
        channels: channels of the map.
        num_bases: number of bases.
        num_stages: rounds of assigning pixels to bases and making bases means of their pixels.
        momentum: share of a batch's bases in the buffer's.
    """

    def __init__(self, channels: int, num_bases: int, num_stages: int, momentum: float) -> None:
        super().__init__()
        self.num_stages, self.momentum = num_stages, momentum
        self.register_buffer("bases", torch.empty(1, channels, num_bases))
        self.reset()

    def reset(self) -> None:
        """Begin with random directions."""
        init.normal_(self.bases, std=math.sqrt(2 / self.bases.shape[-1]))
        init.copy_(self.bases, F.normalize(self.bases, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape, each pixel a mean of bases, weighted with its shares in them."""
        pixels, bases = in_float32(x.detach().flatten(2), self.bases)
        bases = bases.expand(pixels.shape[0], -1, -1)
        with without_autocast(x.device):
            for _ in range(self.num_stages):
                shares = (pixels.mT @ bases).softmax(dim=2)  # (B, H * W, num_bases)
                means = (pixels @ shares) / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
                bases = F.normalize(means, dim=1)
            rebuilt = bases @ shares.mT
        if self.training:
            self._move(bases)
        return rebuilt.view_as(x).to(x.dtype)

    def _move(self, bases: Tensor) -> None:
        mean = bases.mean(dim=0, keepdim=True)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(mean)
            mean = mean / distributed.get_world_size()
        mean = F.normalize(mean, dim=1)
        self.bases.copy_((1 - self.momentum) * self.bases + self.momentum * mean)


class EMAHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution.

    ``middle_conv``, which lets the pixels' features be negative, keeps the weights that it begins with.
    """

    config: EMAHeadConfig

    def __init__(self, config: EMAHeadConfig):
        super().__init__(config)
        channels, inner, width = sum(config.in_channels), config.ema_channels, config.channels
        self.pixel_conv = config.block(channels, inner, 3, padding=1)
        self.middle_conv = nn.Conv2d(inner, inner, kernel_size=1).requires_grad_(False)
        self.attention = ExpectationMaximization(inner, config.num_bases, config.num_stages, config.momentum)
        self.attention_conv = config.block(inner, inner, 1, activation=None)
        self.output_conv = config.block(inner, width, 3, padding=1)
        self.conv_cat = config.block(channels + width, width, 3, padding=1) if config.concat_input else None
        self.post_init()

    def train(self, mode: bool = True) -> Self:
        """As of every module; ``middle_conv`` stays frozen."""
        super().train(mode)
        self.middle_conv.requires_grad_(False)  # again, because loading weights makes all parameters trainable
        return self

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ExpectationMaximization):
            module.reset()

    def features(self, x: Tensor) -> Tensor:
        pixels = self.pixel_conv(x)
        rebuilt = self.attention(self.middle_conv(pixels.detach()))
        found = self.output_conv(F.relu(pixels + self.attention_conv(F.relu(rebuilt))))
        return found if self.conv_cat is None else self.conv_cat(torch.cat([x, found], dim=1))


register_head(EMAHeadConfig, EMAHead)

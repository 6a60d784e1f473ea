"""Norms: batch norm that fits gradient checkpointing, group norm of 32 groups, layer norm of maps, RMS norm of tokens."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from segzoo.errors import SegZooError


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that is correct under gradient checkpointing and explains what is wrong with a batch of one.

    Checkpointing runs a block's forward a second time inside backward; plain BatchNorm would then move its running
    statistics twice a step. Here the second run leaves them alone.

    Raises:
        SegZooError: in training, an input with a single value per channel, such as one image pooled to 1x1.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise SegZooError(
                "batch normalisation cannot train on one image whose feature map is 1x1 (global pooling); "
                "use a batch of at least 2 a process, drop the last incomplete batch, or put the norms in eval mode"
            )
        mean, var, momentum = self.running_mean, self.running_var, self.momentum
        recomputed = (
            self.training and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        ) and self.track_running_stats
        mixed = self.affine and mean is not None and self.weight.dtype != mean.dtype
        if not recomputed and not mixed:
            return super().forward(x)
        if recomputed:
            # Copies, because the checkpoint expects the second run to save the same kinds of tensors as the first.
            mean, var, momentum = mean.clone(), var.clone(), 0.0
        elif self.training:
            self.num_batches_tracked.add_(1)
        # FSDP2 in mixed precision casts weights for the forward, and not the statistics.
        weight, bias = (p.to(mean.dtype) if mixed else p for p in (self.weight, self.bias))
        return F.batch_norm(x, mean, var, weight, bias, self.training, momentum, self.eps)


def set_norm_momentum(modules: Iterable[nn.Module], momentum: float) -> None:
    """Gives the batch norms in these modules this share of the new batch in their running statistics."""
    for module in modules:
        for norm in module.modules():
            if isinstance(norm, BatchNorm2d):
                norm.momentum = momentum


class GroupNorm(nn.GroupNorm):
    """Group normalisation of a map (B, C, H, W), in 32 groups as in its paper and in mmsegmentation's configs.

    From "Group Normalization" (Wu & He, 2018), https://arxiv.org/abs/1803.08494.

    Args:
        channels: channels of the map.
        eps: added to the variance.
        groups: number of groups, each of ``channels / groups`` channels.

    Raises:
        SegZooError: the channels do not divide into the groups.
    """

    def __init__(self, channels: int, *, eps: float, groups: int = 32):
        if channels % groups:
            raise SegZooError(
                f"group normalisation splits channels into {groups} groups, which {channels} channels do not divide into; "
                "choose another width, or batch_norm"
            )
        super().__init__(groups, channels, eps=eps)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of a map (B, C, H, W), computed in float32 at least."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RMSNorm(nn.Module):
    """Division of tokens (..., C) by their root mean square, and a learned factor per channel.

    From "Root Mean Square Layer Normalization" (Zhang & Sennrich, 2019), https://arxiv.org/abs/1910.07467, with the
    rounding of InternViT: computed in float32 at least, rounded to the input's dtype, and then multiplied by the
    factors. ``nn.RMSNorm`` multiplies before it rounds.

    Args:
        channels: width of the tokens.
        eps: added to the mean square.
    """

    def __init__(self, channels: int, *, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        normalised = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normalised.to(x.dtype)

    def extra_repr(self) -> str:
        """The width and the epsilon, for ``print(model)``."""
        return f"{self.weight.shape[0]}, eps={self.eps}"

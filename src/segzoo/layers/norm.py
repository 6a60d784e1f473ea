"""Norms of maps: batch norm that fits gradient checkpointing, and group norm of 32 groups."""

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
        if not self.training:
            return super().forward(x)
        if x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise SegZooError(
                "batch normalisation cannot train on one image whose feature map is 1x1 (global pooling); "
                "use a batch of at least 2 a process, drop the last incomplete batch, or put the norms in eval mode"
            )
        recomputed = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if recomputed and self.track_running_stats:
            # Copies, because the checkpoint expects the second run to save the same kinds of tensors as the first.
            mean, var = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(x, mean, var, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)


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

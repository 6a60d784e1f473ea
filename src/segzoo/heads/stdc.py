"""STDC's boundary head, which teaches a backbone's fine map where classes meet. It has no part in inference.

From "Rethinking BiSeNet For Real-time Semantic Segmentation" (Fan et al., 2021), https://arxiv.org/abs/2104.13188, in
the form of mmsegmentation's ``STDCHead`` (https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.fcn import FCNHead, FCNHeadConfig
from segzoo.layers import resize
from segzoo.losses import CrossEntropyLoss, DiceLoss

_LAPLACIAN = [[[[-1.0, -1.0, -1.0], [-1.0, 8.0, -1.0], [-1.0, -1.0, -1.0]]]]
# Shares of the boundaries that are found at full, half and quarter resolution.
_SHARES = [[[[0.6]], [[0.3]], [[0.1]]]]
_NONE_IGNORED = -100


@strict
class STDCHeadConfig(FCNHeadConfig):
    """Options of ``STDCHead``, besides those of ``FCNHeadConfig``.

    Args:
        own_outputs: 2: no boundary, and boundary.
        losses: of the logits against the boundaries of the labels.
        boundary_threshold: a pixel belongs to a boundary if the Laplacian of the class ids there, and then the sum of
            its shares over the three resolutions, exceeds this.

    Raises:
        SegZooError: ``own_outputs`` is not 2 at least.
    """

    model_type = "segzoo_stdc_head"

    own_outputs: int | None = 2
    losses: list | tuple = (CrossEntropyLoss(sigmoid=True), DiceLoss())
    boundary_threshold: float = 0.1

    def check(self) -> None:
        """There is an output for either target."""
        super().check()
        if self.own_outputs is None or self.own_outputs < 2:
            raise SegZooError(
                f"STDCHeadConfig: own_outputs={self.own_outputs} must be 2 at least: no boundary, and boundary"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16], in_index=[0], channels=8, num_convs=1, concat_input=False, num_labels=5)


class Boundaries(nn.Module):
    """Where the class ids of labels are larger than around them, at full, half and quarter resolution.

    Its kernels are state, as in the original, whose checkpoints hold them. They are not trained.

    Args:
        threshold: what the Laplacian of the ids, and then the sum of the shares of the resolutions, has to exceed.
    """

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.register_buffer("laplacian_kernel", torch.tensor(_LAPLACIAN))
        self.register_buffer("fusion_kernel", torch.tensor(_SHARES))

    def forward(self, labels: Tensor) -> Tensor:
        """Class ids (B, H, W), int64 -> (B, H, W), bool. Beyond the image's borders all ids are 0."""
        ids, kernel = labels[:, None].float(), self.laplacian_kernel.float()
        # A boundary at quarter resolution alone has the share 0.1, and in float32 that does not exceed 0.1. So the
        # comparison is made in float32, or in the half precision to which the kernel was rounded.
        dtype = self.fusion_kernel.dtype if self.fusion_kernel.dtype.itemsize < 4 else torch.float32
        threshold = torch.tensor(self.threshold, dtype=dtype, device=labels.device).float()
        total = torch.zeros_like(ids)
        with torch.autocast(labels.device.type, enabled=False):
            for stride, share in zip((1, 2, 4), self.fusion_kernel.float().unbind(1), strict=True):
                found = F.conv2d(ids, kernel, stride=stride, padding=1) > threshold
                total = total + share * resize(found.float(), ids.shape[-2:], mode="nearest")
        return (total > threshold)[:, 0]


class STDCHead(FCNHead):
    """An `FCNHead` whose losses compare its logits with the boundaries of the labels."""

    config: STDCHeadConfig

    def __init__(self, config: STDCHeadConfig):
        super().__init__(config)
        self.boundaries = Boundaries(config.boundary_threshold)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Boundaries):
            init.copy_(module.laplacian_kernel, torch.tensor(_LAPLACIAN))
            init.copy_(module.fusion_kernel, torch.tensor(_SHARES))

    @property
    def has_loss(self) -> bool:
        """True: the head makes its targets from labels of any classes."""
        return True

    def targets(self, labels: Tensor, ignore_index: int) -> tuple[Tensor, int]:
        """1 on the boundaries of the labels, and otherwise 0; and the id of pixels that do not count.

        As in the original, ids are plain numbers, that of ignored pixels included. Where a batch has ignored pixels
        alone, none of its pixels counts.

        Args:
            labels: class ids (B, H, W), int64.
            ignore_index: id of the pixels that do not count.
        """
        counted = (labels != ignore_index).any()
        return torch.where(counted, self.boundaries(labels).long(), _NONE_IGNORED), _NONE_IGNORED


register_head(STDCHeadConfig, STDCHead)

"""Online hard example mining: only the pixels that a model finds hard enter its loss.

From "Training Region-based Object Detectors with Online Hard Example Mining" (Shrivastava et al., 2016),
https://arxiv.org/abs/1604.03540, in the form of mmsegmentation's ``OHEMPixelSampler``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from segzoo.losses.base import count, flag, number
from segzoo.sizes import MAX_SIZE

_MAX_PIXELS = MAX_SIZE**2  # of the largest picture


@dataclass(frozen=True, kw_only=True)
class Ohem:
    """Which pixels count as hard, and so enter the loss.

    Args:
        threshold: a pixel is hard if the probability of its true class is below this, in 0..1. None makes the
            ``min_kept`` pixels per image with the largest losses hard.
        min_kept: number of pixels per image, counted over the whole batch, that are always kept: where fewer lie below
            the threshold, it is raised until that many do.
        per_batch: ``min_kept`` is the number of a whole batch, whatever its size.

    Raises:
        SegZooError: ``threshold`` is not in 0..1, or ``min_kept`` is no number of pixels that a picture can have.
    """

    threshold: float | None = None
    min_kept: int = 100_000
    per_batch: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None:
            value = number(self.threshold, "ohem: threshold", at_least=0.0, at_most=1.0)
            object.__setattr__(self, "threshold", value)
        count(self.min_kept, "ohem: min_kept", at_most=_MAX_PIXELS)
        flag(self.per_batch, "ohem: per_batch")

    @torch.no_grad()
    def keep(self, pixel_losses: Tensor, probabilities: Tensor, valid: Tensor) -> Tensor:
        """The mask (B, H, W), bool, of the pixels that enter the loss.

        Args:
            pixel_losses: loss of each pixel (B, H, W), by which pixels are ranked where there is no threshold.
            probabilities: probability of each pixel's true class (B, H, W), in 0..1, which is compared with the
                threshold.
            valid: True for the pixels (B, H, W) that are not ignored.
        """
        wanted = self.min_kept if self.per_batch else self.min_kept * len(valid)
        if self.threshold is None:
            ranked = torch.where(valid, pixel_losses, -torch.inf).flatten()
            kept = torch.zeros_like(valid).flatten()
            kept[ranked.topk(min(wanted, ranked.numel())).indices] = True
            return kept.view_as(valid) & valid
        candidates = probabilities[valid]
        if candidates.numel() == 0:
            return valid
        # Pixels strictly below the (wanted + 1)-th smallest are exactly as many as wanted, but never all of them.
        limit = candidates.kthvalue(min(wanted + 1, candidates.numel())).values.clamp(min=self.threshold)
        return valid & (probabilities < limit)

"""Online hard example mining: only the pixels that a model finds hard enter its loss.

From "Training Region-based Object Detectors with Online Hard Example Mining" (Shrivastava et al., 2016),
https://arxiv.org/abs/1604.03540, in the form of mmsegmentation's ``OHEMPixelSampler``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from segzoo.errors import SegZooError
from segzoo.losses.base import number


@dataclass(frozen=True, kw_only=True)
class Ohem:
    """Which pixels are kept.

    Args:
        threshold: pixels whose true class has a probability below it are hard. None: the pixels with the largest losses
            are, ``min_kept`` for each image.
        min_kept: as many pixels for each image (counted over the whole batch) are kept in any case; with a threshold, it
            rises until that many lie below it.

    Raises:
        SegZooError: a threshold that is no probability, or a number of pixels below 1.
    """

    threshold: float | None = None
    min_kept: int = 100_000

    def __post_init__(self) -> None:
        if self.threshold is not None:
            value = number(self.threshold, "ohem: threshold", at_least=0.0, at_most=1.0)
            object.__setattr__(self, "threshold", value)
        if type(self.min_kept) is not int or self.min_kept < 1:
            raise SegZooError(
                f"ohem: min_kept={self.min_kept!r} must be a number of pixels for each image, 1 at least"
            )

    @torch.no_grad()
    def keep(self, pixel_losses: Tensor, probabilities: Tensor, valid: Tensor) -> Tensor:
        """The mask (B, H, W), bool, of the pixels that enter the loss.

        Args:
            pixel_losses: loss of each pixel (B, H, W); ranks the pixels where there is no threshold.
            probabilities: of each pixel's true class (B, H, W), in 0..1; compared with the threshold where there is one.
            valid: the pixels (B, H, W), bool, that are not ignored.
        """
        wanted = self.min_kept * len(valid)
        if self.threshold is None:
            ranked = torch.where(valid, pixel_losses, -torch.inf).flatten()
            kept = torch.zeros_like(valid).flatten()
            kept[ranked.topk(min(wanted, ranked.numel())).indices] = True
            return kept.view_as(valid) & valid
        candidates = probabilities[valid]
        if candidates.numel() == 0:
            return valid
        # Strictly below the (wanted + 1)-th smallest: exactly as many as wanted, and never quite all pixels.
        limit = candidates.kthvalue(min(wanted + 1, candidates.numel())).values.clamp(min=self.threshold)
        return valid & (probabilities < limit)

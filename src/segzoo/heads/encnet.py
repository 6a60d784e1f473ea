"""EncNet's head: what a picture shows, as a vector, says which channels of its features count.

From "Context Encoding for Semantic Segmentation" (Zhang et al., CVPR 2018), https://arxiv.org/abs/1803.08904, as
mmsegmentation's ``EncHead`` trains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import FusionConv, in_float32, to_tokens, without_autocast
from segzoo.layers.conv import build_norm
from segzoo.losses import CrossEntropyLoss
from segzoo.losses.base import factor


@strict
class EncHeadConfig(HeadConfig):
    """Options of ``EncHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the maps; the last one is encoded, and those before it count with ``add_lateral`` only.
        num_codes: number of code words, the vectors that pixels are compared with.
        add_lateral: fuse the encoded map with the maps before it, resized to it.
        use_se_loss: train the head to tell from the encoding which classes the picture shows.
        se_loss_weight: weight of that loss, "presence".

    Raises:
        SegZooError: ``se_loss_weight`` is no weight.
    """

    model_type = "segzoo_enc_head"

    in_index: Ints | None = (-1,)
    channels: int = 512
    num_codes: int = 32
    add_lateral: bool = False
    use_se_loss: bool = True
    se_loss_weight: float = 0.2

    def check(self) -> None:
        """``se_loss_weight`` is a weight."""
        super().check()
        factor(self.se_loss_weight, "EncHeadConfig: se_loss_weight")

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16, 32], in_index=[1, 2], channels=16, add_lateral=True, num_labels=5)


@dataclass
class EncHeadOutput(HeadOutput):
    """Output of ``EncHead``.

    Args:
        presence: a score before the sigmoid for each class, whether the picture shows it, (batch, num_labels); None
            without ``use_se_loss``.
    """

    presence: torch.FloatTensor | None = None


class Encoding(nn.Module):
    """How a map's pixels lie around learned code words.

    A pixel belongs to each code word by a softmax over its squared distances from them, each times a learned factor;
    of each code word it is the sum of its pixels' offsets from it. Distances and sums are products of matrices, in
    float32 at least, so that nothing of pixels x codes x channels is ever held.

    Args:
        channels: channels of the map.
        num_codes: number of code words.
    """

    def __init__(self, channels: int, num_codes: int) -> None:
        super().__init__()
        self.codewords = nn.Parameter(torch.empty(num_codes, channels))
        self.scale = nn.Parameter(torch.empty(num_codes))
        self.reset()

    def reset(self) -> None:
        """Begin with small code words, and factors in -1..0."""
        bound = self.codewords.numel() ** -0.5
        init.uniform_(self.codewords, -bound, bound)
        init.uniform_(self.scale, -1.0, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, num_codes, channels)."""
        pixels, codewords, scale = in_float32(to_tokens(x), self.codewords, self.scale)
        with without_autocast(x.device):
            lengths = pixels.square().sum(dim=2, keepdim=True)
            distances = lengths - 2 * pixels @ codewords.mT + codewords.square().sum(dim=1)
            shares = (scale * distances).softmax(dim=2)  # (B, H * W, num_codes)
            offsets = shares.mT @ pixels - shares.sum(dim=1).unsqueeze(2) * codewords
        return offsets.to(x.dtype)


class EncHead(Head):
    """Reads one map, and others beside it with ``add_lateral``, and returns logits at the last one's resolution."""

    config: EncHeadConfig

    def __init__(self, config: EncHeadConfig):
        super().__init__(config)
        *others, last = config.in_channels
        width, block, options = config.channels, config.block, config.block_options
        self.reduction = block(last, width, 3, padding=1)
        self.laterals, self.fusion = nn.ModuleList(), None
        if config.add_lateral:
            self.laterals.extend(block(channels, width, 1) for channels in others)
            options["align_corners"] = config.align_corners
            self.fusion = FusionConv(len(config.in_channels) * width, width, 3, padding=1, **options)
        self.encoding_conv = block(width, width, 1)
        self.encoding = Encoding(width, config.num_codes)
        self.codes_norm = build_norm(config.norm, config.num_codes, eps=config.norm_eps, momentum=config.norm_momentum)
        self.gate = nn.Linear(width, width)
        self.presence = nn.Linear(width, config.num_outputs) if config.use_se_loss else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Encoding):
            module.reset()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> EncHeadOutput:
        """As `Head.forward`; the output has the presence of classes too."""
        *others, last = self.select(feature_maps)
        x = self.reduction(last)
        if self.fusion is not None:
            x = self.fusion([x, *(lateral(y) for lateral, y in zip(self.laterals, others, strict=True))])
        codes = self.encoding(self.encoding_conv(x)).unsqueeze(3)  # a norm's channels are the codes
        encoded = F.relu(self.codes_norm(codes)).squeeze(3).mean(dim=1)
        x = F.relu(x + x * self.gate(encoded).sigmoid()[:, :, None, None])
        presence = None if self.presence is None else self.presence(encoded)
        return EncHeadOutput(logits=self.classify(x), presence=presence)

    def compute_loss(self, output: EncHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """As `Head.compute_loss`, and "presence", the mean over pictures and classes.

        A picture shows the classes of its pixels that count. One without any adds 0 to the sum, for nothing is known
        of it.
        """
        parts = super().compute_loss(output, labels, ignore_index)
        if output.presence is None or not self.has_loss:
            return parts
        shown = classes_shown(labels, output.presence.shape[1], ignore_index)
        targets = torch.where(shown.any(dim=1, keepdim=True), shown.long(), -1)
        loss = CrossEntropyLoss(sigmoid=True, weight=self.config.se_loss_weight)  # of each picture and class
        return parts | {
            "presence": loss(output.presence.reshape(-1, 1, 1, 1), targets.view(-1, 1, 1), ignore_index=-1)
        }


def classes_shown(labels: Tensor, num_labels: int, ignore_index: int) -> Tensor:
    """Which classes each picture shows, bool (B, num_labels).

    Args:
        labels: class ids (B, H, W), int64.
        num_labels: number of classes.
        ignore_index: id of the pixels that do not count.
    """
    ids = torch.where(labels == ignore_index, num_labels, labels).flatten(1)
    shown = torch.zeros(len(labels), num_labels + 1, dtype=torch.bool, device=labels.device)
    return shown.scatter(1, ids, True)[:, :num_labels]


register_head(EncHeadConfig, EncHead)

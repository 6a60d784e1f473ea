"""SegNeXt's head: pixels are rebuilt from a few non-negative bases, which a factorisation fits to each picture.

The factorisation is that of "Is Attention Better Than Matrix Decomposition?" (Geng et al., ICLR 2021),
https://arxiv.org/abs/2109.04553, in the small head of "SegNeXt: Rethinking Convolutional Attention Design for Semantic
Segmentation" (Guo et al., 2022), https://arxiv.org/abs/2209.08575, as its authors' and mmsegmentation's
``LightHamHead`` train it.
"""

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import FusionConv, in_float32, without_autocast
from segzoo.layers.conv import Conv2d

_MAX_STEPS = 1000


@strict
class HamHeadConfig(HeadConfig):
    """Options of ``HamHead``, besides those of ``HeadConfig``.

    Args:
        norm_groups: number of groups of group norms.
        ham_channels: width of the pixels that are rebuilt.
        num_bases: number of bases.
        num_parts: number of parts of equal width that a pixel is cut into, each with bases of its own.
        train_steps: number of updates of shares and bases in training; 1000 at most.
        eval_steps: the same in evaluation.

    Raises:
        SegZooError: a number is out of range, or ``ham_channels`` do not divide into the parts.
    """

    model_type = "segzoo_ham_head"

    norm: Literal["batch_norm", "group_norm"] | None = "group_norm"
    norm_groups: int = 32
    ham_channels: int = 512
    num_bases: int = 64
    num_parts: int = 1
    train_steps: int = 6
    eval_steps: int = 7

    def check(self) -> None:
        """There is a base, parts are of equal width, and the steps are few."""
        super().check()
        for name in ("norm_groups", "num_bases", "num_parts"):
            if getattr(self, name) < 1:
                raise SegZooError(f"HamHeadConfig: {name}={getattr(self, name)} must be 1 at least")
        if self.ham_channels % self.num_parts:
            raise SegZooError(
                f"HamHeadConfig: ham_channels={self.ham_channels} do not divide into num_parts={self.num_parts}"
            )
        for name in ("train_steps", "eval_steps"):
            if not 0 <= getattr(self, name) <= _MAX_STEPS:
                raise SegZooError(f"HamHeadConfig: {name}={getattr(self, name)} must be between 0 and {_MAX_STEPS}")

    @property
    def block_options(self) -> dict[str, Any]:
        """As of every config of blocks, with the number of groups."""
        return super().block_options | {"norm_groups": self.norm_groups}

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[8, 12],
            in_index=[0, 1],
            channels=12,
            norm_groups=4,
            ham_channels=16,
            num_bases=5,
            num_parts=2,
            num_labels=5,
        )


class NonNegativeFactorization(nn.Module):
    """Rebuilds a map without negative values as a product of two small non-negative matrices that it fits to it.

    The fit begins with random bases. While training these are new for each image of each batch. In evaluation they
    come from a generator with a fixed seed and are the same for each image, so that a picture gives the same result
    each time and in any batch; compiled, exported and traced graphs hold them as a constant.

    Args:
        channels: channels of the map.
        num_bases: number of bases.
        num_parts: number of parts of equal width that pixels are cut into, each with bases of its own.
        train_steps, eval_steps: number of updates while training and in evaluation.
    """

    seed: ClassVar[int] = 0
    epsilon: ClassVar[float] = 1e-6

    def __init__(self, channels: int, num_bases: int, num_parts: int, train_steps: int, eval_steps: int) -> None:
        super().__init__()
        self.shape = (num_parts, channels // num_parts, num_bases)
        self.train_steps, self.eval_steps = train_steps, eval_steps
        self.register_buffer("constant_bases", torch.empty(self.shape), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Set the constant to what evaluation draws."""
        init.copy_(self.constant_bases, self._drawn())

    def _drawn(self) -> Tensor:
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(self.seed), device="cpu")

    def _first_bases(self, x: Tensor) -> Tensor:
        """Non-negative bases (B * num_parts, C / num_parts, num_bases) of norm 1, for maps (B, C, H, W)."""
        parts, *shape = self.shape
        if self.training:
            bases = torch.rand((x.shape[0] * parts, *shape), device=x.device).to(x.dtype)
        else:
            constant = torch.compiler.is_compiling() or is_exporting() or torch.jit.is_tracing()
            bases = (self.constant_bases if constant else self._drawn()).to(x)
            bases = bases.expand(x.shape[0], -1, -1, -1).flatten(0, 1)
        return F.normalize(bases, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W), 0 or above -> the same shape."""
        (exact,) = in_float32(x)
        bases = self._first_bases(exact)
        pixels = exact.reshape(-1, self.shape[1], x.shape[2] * x.shape[3])
        with without_autocast(x.device):
            shares = (pixels.mT @ bases).softmax(dim=2)  # (B * num_parts, H * W, num_bases)
            for _ in range(self.train_steps if self.training else self.eval_steps):
                shares = self._updated(shares, pixels.mT, bases)
                bases = self._updated(bases, pixels, shares)
            shares = self._updated(shares, pixels.mT, bases)
            rebuilt = bases @ shares.mT
        return rebuilt.view(x.shape).to(x.dtype)

    def _updated(self, factor: Tensor, product: Tensor, other: Tensor) -> Tensor:
        """One factor (N, I, R), nearer to ``product`` (N, I, J) = factor @ other.mT; ``other`` is (N, J, R)."""
        return factor * (product @ other) / (factor @ (other.mT @ other) + self.epsilon)


class HamHead(Head):
    """Reads several maps, the finest first, and returns logits at the first one's resolution."""

    config: HamHeadConfig

    def __init__(self, config: HamHeadConfig):
        super().__init__(config)
        inner = config.ham_channels
        self.squeeze = FusionConv(
            sum(config.in_channels), inner, 1, align_corners=config.align_corners, **config.block_options
        )
        self.ham_in = Conv2d(inner, inner, 1)
        self.factorization = NonNegativeFactorization(
            inner, config.num_bases, config.num_parts, config.train_steps, config.eval_steps
        )
        self.ham_out = config.block(inner, inner, 1, activation=None)
        self.align = config.block(inner, config.channels, 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NonNegativeFactorization):
            module.reset()

    def features(self, *maps: Tensor) -> Tensor:
        x = self.squeeze(list(maps))
        rebuilt = self.factorization(F.relu(self.ham_in(x)))
        return self.align(F.relu(x + self.ham_out(rebuilt)))


register_head(HamHeadConfig, HamHead)

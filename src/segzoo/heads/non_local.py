"""NonLocal Net's head: each pixel attends to all of them.

From "Non-local Neural Networks" (Wang et al., 2018), https://arxiv.org/abs/1711.07971, as mmsegmentation's ``NLHead``
trains it.
"""

from typing import Any, Self

from torch import nn

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.heads.context import ContextHead, ContextHeadConfig
from segzoo.layers.non_local import NonLocalBlock, PairFunction


@strict
class PairHeadConfig(ContextHeadConfig):
    """Options of the heads with a `NonLocalBlock` or one that derives from it, besides those of ``FCNHeadConfig``.

    Args:
        reduction: how many times narrower than ``channels`` queries, keys and values are.
        mode: how pixels are weighted for each other, as in `NonLocalBlock`.
        use_scale: the products of "embedded_gaussian" are divided by the root of the number of channels.
    """

    reduction: int = 2
    mode: PairFunction = "embedded_gaussian"
    use_scale: bool = True

    @property
    def pair_options(self) -> dict[str, Any]:
        """The block's keyword arguments, those of its norm included."""
        return {"reduction": self.reduction, "mode": self.mode, "use_scale": self.use_scale, **self.block_options}

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, num_labels=5)


class PairHead(ContextHead):
    """`ContextHead` with a `NonLocalBlock` or one that derives from it."""

    config: PairHeadConfig

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NonLocalBlock):
            module.reset()


@strict
class NonLocalHeadConfig(PairHeadConfig):
    """Options of ``NonLocalHead``, besides those of ``PairHeadConfig``.

    Args:
        sub_sample: keys and values are the largest ones of squares of 2x2 pixels.
    """

    model_type = "segzoo_non_local_head"

    sub_sample: bool = False


class NonLocalHead(PairHead):
    """`ContextHead` with a `NonLocalBlock`."""

    config: NonLocalHeadConfig

    def build_context(self, config: NonLocalHeadConfig) -> NonLocalBlock:
        return NonLocalBlock(config.channels, sub_sample=config.sub_sample, **config.pair_options)


register_head(NonLocalHeadConfig, NonLocalHead)

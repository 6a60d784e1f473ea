"""NonLocal Net's head: each pixel attends to all of them.

From "Non-local Neural Networks" (Wang et al., 2018), https://arxiv.org/abs/1711.07971, as mmsegmentation's ``NLHead``
trains it.
"""

from typing import Self

from huggingface_hub.dataclasses import strict
from torch import nn

from segzoo.auto import register_head
from segzoo.heads.context import ContextHead, ContextHeadConfig
from segzoo.layers.non_local import NonLocalBlock, PairFunction


@strict
class NonLocalHeadConfig(ContextHeadConfig):
    """Options of ``NonLocalHead``, besides those of ``FCNHeadConfig``.

    Args:
        reduction: how many times narrower than ``channels`` queries, keys and values are.
        mode: how pixels are weighted for each other, as in `NonLocalBlock`.
        use_scale: the products of "embedded_gaussian" are divided by the root of the number of channels.
        sub_sample: keys and values are the largest ones of squares of 2x2 pixels.
    """

    model_type = "segzoo_non_local_head"

    reduction: int = 2
    mode: PairFunction = "embedded_gaussian"
    use_scale: bool = True
    sub_sample: bool = False

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, num_labels=5)


class NonLocalHead(ContextHead):
    """`ContextHead` with a `NonLocalBlock`."""

    config: NonLocalHeadConfig

    def build_context(self, config: NonLocalHeadConfig) -> NonLocalBlock:
        return NonLocalBlock(
            config.channels,
            reduction=config.reduction,
            mode=config.mode,
            use_scale=config.use_scale,
            sub_sample=config.sub_sample,
            **config.block_options,
        )

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NonLocalBlock):
            module.reset()


register_head(NonLocalHeadConfig, NonLocalHead)

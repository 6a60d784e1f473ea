"""DNLNet's head: attention of pixels to what sets the others apart, beside a mean that is the same for all.

From "Disentangled Non-Local Neural Networks" (Yin et al., 2020), https://arxiv.org/abs/2006.06668, as mmsegmentation's
``DNLHead`` trains it.
"""

from typing import Literal, Self

from huggingface_hub.dataclasses import strict
from torch import nn

from segzoo.auto import register_head
from segzoo.errors import SegZooError
from segzoo.heads.context import ContextHead, ContextHeadConfig
from segzoo.layers.non_local import DisentangledNonLocalBlock


@strict
class DNLHeadConfig(ContextHeadConfig):
    """Options of ``DNLHead``, besides those of ``FCNHeadConfig``.

    Args:
        reduction: how many times narrower than ``channels`` queries, keys and values are.
        mode: how pixels are weighted for each other, as in `NonLocalBlock`.
        use_scale: the products of "embedded_gaussian" are divided by the root of the number of channels.
        temperature: by which the products of "embedded_gaussian" are divided too.

    Raises:
        SegZooError: ``temperature`` is not positive.
    """

    model_type = "segzoo_dnl_head"

    reduction: int = 2
    mode: Literal["embedded_gaussian", "dot_product", "concatenation"] = "embedded_gaussian"
    use_scale: bool = True
    temperature: float | int = 0.05

    def check(self) -> None:
        """``temperature`` is positive."""
        super().check()
        if not self.temperature > 0:
            raise SegZooError(f"DNLHeadConfig: temperature={self.temperature} must be positive")

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, num_labels=5)


class DNLHead(ContextHead):
    """`ContextHead` with a `DisentangledNonLocalBlock`."""

    config: DNLHeadConfig

    def build_context(self, config: DNLHeadConfig) -> DisentangledNonLocalBlock:
        return DisentangledNonLocalBlock(
            config.channels,
            temperature=config.temperature,
            reduction=config.reduction,
            mode=config.mode,
            use_scale=config.use_scale,
            **config.block_options,
        )

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DisentangledNonLocalBlock):
            module.reset()


register_head(DNLHeadConfig, DNLHead)

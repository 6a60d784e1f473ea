"""DNLNet's head: attention of pixels to what sets the others apart, beside a mean that is the same for all.

From "Disentangled Non-Local Neural Networks" (Yin et al., 2020), https://arxiv.org/abs/2006.06668, as mmsegmentation's
``DNLHead`` trains it.
"""

from typing import Literal

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.non_local import PairHead, PairHeadConfig
from segzoo.layers.non_local import DisentangledNonLocalBlock


@strict
class DNLHeadConfig(PairHeadConfig):
    """Options of ``DNLHead``, besides those of ``PairHeadConfig``, of whose modes there is no "gaussian".

    Args:
        temperature: by which the products of "embedded_gaussian" are divided too.

    Raises:
        SegZooError: ``temperature`` is not positive.
    """

    model_type = "segzoo_dnl_head"

    mode: Literal["embedded_gaussian", "dot_product", "concatenation"] = "embedded_gaussian"
    temperature: float = 0.05

    def check(self) -> None:
        """``temperature`` is positive."""
        super().check()
        if not self.temperature > 0:
            raise SegZooError(f"DNLHeadConfig: temperature={self.temperature} must be positive")


class DNLHead(PairHead):
    """`ContextHead` with a `DisentangledNonLocalBlock`."""

    config: DNLHeadConfig

    def build_context(self, config: DNLHeadConfig) -> DisentangledNonLocalBlock:
        return DisentangledNonLocalBlock(config.channels, temperature=config.temperature, **config.pair_options)


register_head(DNLHeadConfig, DNLHead)

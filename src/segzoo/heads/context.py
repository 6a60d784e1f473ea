"""What NonLocal, GCNet, DNLNet and CCNet share: FCN's head with a block between its convolutions."""

from torch import Tensor, nn

from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.fcn import FCNHead, FCNHeadConfig


@strict
class ContextHeadConfig(FCNHeadConfig):
    """Options of the heads that derive from `ContextHead`: those of ``FCNHeadConfig``.

    Raises:
        SegZooError: there is no convolution, after the first of which the block would stand.
    """

    channels: int = 512

    def check(self) -> None:
        """There is a first convolution."""
        super().check()
        if self.num_convs < 1:
            raise SegZooError(
                f"{type(self).__name__}: num_convs={self.num_convs}, but the head's block reads the first convolution's "
                "output; give 1 at least"
            )


class ContextHead(FCNHead):
    """Reads one map, or the concatenation of several, and returns logits at its resolution.

    A block that brings each pixel what it needs of the others stands after the first of FCN's convolutions.
    """

    config: ContextHeadConfig

    def __init__(self, config: ContextHeadConfig):
        super().__init__(config)
        self.context = self.build_context(config)
        self.post_init()  # of the block; all else is initialised already

    def build_context(self, config: ContextHeadConfig) -> nn.Module:
        """The block, from (B, channels, H, W) to the same shape."""
        raise SegZooError(f"{type(self).__name__} has no `build_context` of its own")

    def features(self, x: Tensor) -> Tensor:
        first, *others = self.convs
        features = self.context(first(x))
        for conv in others:
            features = conv(features)
        return self.norm(self.beside_input(x, features))

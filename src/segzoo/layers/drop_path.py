"""Stochastic depth."""

from torchvision.ops import StochasticDepth


class DropPath(StochasticDepth):
    """Drops the whole residual branch of a sample with probability ``p`` while training, and scales the rest by 1/(1-p).

    From "Deep Networks with Stochastic Depth" (Huang et al., 2016), https://arxiv.org/abs/1603.09382.
    """

    def __init__(self, p: float):
        super().__init__(p=p, mode="row")

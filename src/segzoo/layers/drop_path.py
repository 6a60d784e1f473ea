"""Stochastic depth: residual branches that are left out at random while training."""

from torchvision.ops import StochasticDepth


class DropPath(StochasticDepth):
    """While training drops a residual branch for each image with probability ``p``, else scales it by 1/(1-p).

    From "Deep Networks with Stochastic Depth" (Huang et al., 2016), https://arxiv.org/abs/1603.09382.
    """

    def __init__(self, p: float):
        super().__init__(p=p, mode="row")

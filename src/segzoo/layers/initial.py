"""Initial weights that several papers' code leaves to torch."""

import math

from torch import nn
from transformers import initialization as init


def reset_as_torch(layer: nn.Linear | nn.Conv2d) -> None:
    """Initialise a layer with a bias as torch itself does, where the original leaves it unchanged."""
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    bound = 1 / math.sqrt(layer.weight[0].numel())
    init.uniform_(layer.bias, -bound, bound)

"""Parameters that no loss depends on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segzoo.configuration_segzoo import input_channels


def freeze_unused_parameters(model: nn.Module, crop_size: Sequence[int] | None = None) -> list[str]:
    """Leave out of the training what gets no gradient, such as a backbone's stages behind the maps that the heads read.

    Processes that train together wait for the gradient of every parameter that is trained, and for these in vain.

    Args:
        model: takes ``pixel_values`` and ``labels``, and returns a ``loss``; it is asked once, about a small image.
        crop_size: (height, width) of the training crops in pixels, if they may be smaller than that image.

    Returns:
        Names of the parameters that were frozen.
    """
    channels = input_channels(model.config)
    size = [min(side, 128) for side in crop_size or (128, 128)]
    trains = model.training
    model.eval()  # fixed-size models take smaller images then, and no statistics move
    with torch.random.fork_rng(), torch.enable_grad():
        labels = torch.zeros(1, *size, dtype=torch.int64, device=model.device)
        pixel_values = torch.rand(1, channels, *size, device=model.device, dtype=model.dtype)
        used = _parameters_of(model(pixel_values=pixel_values, labels=labels).loss)
    model.train(trains)
    frozen = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in used]
    for name in frozen:
        model.get_parameter(name).requires_grad = False
    return frozen


def _parameters_of(loss: Tensor) -> set[int]:
    """The ids of all leaves that the gradient of a loss reaches."""
    leaves, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # it adds to a leaf's gradient
            leaves.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return leaves

"""Parameters that the loss does not depend on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segzoo.backbones import Backbone
from segzoo.configuration_segzoo import input_channels
from segzoo.inference.settings import fixed_input_size


def freeze_unused_parameters(model: nn.Module, crop_size: Sequence[int] | None = None) -> list[str]:
    """Freeze the parameters that get no gradient, such as those of backbone stages after the last map that a head
    reads.

    Processes that train together wait for the gradient of every trainable parameter; for these they would wait for
    ever.

    Args:
        model: takes ``pixel_values`` and ``labels``, and returns a ``loss``; it is called once, with one image.
        crop_size: (height, width) of the training crops in pixels, which the image has; with backbones of segzoo, that
            take any size in eval mode, it is at most 128 x 128. None: 128 x 128, or what the model takes alone.

    Returns:
        Names of the parameters that were frozen.
    """
    channels = input_channels(model.config)
    size = crop_size or fixed_input_size(model.config) or (128, 128)
    if isinstance(getattr(model, "backbone", None), Backbone):
        size = [min(side, 128) for side in size]
    trains = model.training
    model.eval()  # running statistics stay
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
    """The ``id`` of every leaf tensor that the gradient of the loss reaches."""
    leaves, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # a node that accumulates a leaf's gradient
            leaves.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return leaves

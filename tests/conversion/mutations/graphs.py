"""What a model computes, as a list of operators: without weights, at any width, in a fraction of a second."""

import hashlib
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.images.resizing import round_up


class Recorder(TorchDispatchMode):
    """Writes every operator down, with its numbers, and where each of its tensors comes from: a parameter or an operator."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names, self.kept, self.count, self.hash = names, [], 0, hashlib.sha256()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.hash.update(repr((str(func), self.written(args), self.written(list((kwargs or {}).items())))).encode())
        self.count += 1
        for i, result in enumerate(out if isinstance(out, (list, tuple)) else [out]):
            if isinstance(result, torch.Tensor) and id(result) not in self.names:
                self.names[id(result)] = f"{self.count}.{i}"
                self.kept.append(result)  # so that no other tensor takes its id
        return out

    def written(self, value: Any) -> Any:
        """An argument, with names in place of tensors."""
        if isinstance(value, torch.Tensor):
            return self.names.get(id(value), "constant"), tuple(value.shape), value.dtype
        return [self.written(one) for one in value] if isinstance(value, (list, tuple)) else value


def graph(config: SegZooConfig, side: int = 416) -> str:
    """A hash of what a model of this config computes of a picture, its auxiliary heads and the resizing of logits included.

    Args:
        config: the model's.
        side: height of the picture, in pixels, unless it must be another.
    """
    size = tuple(round_up(length, config.size_multiple) for length in (side, side + 64))
    if config.window_size is not None and config.size_multiple == 1:
        size = tuple(config.window_size)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        model = SegZooForSemanticSegmentation(config).eval()
        picture = torch.zeros(1, getattr(config.backbone_config, "num_channels", 3), *size)
        tensors = (*model.named_parameters(), *model.named_buffers())
        with Recorder({id(tensor): f"{name} {tuple(tensor.shape)}" for name, tensor in tensors}) as recorder:
            maps, _ = model.forward_maps(picture)
            for head, out in zip(model.decode_heads, model.decode(maps), strict=True):
                nn.functional.interpolate(out.logits, size, mode="bilinear", align_corners=head.config.align_corners)
            for head in model.auxiliary_heads:
                head(maps)
    return recorder.hash.hexdigest()

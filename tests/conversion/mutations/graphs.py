"""What a model computes, as a list of operators: without weights, at any width, in a fraction of a second."""

import hashlib
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.conversion.plan import build_without_weights
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


class AllHeads(nn.Module):
    """A model with its auxiliary heads, whose logits are resized to the picture."""

    def __init__(self, model: SegZooForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(self, picture: torch.Tensor) -> None:
        maps, _ = self.model.forward_maps(picture)
        heads = [*self.model.decode_heads, *self.model.auxiliary_heads]
        outputs = [*self.model.decode(maps), *(head(maps) for head in self.model.auxiliary_heads)]
        for head, out in zip(heads, outputs, strict=True):
            align = head.config.align_corners
            nn.functional.interpolate(out.logits, picture.shape[2:], mode="bilinear", align_corners=align)


def graph(config: SegZooConfig, side: int = 416) -> str:
    """A hash of what a model of this config computes of a picture, its auxiliary heads and the resizing of logits included.

    Args:
        config: the model's.
        side: height of the picture, in pixels, unless it must be another.
    """
    size = tuple(round_up(length, config.size_multiple) for length in (side, side + 64))
    if config.window_size is not None and config.size_multiple == 1:
        size = tuple(config.window_size)
    model = build_without_weights(config).eval()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        picture = torch.zeros(1, getattr(config.backbone_config, "num_channels", 3), *size)
        tensors = {
            name: torch.zeros(tensor.shape, dtype=tensor.dtype)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        with Recorder({id(tensor): f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()}) as recorder:
            inside = {f"model.{name}": tensor for name, tensor in tensors.items()}
            torch.func.functional_call(AllHeads(model), inside, (picture,), tie_weights=False)
    return recorder.hash.hexdigest()

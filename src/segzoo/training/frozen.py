"""Frozen backbones, and checkpoints that leave them out."""

import json
from pathlib import Path

import torch
import xxhash
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from segzoo.errors import SegZooError
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation
from segzoo.training.sync_norms import freeze_batch_norms

BACKBONE = "backbone."
FROZEN = "frozen.json"
"""File of a checkpoint without the frozen backbone: a hash of the weights that belong to it."""


def freeze_backbone(model: nn.Module) -> None:
    """Freeze the backbone of a model, which stays in evaluation mode if the model is segzoo's (see `hold_still`).

    Raises:
        SegZooError: the model is one of transformers without a backbone of its own.
    """
    if isinstance(model, SegZooForSemanticSegmentation):
        model.freeze_backbone()
    elif isinstance(getattr(model, "backbone", None), nn.Module):
        model.backbone.requires_grad_(False)
    else:
        raise SegZooError(
            f"--freeze_backbone: {type(model).__name__} has no part that is its backbone; train all of it, or a model with one"
        )


def hold_still(model: nn.Module, *, backbone: bool, norms: bool) -> None:
    """Put the backbone, or all batch norms, of a model in training mode into evaluation mode.

    ``model.train()`` undoes this for norms and for models of transformers, so call it again afterwards.
    """
    if backbone:
        model.backbone.eval()
    if norms:
        freeze_batch_norms(model)


def fingerprint(backbone: nn.Module) -> str:
    """A hash of the names, types and values of a backbone's weights and buffers."""
    found = xxhash.xxh3_128()
    for name, tensor in backbone.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


class TrainedPart:
    """Lets the checkpoints of an accelerator leave out a frozen backbone, and takes such checkpoints.

    Args:
        accelerator: the accelerator that has prepared the model, or will.
        model: the model with the frozen ``backbone``, not wrapped.
        saved_alone: new checkpoints leave the backbone out; otherwise they hold the whole model.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, *, saved_alone: bool):
        self.accelerator, self.backbone = accelerator, model.backbone
        self._hash: str | None = None
        if saved_alone:
            accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def _fingerprint(self) -> str:
        if self._hash is None:  # frozen weights stay as they are
            self._hash = fingerprint(self.backbone)
        return self._hash

    def _prefix(self, model: nn.Module) -> str:
        """The beginning of the backbone's names in a model that may be wrapped."""
        return next(f"{name}." for name, module in model.named_modules() if module is self.backbone)

    def _save(self, models: list[nn.Module], weights: list[dict[str, Tensor]], output_dir: str) -> None:
        for i, model in enumerate(models):
            prefix = self._prefix(model)
            kept = {name: tensor for name, tensor in weights[i].items() if not name.startswith(prefix)}
            weights[i] = {name: tensor.contiguous() for name, tensor in kept.items()}  # safetensors takes no others
        if self.accelerator.is_main_process:
            (Path(output_dir) / FROZEN).write_text(json.dumps({"xxh3_128": self._fingerprint()}), encoding="utf-8")

    def _load(self, models: list[nn.Module], input_dir: str) -> None:
        """Load a checkpoint without the backbone; any other is left to accelerate.

        Raises:
            ValueError: it belongs to another backbone.
        """
        if not (Path(input_dir) / FROZEN).is_file():
            return
        saved = json.loads((Path(input_dir) / FROZEN).read_text(encoding="utf-8"))["xxh3_128"]
        if saved != self._fingerprint():
            raise ValueError("it was written without the frozen backbone, and belongs to one with other weights")
        (model,) = models
        own = {name: x for name, x in model.state_dict().items() if name.startswith(self._prefix(model))}
        model.load_state_dict(own | load_file(Path(input_dir) / "model.safetensors"))
        models.clear()  # accelerate loads those that are left

"""The memory of a training on each GPU, calculated from a model on the meta device: no weight is read or allocated."""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from segzoo.compat import checkpoint_activations
from segzoo.configuration_segzoo import input_channels
from segzoo.errors import SegZooError, first_line
from segzoo.training.frozen import freeze_backbone
from segzoo.training.recipes.recipe import Recipe

_FLOAT32, _HALF = 4, 2


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a training is divided over GPUs, and what a GPU is given at a time.

    Args:
        size: (height, width) of the crops, in pixels.
        batch_size: crops on each GPU at a time.
        world_size: number of GPUs.
        sharding: ``"ddp"``, the whole model on each GPU, or ``"fsdp"``, a part of it.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``.
        gradient_checkpointing: blocks keep their input alone, and run again in the backward pass.
    """

    size: tuple[int, int]
    batch_size: int
    world_size: int = 1
    sharding: str = "ddp"
    precision: str = "no"
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on each GPU; the libraries' own, about 1 GB, and gaps in the memory are left out.

    Args:
        parameters: weights and buffers; those that are trained in float32.
        gradients: gradients of the trained weights.
        optimizer: what the optimizer keeps of the trained weights, and the average of the weights if there is one.
        communication: DDP's copies of the gradients; or the blocks that FSDP brings together: the largest two, and
            what belongs to no block.
        activations: the largest amount during forward and backward pass, half-precision copies of weights included.
        has_loss: False if the loss cannot be calculated without values, and is not part of the activations.
    """

    parameters: int
    gradients: int
    optimizer: int
    communication: int
    activations: int
    has_loss: bool = True

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.parameters + self.gradients + self.optimizer + self.communication + self.activations


def training_footprint(model: nn.Module, recipe: Recipe, setup: Setup) -> Footprint:
    """Calculate the memory of a training on each GPU.

    Args:
        model: a segmentation model on the meta device; the recipe's frozen backbone is frozen in it.
        recipe: names the optimizer, whether the backbone is frozen, and whether weights are averaged.
        setup: the crops and the GPUs.

    Raises:
        SegZooError: the model does not take crops of this size, or cannot be frozen.
    """
    if recipe.freeze_backbone:
        freeze_backbone(model)
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    parts = setup.world_size if setup.sharding == "fsdp" else 1
    weights = sum(_share(p, parts) * (_FLOAT32 if p.requires_grad else p.element_size()) for p in parameters)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    gradients = sum(_share(p, parts) for p in trained) * _FLOAT32
    kept = 2 if recipe.optimizer != "sgd" else int(recipe.momentum > 0)
    average = weights + buffers if recipe.ema_decay else 0
    communication = 0
    if setup.world_size > 1:
        whole = sum(p.numel() for p in trained) * _FLOAT32
        communication = _gathered(model, setup) if setup.sharding == "fsdp" else whole
    activations, has_loss = _activations(model, setup)
    return Footprint(
        parameters=weights + buffers,
        gradients=gradients,
        optimizer=kept * gradients + average,
        communication=communication,
        activations=activations,
        has_loss=has_loss,
    )


def _share(parameter: nn.Parameter, parts: int) -> int:
    """Elements of a parameter in the first of so many processes; FSDP divides the first dimension."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // parts) * (parameter.numel() // max(rows, 1))


def _gathered(model: nn.Module, setup: Setup) -> int:
    """Bytes of the weights that FSDP holds whole at a time: two blocks, this one and the next, and all else."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    blocks = [sum(p.numel() for p in m.parameters()) for m in model.modules() if type(m).__name__ in names]
    rest = max(0, sum(p.numel() for p in model.parameters()) - sum(blocks))
    return (rest + sum(sorted(blocks)[-2:])) * (_FLOAT32 if setup.precision == "no" else _HALF)


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live.

    Args:
        known: tensors that do not count, nor do their views.
    """

    def __init__(self, known: Sequence[Tensor] = ()):
        super().__init__()
        self.live = self.peak = 0
        self._storages = {tensor.untyped_storage()._cdata for tensor in known}
        self._known = list(known)  # so that no other storage gets their address

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its new tensors."""
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._storages:
            return
        self._storages.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self.live -= size


def _activations(model: nn.Module, setup: Setup) -> tuple[int, bool]:
    """The peak of forward and backward pass in bytes, and whether the loss is part of it."""
    for with_loss in (True, False):
        try:
            return _peak(model, setup, with_loss=with_loss), with_loss
        except SegZooError:
            raise
        except (RuntimeError, ValueError, NotImplementedError) as error:
            problem = error
    height, width = setup.size
    raise SegZooError(
        f"the model does not take crops of {height}x{width} ({first_line(problem)}); choose another --size"
    ) from problem


def _peak(model: nn.Module, setup: Setup, *, with_loss: bool) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True), _in_training(model, setup):
        states = {name: torch.empty(x.shape, dtype=x.dtype, device="cpu") for name, x in model.named_buffers()}
        for name, p in model.named_parameters():
            dtype = torch.float32 if p.requires_grad else p.dtype
            states[name] = torch.empty(p.shape, dtype=dtype, device="cpu", requires_grad=p.requires_grad)
            if p.requires_grad:  # gradients are counted elsewhere
                states[name].register_post_accumulate_grad_hook(_drop_gradient)
        with LiveMemory(list(states.values())) as memory:
            channels = input_channels(model.config)
            inputs = {"pixel_values": torch.empty(setup.batch_size, channels, *setup.size)}
            if with_loss:
                inputs["labels"] = torch.zeros(setup.batch_size, *setup.size, dtype=torch.int64)
            torch.func.functional_call(_Step(model, setup.precision), _within_step(states), kwargs=inputs)
    return memory.peak


class _Step(nn.Module):
    """A forward and a backward pass as one, for which other weights can stand in: checkpointing runs blocks in both."""

    def __init__(self, model: nn.Module, precision: str):
        super().__init__()
        self.model, self.half = model, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def forward(self, **inputs: Tensor) -> None:
        with torch.autocast("cpu", dtype=self.half, enabled=self.half is not None):
            output = self.model(**inputs)
        (output.loss if "labels" in inputs else output.logits.float().sum()).backward()


def _within_step(states: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in states.items()}


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@contextlib.contextmanager
def _in_training(model: nn.Module, setup: Setup) -> Iterator[None]:
    was_training = model.training
    model.train()
    if setup.gradient_checkpointing:
        checkpoint_activations(model)
    try:
        yield
    finally:
        if setup.gradient_checkpointing:
            checkpoint_activations(model, enabled=False)
        model.train(was_training)

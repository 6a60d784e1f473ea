"""Batch norms in several processes: statistics over all processes, or at least the same statistics in each."""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.errors import SegZooError
from segzoo.layers import BatchNorm2d

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm2d)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation over all processes that updates its running statistics once per step.

    Like `segzoo.layers.BatchNorm2d` it does not update them when gradient checkpointing repeats the forward inside
    backward.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        recomputed = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not (recomputed and self.training and self.track_running_stats):
            return super().forward(x)
        own = dict(self._buffers)
        self._buffers.update({name: buffer.clone() for name, buffer in own.items()})
        try:
            return super().forward(x)
        finally:
            self._buffers.update(own)


def synchronise_batch_norms(model: nn.Module) -> nn.Module:
    """Let every batch norm of a model compute its statistics over all processes, for training on GPUs.

    Call it before the optimizer is made and before ``accelerator.prepare``. Parameters, buffers and their names stay
    the same, so checkpoints and saved models fit both forms; in eval mode the results do not change. PyTorch has no
    such norm for CPUs: do not convert the model there. `torch.nn.SyncBatchNorm.convert_sync_batchnorm` would do the
    same but lose what subclasses of BatchNorm add; here segzoo's own keep it, and timm's are converted by timm.

    Args:
        model: changed in place.

    Returns:
        The model; a new module only if the model itself is a batch norm.

    Raises:
        SegZooError: the model has a subclass of BatchNorm that cannot be converted without changing its results.
    """
    done: dict[nn.Module, nn.Module] = {}  # a norm that is used in two places stays a single module
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, _BatchNorm):
            if module not in done:
                done[module] = _converted(module)
            if name == "":
                return done[module]
            model.set_submodule(name, done[module])
    return model


def freeze_batch_norms(model: nn.Module) -> None:
    """Let the batch norms of a model in training mode use their running statistics without updating them.

    ``model.train()`` undoes this, so call it again afterwards. The norms' weights and biases still learn.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def broadcast_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Copy the main process's buffers (running statistics of norms) to every process; every process calls this.

    Without synchronised norms each process has statistics of its own; call this before an evaluation that the
    processes share, so that all of them score the model that will be saved.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def _converted(norm: _BatchNorm) -> nn.Module:
    if isinstance(norm, nn.SyncBatchNorm):
        return norm
    if type(norm).__module__.startswith("timm."):
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(norm)  # also those that hold an activation
    if type(norm) not in _PLAIN:
        raise SegZooError(
            f"{type(norm).__name__} is a batch norm of its own kind, which cannot be synchronised over processes; pass "
            "--no_sync_batch_norm"
        )
    sizes = (norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    result = SyncBatchNorm(*sizes, device="meta")
    for name in ("weight", "bias"):  # None without affine; newer versions of torch have norms without bias
        setattr(result, name, getattr(norm, name))
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(result, name, buffer)
    return result.train(norm.training)

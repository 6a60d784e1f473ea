"""Models whose weights are divided over the processes: FSDP2, on CPUs too, DeepSpeed, and what does not go with them."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from segzoo.errors import SegZooError
from segzoo.training.options import RunOptions
from segzoo.training.recipes.recipe import Recipe


def check_distribution(options: RunOptions, recipe: Recipe) -> None:
    """Check that the training works under the way of distribution that accelerate is set to.

    Raises:
        SegZooError: it is DeepSpeed or FSDP1, or options do not go with FSDP2.
    """
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise SegZooError(
            "accelerate is set to DeepSpeed, which segzoo train does not work with; take FSDP2 "
            "(examples/accelerate/fsdp2_8_gpus.yaml), or examples/run_semantic_segmentation_trainer.py with DeepSpeed"
        )
    if not _is_set("ACCELERATE_USE_FSDP"):
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise SegZooError(
            f"accelerate is set to FSDP{version}, which segzoo train does not work with; set fsdp_version: 2 in its config, as in "
            "examples/accelerate/fsdp2_8_gpus.yaml"
        )
    refused = {
        "ema_decay": recipe.ema_decay,
        "torch_compile": options.torch_compile,
        "save_trained_only": options.save_trained_only,
        "memory_format channels_last": options.memory_format == "channels_last",
    }
    for name, value in refused.items():
        if value:
            raise SegZooError(f"--{name} does not go with FSDP2; leave it out, or train with DDP")
    if not options.do_train:
        raise SegZooError("--do_eval alone does not go with FSDP2; evaluate without it, or with segzoo evaluate")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def load_in_every_process() -> None:
    """Let FSDP2 take the weights that every process has loaded; call this before the accelerator is made.

    With accelerate's own default the main process sends them to the others, which fails for models with buffers, such
    as running statistics.
    """
    if _is_set("ACCELERATE_USE_FSDP"):
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are divided over the processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def shard_on_cpus(accelerator: Accelerator) -> None:
    """Let an accelerator of several processes on CPUs divide the weights if it is set to FSDP.

    accelerate trains with DDP there and says nothing. Call this before anything is prepared.
    """
    if accelerator.distributed_type != DistributedType.MULTI_CPU or not _is_set("ACCELERATE_USE_FSDP"):
        return
    plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def whole_state(accelerator: Accelerator, model: nn.Module) -> dict[str, Any] | None:
    """The whole weights of a divided model, on the CPU of the main process and empty in the others.

    Every process calls this. None if the model is not divided.
    """
    if not is_sharded(accelerator):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def check_evaluates(accelerator: Accelerator) -> None:
    """Check that a model in training can be evaluated under accelerate's way of distribution.

    Raises:
        SegZooError: it is FSDP1.
    """
    if is_sharded(accelerator) and accelerator.state.fsdp_plugin.fsdp_version == 1:
        raise SegZooError("a model that FSDP1 divides cannot be evaluated; set fsdp_version: 2 in accelerate's config")


@contextlib.contextmanager
def gathered(accelerator: Accelerator, model: nn.Module) -> Iterator[nn.Module]:
    """A context in which every process has the whole model, and runs it as often as it likes.

    Every process enters it. A divided model runs in all processes together, as often in each; the pictures of an
    evaluation do not divide so evenly. The context gives the model to run: the given one or, under DeepSpeed's ZeRO-3,
    a whole copy.

    Raises:
        SegZooError: ZeRO-3 divides a model that is none of transformers' classes and thus cannot be copied.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        yield _whole_copy(model, plugin.hf_ds_config) if plugin.zero_stage == 3 else model
        return
    if not is_sharded(accelerator):
        yield model
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield model
    finally:
        for part in parts:
            again = part is not model and accelerator.state.fsdp_plugin.reshard_after_forward
            part.set_reshard_after_forward(bool(again), recurse=False)
            part.reshard()


def _whole_copy(model: nn.Module, settings: Any) -> nn.Module:
    """A model of the same weights that ZeRO-3 knows nothing about; the hooks of the given one would divide it again."""
    import deepspeed
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    if not isinstance(model, PreTrainedModel):
        raise SegZooError(
            f"a {type(model).__name__} that DeepSpeed's ZeRO-3 divides cannot be evaluated; take ZeRO-2, or evaluate the "
            "saved model with segzoo evaluate"
        )
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    unset_hf_deepspeed_config()  # transformers would divide new models too
    try:
        copy = type(model)(model.config)
    finally:
        set_hf_deepspeed_config(settings)
    copy.load_state_dict(state)
    return copy.to(next(iter(state.values())).device)

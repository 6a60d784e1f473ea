"""Where a training runs: its processes and their device, and the folder that it fills."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState

from segzoo.errors import SegZooError, first_line
from segzoo.hub import reserve_repository
from segzoo.inference.timing import FORMATS, has_bfloat16
from segzoo.memory import keep_freed_memory
from segzoo.precision_state import refuse_ignored_precision
from segzoo.progress import say
from segzoo.text import line_text
from segzoo.training.folder import claim_output_folder
from segzoo.training.options import RunOptions
from segzoo.training.processes import run_together
from segzoo.training.sharding import is_sharded, load_in_every_process, shard_on_cpus


def chosen_precision(device: torch.device) -> str:
    """The precision that ``auto`` is: ``"bf16"`` where the device computes in it, else ``"no"``.

    Where it does not, bfloat16 is emulated: a CPU with AVX2 alone took fourteen times as long as in float32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "cpu" and has_bfloat16() else "no"


class Surroundings:
    """The processes of a training, their device, and the output folder.

    Args:
        options: options of the run.
        mixed_precision: ``"no"``, ``"fp16"``, ``"bf16"`` or ``"auto"``, see `chosen_precision`; None: as accelerate is
            configured.

    Attributes:
        accelerator: the accelerator of the training.
        is_main: whether this is the main process.
        output_dir: the output folder.
        format_name: the memory format of images and convolutions, ``"contiguous"`` or ``"channels_last"``.
        measures_format: whether that is only where it begins, since the faster one is to be measured: on a CPU in float32
            or bfloat16, where it depends on processor and model, unless a format is asked for.

    Raises:
        SegZooError: the precision or the device cannot be had here, such as fp16 without a GPU, or another precision
            than that of an earlier training in this process.
    """

    def __init__(self, options: RunOptions, mixed_precision: str | None):
        self.options = options
        try:
            if mixed_precision == "auto":
                mixed_precision = chosen_precision(PartialState(cpu=options.use_cpu).device)
            load_in_every_process()
            self.accelerator = Accelerator(
                mixed_precision=mixed_precision,
                dynamo_backend="inductor" if options.torch_compile else None,
                cpu=options.use_cpu,
                log_with=list(options.report_to) if options.with_tracking else None,
                project_dir=options.output_dir,
            )
            refuse_ignored_precision(self.accelerator)
        except ValueError as error:
            asked = "" if mixed_precision is None else f"--mixed_precision {mixed_precision}: "
            raise SegZooError(
                f"{asked}cannot be used here ({first_line(error).rstrip('.')}); take another --mixed_precision, such as no, or a "
                "new process"
            ) from error
        # Steps divide by their number of parts themselves: a number from the environment would divide again.
        self.accelerator.gradient_accumulation_steps = 1
        shard_on_cpus(self.accelerator)
        self.is_main = self.accelerator.is_main_process
        self.output_dir = Path(options.output_dir)
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        self.format_name = options.memory_format
        self.measures_format = False
        if options.memory_format == "auto":
            # FSDP2 divides contiguous weights only.
            sharded = is_sharded(self.accelerator)
            precision = self.accelerator.mixed_precision
            self.measures_format = on_cpu and precision in ("no", "bf16") and not (sharded or options.torch_compile)
            self.format_name = "contiguous" if sharded or (on_cpu and precision == "no") else "channels_last"

    @property
    def channels_last(self) -> bool:
        """Whether images and convolutions are channels-last in memory."""
        return self.format_name == "channels_last"

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and convolutions."""
        return FORMATS[self.format_name]

    def together(self, action: Callable[[], Any], *, main_only: bool = False) -> Any:
        """Run an action in all processes, or in the main one; if it fails in one, all stop with its message."""
        return run_together(self.accelerator, action, main_only=main_only)

    def say(self, text: str) -> None:
        """Print a line, in the main process only."""
        if self.is_main:
            say(line_text(text))

    def claim(self, held: contextlib.ExitStack) -> None:
        """Claim the output folder until ``held`` closes, and create the repository: a wrong token fails now.

        Raises:
            SegZooError: the folder is in use or not to be overwritten, or the repository cannot be created.
        """
        options = self.options
        resume = options.resume_from_checkpoint is not None
        held.enter_context(claim_output_folder(self.output_dir, overwrite=options.overwrite_output_dir, resume=resume))
        if options.push_to_hub:
            token = options.hub_options["token"] or None
            reserve_repository(options.hub_model_id, private=options.hub_private_repo, token=token)

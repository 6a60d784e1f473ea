"""Fine-tune a model, evaluate it at original size, and save it as a model folder."""

import argparse
import gc
import os
import sys
from pathlib import Path

from segzoo.errors import SegZooError, first_line

EPILOG = """
A new model on a local folder (images/{split}, annotations/{split}), and the settings of a published model:

  segzoo train --dataset_name DATA --classes camvid --backbone resnet18_v1c --head uper --head_channels 64 \\
      --crop_size 192 256 --output_dir OUT
  segzoo train --dataset_name DATA --recipe upernet_internimage_t_512_160k_ade20k --model_name_or_path MODEL --output_dir OUT

On several GPUs: accelerate launch -m segzoo train ..., or torchrun --nproc_per_node 4 -m segzoo train ...
The options are those of transformers' run_semantic_segmentation scripts, and more.

exit status: 0; 1 after an error of the user, in one line; 75 after a stop by SIGTERM, SIGUSR1 or SIGHUP or after the end of the launcher, and
130 after Ctrl-C, with a checkpoint to go on from once steps are taken.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo train``, among them the fields of `segzoo.training.Recipe`."""
    from segzoo.training import arguments

    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    arguments.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train a model; returns the exit status.

    It is 0, or 1 after an error, which one process reports as one line on stderr, 75 after a stop by SIGTERM, SIGUSR1
    or SIGHUP or after the end of its launcher, and 130 after Ctrl-C.
    """
    import torch
    from accelerate import PartialState
    from transformers.utils.logging import disable_progress_bar

    from segzoo.progress import say
    from segzoo.shortages import shortage_of
    from segzoo.training.arguments import read_arguments
    from segzoo.training.processes import report_error, report_lost_process
    from segzoo.training.run import run_training
    from segzoo.training.signals import EXIT_STOPPED, StoppedBySignal

    disable_progress_bar()  # the bars of saving and loading weights would break the progress line
    try:
        run_training(*read_arguments(vars(args)))
    except StoppedBySignal as stopped:
        if PartialState().is_main_process:
            say(f"{stopped}; go on with --resume_from_checkpoint latest", stream=sys.stderr)
        return EXIT_STOPPED
    except SegZooError as error:
        if args.traceback or os.environ.get("SEGZOO_DEBUG", "0") not in ("", "0"):
            raise
        report_error(shortage_of(error) or str(error))
        return 1
    except torch.OutOfMemoryError as error:
        report_error(
            f"out of GPU memory ({first_line(error)}); lower --per_device_train_batch_size (the recipe's batch is kept in "
            "more passes) or --crop_size, or take --mixed_precision bf16 or --gradient_checkpointing"
        )
        return 1
    except (MemoryError, OSError, RuntimeError) as error:
        if report_lost_process(error):
            return 1
        shortage = shortage_of(error)
        if shortage is None:
            raise
        report_error(shortage)
        return 1
    except KeyboardInterrupt:
        say(f"interrupted; {_what_is_left(args.output_dir)}", stream=sys.stderr)
        return 130
    finally:
        if torch.distributed.is_initialized():
            gc.collect()  # the models go before their group, see run_training
            PartialState().destroy_process_group()  # gloo aborts noisily otherwise
    return 0


def _what_is_left(output_dir: str) -> str:
    """What a person can do after Ctrl-C."""
    from segzoo.training.checkpoints import list_checkpoints

    if list_checkpoints(output_dir):
        return "go on with --resume_from_checkpoint latest"
    if (Path(output_dir) / "config.json").is_file():
        return f"the trained model is whole in {output_dir}"
    return "nothing has been saved yet"

"""Fine-tune a semantic-segmentation model, evaluate it at original size, and save it as a Hugging Face model folder.

A new model on a local folder (images/{split}, annotations/{split}):

    accelerate launch examples/run_semantic_segmentation.py --dataset_name DATA --classes camvid \
        --backbone resnet18_v1c --head uper --head_channels 64 --crop_size 192 256 --output_dir OUT

An existing model with other classes, from a folder or the Hub: ``--model_name_or_path MODEL`` instead of ``--backbone``.
The options are those of transformers' run_semantic_segmentation_no_trainer.py, and more; plain ``python`` works too.
"""

import argparse
import contextlib
import sys
import time
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers.utils.logging import disable_progress_bar

import segzoo  # noqa: F401  registers the models
from segzoo.data import SegmentationDataset, build_processor_transform, load_segmentation_dataset
from segzoo.errors import SegZooError
from segzoo.evaluation import format_table
from segzoo.hub import push_folder
from segzoo.training import (
    EpochBatches,
    Progress,
    build_model,
    build_optimizer,
    build_processor,
    build_schedule,
    describe_training,
    draw_curves,
    draw_samples,
    evaluate,
    find_checkpoint,
    find_classes,
    load_checkpoint,
    prepare_output_folder,
    publish_model,
    remove_old_checkpoints,
    save_checkpoint,
    training_batches,
    training_transform,
    write_json,
)
from segzoo.training.arguments import build_parser, check_arguments, settings_for_card
from segzoo.training.output import FIGURES, LOG, RESULTS, write_log
from segzoo.training.reports import describe_inference


def main(argv: list[str] | None = None) -> int:
    """Run the script; the exit status is 1 after an error of the user, which is one line on stderr."""
    args = build_parser(__doc__).parse_args(argv)
    disable_progress_bar()  # of saving and loading weights: they would break the progress line
    try:
        train(args)
    except SegZooError as error:
        # A data-loading process sends its traceback inside the message; the last line is the error itself.
        message = str(error).strip().rpartition("SegZooError: ")[2] if "Traceback" in str(error) else str(error)
        print(f"error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; go on with --resume_from_checkpoint latest", file=sys.stderr)
        return 130
    return 0


def train(args: argparse.Namespace) -> dict:
    """Train, evaluate and save as the arguments say; returns the results that also stand in all_results.json."""
    check_arguments(args)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        log_with=args.report_to if args.with_tracking else None,
        project_dir=args.output_dir,
    )
    is_main = accelerator.is_main_process
    output_dir = Path(args.output_dir)
    if is_main:
        prepare_output_folder(
            output_dir, overwrite=args.overwrite_output_dir, resume=args.resume_from_checkpoint is not None
        )
    accelerator.wait_for_everyone()
    if args.seed is not None:
        set_seed(args.seed)
    say = print if is_main else (lambda *_: None)

    # Data, classes, model: every mistake that can be found here is found before the first step.
    train_rows, eval_rows = load_splits(args, accelerator)
    hub_options = {
        "token": args.hub_token,
        "revision": args.model_revision,
        "cache_dir": args.cache_dir,
        "trust_remote_code": args.trust_remote_code,
    }
    classes = find_classes(
        args.dataset_name,
        classes=args.classes,
        num_labels=args.num_labels,
        model_config=load_config(args, hub_options),
        reduce_labels=args.do_reduce_labels,
        token=args.hub_token,
    )
    num_labels, ignore_index = len(classes.id2label), args.ignore_index
    model = build_model(
        classes,
        model_name_or_path=args.model_name_or_path,
        config_name=args.config_name,
        backbone=args.backbone,
        head=args.head,
        head_channels=args.head_channels,
        auxiliary_channels=args.auxiliary_channels,
        class_weights=args.class_weights,
        ignore_index=ignore_index,
        hub_options=hub_options,
    )
    processor = build_processor(
        model,
        classes,
        image_processor_name=args.image_processor_name or args.model_name_or_path,
        scale_size=args.scale_size,
        ignore_index=ignore_index,
        hub_options=hub_options,
    )
    transform = training_transform(
        processor,
        crop_size=args.crop_size,
        scale_range=args.scale_range,
        cat_max_ratio=args.cat_max_ratio,
        photometric=not args.no_photometric_distortion,
        ignore_index=ignore_index,
    )
    train_data = SegmentationDataset(train_rows, transform, seed=args.seed or 0, num_labels=num_labels)
    eval_data = SegmentationDataset(
        eval_rows, build_processor_transform(processor, ignore_index=ignore_index), num_labels=num_labels
    )
    order = EpochBatches(
        len(train_data),
        args.per_device_train_batch_size,
        seed=args.seed or 0,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    steps_per_epoch = max(1, order.batches_per_epoch // args.gradient_accumulation_steps)
    total_steps = args.max_train_steps or max(
        1, int(args.num_train_epochs * order.batches_per_epoch) // args.gradient_accumulation_steps
    )
    evaluation_interval = interval(args.eval_steps, steps_per_epoch)
    checkpoint_interval = interval(args.checkpointing_steps, steps_per_epoch)
    for index in order.indices(0):
        train_data[index]  # decodes, transforms and checks the labels of the first batch
    eval_data[0]

    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    if args.sync_batch_norm and accelerator.device.type == "cpu":
        say("note: --sync_batch_norm does nothing on CPUs; each process normalises its own batch")
    elif args.sync_batch_norm and accelerator.num_processes > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.train()
    optimizer = build_optimizer(
        model,
        args.optimizer,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        betas=(args.adam_beta1, args.adam_beta2),
        epsilon=args.adam_epsilon,
        head_lr_multiplier=args.head_lr_multiplier,
        decay_norms=args.decay_norms,
    )
    schedule = build_schedule(
        optimizer,
        args.lr_scheduler_type,
        total_steps=total_steps,
        warmup_steps=args.num_warmup_steps,
        power=args.lr_power,
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    if args.seed is not None:
        set_seed(args.seed, device_specific=True)  # dropout differs between processes

    # Where an earlier run stopped.
    settings = settings_for_card(args, accelerator.num_processes, total_steps)
    first_step, history, seconds_before = 0, [], 0.0
    if args.resume_from_checkpoint is not None:
        checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint)
        if checkpoint is None and (output_dir / "config.json").is_file():
            raise SegZooError(f"{output_dir} holds a finished model and no checkpoint to go on from")
        if checkpoint is None:
            say(f"There is no checkpoint in {output_dir} yet: training starts from the beginning.")
        else:
            first_step, memory = load_checkpoint(accelerator, checkpoint)
            history, seconds_before = memory["history"], memory["seconds"]
            changed = [name for name, value in memory["settings"].items() if settings.get(name) != value]
            say(f"Resumed from {checkpoint} after step {first_step}.")
            if changed and is_main:
                warnings.warn(f"these settings differ from the resumed run's: {', '.join(changed)}", stacklevel=1)

    if args.with_tracking:
        accelerator.init_trackers("semantic_segmentation", {k: str(v) for k, v in settings.items()})
    say(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters, {num_labels} classes ({classes.source})"
        f"{', 0 = no class' if classes.reduce_labels else ''}; {len(train_data)} pictures to train on, {len(eval_data)} to "
        f"evaluate; {total_steps} steps of {order.round_size * args.gradient_accumulation_steps} pictures on "
        f"{accelerator.num_processes} x {accelerator.device.type}, {accelerator.mixed_precision} precision"
    )

    def run_evaluation():
        return evaluate(
            model,
            processor,
            eval_data,
            accelerator=accelerator,
            num_labels=num_labels,
            ignore_index=ignore_index,
            batch_size=args.per_device_eval_batch_size,
            num_workers=args.dataloader_num_workers,
            channels_last=args.channels_last,
        )

    # The training itself.
    start = time.perf_counter()
    progress = Progress(total_steps, enabled=is_main)
    batches = training_batches(
        train_data,
        order,
        first_batch=first_step * args.gradient_accumulation_steps,
        num_workers=args.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    loss_sum, loss_steps = torch.zeros((), device=accelerator.device), 0
    evaluation = None
    for step in range(first_step + 1, total_steps + 1):
        for part in range(args.gradient_accumulation_steps):
            batch = next(batches)
            pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
            if args.channels_last:
                pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
            labels = batch["labels"].to(accelerator.device, non_blocking=True)
            last = part == args.gradient_accumulation_steps - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(model):
                loss = model(pixel_values=pixel_values, labels=labels).loss / args.gradient_accumulation_steps
                accelerator.backward(loss)
            loss_sum += loss.detach()
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        learning_rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss_steps += 1
        progress.step(order.round_size * args.gradient_accumulation_steps)

        at_checkpoint = bool(checkpoint_interval) and (step % checkpoint_interval == 0 or step == total_steps)
        # A mean loss never reaches back over a checkpoint: a resumed training reports the same ones.
        if at_checkpoint or step % args.logging_steps == 0 or step == total_steps:
            mean_loss = float(accelerator.reduce(loss_sum, reduction="mean")) / loss_steps
            loss_sum, loss_steps = torch.zeros_like(loss_sum), 0
            if mean_loss != mean_loss or mean_loss in (float("inf"), float("-inf")):
                raise SegZooError(
                    f"the loss is {mean_loss} at step {step}; lower --learning_rate, or set --num_warmup_steps or "
                    "--max_grad_norm 1"
                )
            history.append(progress.report(step, mean_loss, learning_rate))
            if args.with_tracking:
                accelerator.log({"train_loss": mean_loss, "learning_rate": learning_rate}, step=step)
        if step == total_steps or (evaluation_interval and step % evaluation_interval == 0):
            evaluation = run_evaluation()
            scores = {f"eval_{name}": value for name, value in evaluation.summary().items()}
            history.append({"step": step, **scores})
            progress.message(
                f"evaluation after step {step}: mIoU {100 * scores['eval_mean_iou']:.2f} %, pixel accuracy "
                f"{100 * scores['eval_overall_accuracy']:.2f} %, {evaluation.num_images} images in {evaluation.seconds:.1f} s"
            )
            if args.with_tracking:
                accelerator.log(scores, step=step)
        if at_checkpoint:
            memory = {
                "history": history,
                "seconds": seconds_before + time.perf_counter() - start,
                "settings": settings,
            }
            save_checkpoint(accelerator, output_dir, step, memory)
            if is_main:
                remove_old_checkpoints(output_dir, args.save_total_limit)
        progress.restart_clock()
    progress.finish_line()
    if evaluation is None:  # resumed after the last step
        evaluation = run_evaluation()

    # Results: tables, pictures, and the model with its card.
    seconds = seconds_before + time.perf_counter() - start
    results = {f"eval_{name}": value for name, value in evaluation.summary().items()}
    for name, iou in zip(classes.names, evaluation.metrics["per_category_iou"].tolist(), strict=True):
        results[f"eval_iou_{name}"] = iou
    results["eval_pixels"] = int(evaluation.confusion.matrix.sum())  # that count, in all images
    losses = [entry["loss"] for entry in history if "loss" in entry]
    results |= {"train_loss": losses[-1] if losses else None, "train_steps": total_steps, "train_seconds": seconds}
    if is_main:
        print(format_table(evaluation.metrics, classes.names))
        write_json(output_dir / RESULTS, results)
        write_log(output_dir / LOG, history)
        dataset_title = classes.dataset or Path(args.dataset_name).name
        note = draw_curves(history, output_dir / FIGURES / "curves.png", title=dataset_title)
        if note:
            print(f"note: no curves: {note}")
        draw_samples(
            model,
            processor,
            eval_data,
            output_dir / FIGURES,
            accelerator=accelerator,
            names=classes.names,
            palette=classes.palette,
        )
        bare = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        is_local = Path(args.dataset_name).is_dir()
        card = describe_training(
            bare,
            evaluation,
            title=output_dir.resolve().name,
            dataset=dataset_title,
            dataset_id=None if is_local else args.dataset_name,
            inference=describe_inference(bare, processor),
            settings=settings | {"training time": f"{seconds / 60:.1f} minutes"},
            base_model=args.model_name_or_path if not Path(args.model_name_or_path or ".").is_dir() else None,
            synthetic=is_local and (Path(args.dataset_name) / "scenes.json").is_file(),
            repo_id=args.hub_model_id,
        )
        publish_model(bare, processor, output_dir, card)
        print(f"model, card, {RESULTS}, {LOG} and {FIGURES}/ are in {output_dir}")
        if args.push_to_hub:
            url = push_folder(
                output_dir,
                args.hub_model_id or output_dir.resolve().name,
                private=args.hub_private_repo,
                token=args.hub_token,
                ignore_patterns=["step_*", "step_*/*", ".*"],
            )
            print(f"pushed: {url}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return results


def load_splits(args: argparse.Namespace, accelerator: Accelerator):
    """The rows to train on and those to evaluate on; without a validation split, a part of the training rows."""
    with accelerator.main_process_first():
        splits = load_segmentation_dataset(
            args.dataset_name,
            args.dataset_config_name,
            image_column=args.image_column,
            label_column=args.label_column,
            cache_dir=args.cache_dir,
            token=args.hub_token,
        )
    if "train" not in splits:
        raise SegZooError(f"{args.dataset_name} has no train split; it has {', '.join(splits)}")
    train_rows = splits["train"]
    if "validation" in splits:
        eval_rows = splits["validation"]
    else:
        if len(train_rows) < 2:
            raise SegZooError(f"{args.dataset_name} has no validation split and too few pictures to set some aside")
        parts = train_rows.train_test_split(test_size=args.train_val_split, seed=args.seed or 0)
        train_rows, eval_rows = parts["train"], parts["test"]
    if args.max_train_samples is not None:
        train_rows = train_rows.shuffle(seed=args.seed or 0).select(
            range(min(args.max_train_samples, len(train_rows)))
        )
    if args.max_eval_samples is not None:
        eval_rows = eval_rows.shuffle(seed=args.seed or 0).select(range(min(args.max_eval_samples, len(eval_rows))))
    return train_rows, eval_rows


def load_config(args: argparse.Namespace, hub_options: dict):
    """The config of the model to fine-tune, whose classes stand in for those of data that does not name its own."""
    name = args.config_name or args.model_name_or_path
    if name is None:
        return None
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, **hub_options)
    except (OSError, ValueError) as error:
        raise SegZooError(f"cannot load {name}: {str(error).strip().splitlines()[0]}") from error


def interval(value: str | None, steps_per_epoch: int) -> int:
    """Steps between two events: a number, or "epoch"; 0 for never."""
    return steps_per_epoch if value == "epoch" else int(value or 0)


if __name__ == "__main__":
    sys.exit(main())

"""The options of a training that its recipe does not hold: model, data, batches, and what is saved when."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzoo.inference.settings import MEMORY_FORMATS
from segzoo.options import Flag, Options, option
from segzoo.sizes import MAX_SIZE
from segzoo.text import is_local_path, without_secrets
from segzoo.training.recipes.recipe import Recipe

UPSTREAM_MODEL, UPSTREAM_DATASET = "nvidia/mit-b0", "segments/sidewalk-semantic"

# The largest count: labels, seeds and sums of them fit into 32 bits.
_MAX_COUNT = 2**31 - 1

_NEW_PARTS = ("random_backbone", "head", "head_channels", "auxiliary_channels")

# What transformers' script trains with by default.
DEFAULTS = Recipe(
    name="default",
    source="the defaults of transformers' example scripts, with mmsegmentation's crops and scales",
    optimizer="adamw",
    learning_rate=5e-5,
    weight_decay=0.01,
    lr_scheduler_type="poly",
    num_train_epochs=3,
    crop_size=(512, 512),
    scale_range=(0.5, 2.0),
    cat_max_ratio=0.75,
)


@dataclass(frozen=True, kw_only=True)
class ModelSource(Options):
    """The model to train: an existing model, one from a config, or a new one around a backbone."""

    prefix = "--"

    model_name_or_path: str | None = option(
        None,
        "folder or Hub name of a model to fine-tune; the classifier keeps the rows of classes that have the same name (default, "
        f"without --backbone and --config_name: {UPSTREAM_MODEL})",
    )
    config_name: str | None = option(
        None, "folder or Hub name of a config; alone it makes a model with random weights"
    )
    image_processor_name: str | None = option(None, "folder or Hub name of an image processor other than the model's")
    model_revision: str = option("main", "branch, tag or commit of the model on the Hub")
    backbone: str | None = option(
        None,
        "new model: a name such as resnet50, vit-adapter-b or convnext_tiny, with the weights that are published for it (a line says "
        "which, or that there are none), or folder or Hub name of a backbone",
    )
    random_backbone: bool = option(False, "new model: the backbone begins with random weights")
    head: str | None = option(
        None, "new model: uper (default), fcn, psp, mask2former or another head, or linear to probe the last map"
    )
    head_channels: int | None = option(None, "new model: width of the head", above=0, at_most=MAX_SIZE)
    auxiliary_channels: int = option(
        0,
        "new model: width of an auxiliary FCN head for the training; mmsegmentation has 256",
        at_least=0,
        at_most=MAX_SIZE,
    )
    num_channels: int | None = option(
        None,
        "new model: channels of the pictures (default: 3, or those of a backbone with weights)",
        at_least=1,
        at_most=MAX_SIZE,
    )
    verify: bool = option(
        True,
        "compare weights with the hashes that were saved with them; --no_verify for those that were changed since",
    )
    trust_remote_code: bool = option(False, "run model code from the Hub")
    cache_dir: str | None = option(None, "where downloads are kept")

    def check_parts(self) -> None:
        """Check that parts of a new model are named for a new model alone.

        Raises:
            SegZooError: there is no backbone for them.
        """
        given = next((name for name in _NEW_PARTS if getattr(self, name)), None)
        old = self.model_name_or_path or self.config_name
        if given is not None and self.backbone is None and old is not None:
            self.refuse(
                f"{given} is for new models, and {old} has its parts already; leave it out, or give --backbone instead of {old}"
            )


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """The data, their classes, and how many pictures are used."""

    prefix = "--"

    dataset_name: str = option(
        UPSTREAM_DATASET,
        "a folder (images/{split}, annotations/{split}), ADE20K as tree or zip, Cityscapes, Pascal VOC, CamVid, .odgt lists, parquet, "
        f"webdataset, or a Hub name (default: {UPSTREAM_DATASET})",
    )
    dataset_config_name: str | None = option(None, "configuration of a Hub data set")
    image_column: str | None = option(None, "column of the pictures, if its name is unusual")
    label_column: str | None = option(None, "column of the masks, if its name is unusual")
    palette: str | None = option(
        None, "masks are painted in the colours of this file: name, r, g, b as JSON, CSV or TXT"
    )
    tile: int | None = option(None, "read large TIFF files by windows of so many pixels", at_least=1, at_most=MAX_SIZE)
    tile_stride: int | None = option(
        None, "pixels from one window to the next (default: --tile)", at_least=1, at_most=MAX_SIZE
    )
    classes: str | None = option(
        None, "a known data set (ade20k, cityscapes, camvid ...) or a JSON file of id and name"
    )
    num_labels: int | None = option(None, "number of classes, if they have no names", at_least=1, at_most=MAX_SIZE)
    do_reduce_labels: bool | None = option(
        None,
        "masks hold 0 for 'no class' and 1..n for the classes (default: as known of the data set)",
        flag=Flag(aliases=("reduce_labels",)),
    )
    ignore_index: int = option(255, "label of pixels that do not count", at_least=-_MAX_COUNT, at_most=_MAX_COUNT)
    train_val_split: float = option(0.15, "share set aside if there is no validation split", above=0, below=1)
    train_val_groups: str | None = option(
        None,
        "what pictures that stay on one side share: a regular expression for their path, such as '(patient[0-9]+)_'",
    )
    max_train_samples: int | None = option(None, "train on this many pictures only", above=0)
    max_eval_samples: int | None = option(None, "evaluate on this many pictures only", above=0)
    streaming: bool = option(False, "read the training data while training; needs a number of steps")
    shuffle_buffer: int = option(
        1000, "with --streaming: samples that are shuffled at a time", above=0, at_most=_MAX_COUNT
    )
    max_corrupt: int = option(
        0,
        "leave out up to this many broken pictures of either split, with a warning each; more are an error",
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Options):
    """The recipe's name or file, and how its batch is divided."""

    prefix = "--"

    recipe: str | None = option(
        None,
        "a published recipe by its name or that of a released checkpoint, or a recipe file; flags below override it",
    )
    recipe_file: str | None = option(
        None, "YAML or JSON file with the fields below, over --recipe and below flags; a run writes one: recipe.json"
    )
    augmentation: str | None = option(
        None,
        "YAML or JSON file of transforms of torchvision v2 (a list of names with arguments) or albumentations (A.save), in place of "
        "random scale, flip and colours; the crop, without effect where they crop to its size, and normalisation follow",
    )
    per_device_train_batch_size: int | None = option(
        None, "pictures per process and pass (default: 8, or the recipe's batch divided up)", above=0, at_most=MAX_SIZE
    )
    per_device_eval_batch_size: int = option(
        8, "pictures per process; those of different sizes still go one by one", above=0, at_most=MAX_SIZE
    )
    gradient_accumulation_steps: int | None = option(
        None, "passes per optimizer step (default: 1, or what the recipe's batch needs)", above=0, at_most=MAX_SIZE
    )
    crop_by_model: bool = option(False, "crops have the size that the model is used at", flag=None)
    warmup_ratio: float | None = option(
        None, "share of all steps, instead of the recipe's num_warmup_steps", above=0, below=1, flag=None
    )


@dataclass(frozen=True, kw_only=True)
class RunningOptions(Options):
    """Where the results go, what is saved and when, and on which hardware the training runs."""

    prefix = "--"

    output_dir: str | None = option(None, "becomes the model folder, with checkpoints and figures (required)")
    overwrite_output_dir: bool = option(
        False, "remove what an earlier training left there; when going on from an earlier checkpoint, those after it"
    )
    do_train: bool = option(True, "train (default, unless --do_eval alone is given)")
    do_eval: bool = option(True, "evaluate (default, unless --do_train is given without --eval_steps)")
    seed: int = option(42, "seed of weights, order and augmentation", at_least=0, at_most=_MAX_COUNT)
    eval_steps: int | str = option(
        "epoch",
        "steps between evaluations, 'epoch', or 0 for the end only (default: epoch)",
        words=("epoch",),
        at_least=0,
    )
    checkpointing_steps: int | str | None = option(
        None,
        "steps between checkpoints, or 'epoch'; by default one of the last step alone, which a longer training goes on from (with "
        "AdamW of about three times the model's size); 0 writes none",
        words=("epoch",),
        at_least=0,
    )
    save_trained_only: bool = option(
        False, "with --freeze_backbone: checkpoints leave the backbone out; the finished model is whole"
    )
    save_total_limit: int | None = option(None, "keep this many checkpoints, and the best; all by default", above=0)
    load_best_model_at_end: bool = option(False, "the model with the best mIoU is the result")
    resume_from_checkpoint: str | None = option(None, "'latest', or a checkpoint folder", flag=Flag(const="latest"))
    max_bad_steps: int = option(3, "this many steps in a row with a loss that is not finite end the training", above=0)
    max_empty_steps: int = option(
        50, "this many steps in a row in which no pixel of any label counts end the training", above=0
    )
    logging_steps: int | str = option(10, "steps between two lines of the log", words=("epoch",), above=0)
    dataloader_num_workers: int = option(2, "processes that load pictures", at_least=0, at_most=1024)
    memory_format: str = option(
        "auto",
        "of images and convolutions; auto: on CPUs the faster one, which is measured once and kept, elsewhere channels_last (contiguous with FSDP2 and where a CPU compiles in float32)",
        choices=MEMORY_FORMATS,
    )
    gradient_checkpointing: bool = option(False, "less memory, more time")
    torch_compile: bool = option(False, "compile the model")
    tf32: bool | None = option(None, "faster float32 products with fewer digits, on GPUs that have them")
    use_cpu: bool = option(False, "train on the CPU although there is a GPU", flag=Flag(aliases=("no_cuda",)))
    sync_batch_norm: bool = option(True, "batch norms over all GPUs")
    freeze_norms: bool = option(False, "batch norms use their running statistics while training")
    with_tracking: bool = option(False, "log to the trackers of --report_to")
    report_to: tuple[str, ...] | None = option(None, "tensorboard, wandb, trackio, comet_ml, clearml, all or none")
    run_name: str | None = option(None, "name of the run for trackers")
    push_to_hub: bool = option(False, "upload the finished model")
    hub_model_id: str | None = option(
        None,
        "its name on the Hub; default: the name of the output folder",
        flag=Flag(aliases=("push_to_hub_model_id",)),
    )
    push_to_hub_organization: str | None = option(None, "organisation that the repository belongs to")
    hub_private_repo: bool = option(False, "make a new repository private")
    hub_token: str | None = option(
        None, "access token; default: that of `hf auth login`", flag=Flag(aliases=("push_to_hub_token",))
    )
    token: str | bool | None = option(
        None,
        "the same as --hub_token; without a value: that of the login",
        flag=Flag(aliases=("use_auth_token",), const=True),
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunningOptions, BatchOptions, DataOptions, ModelSource):
    """Everything about a training except its recipe; each field with a flag is an option of ``segzoo train`` of the
    same name.

    Raises:
        SegZooError: a value of the wrong type or range, or values that do not fit each other.
    """

    without_effect: tuple[str, ...] = option((), "flags that were given and do nothing here", flag=None)

    def __post_init__(self) -> None:
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to or ()
        no_tracker = [str(name).lower() for name in named] == ["none"]
        super().__post_init__()
        settled: dict[str, Any] = {"report_to": ("none",) if no_tracker else self.report_to or ("all",)}
        if no_tracker:
            settled["with_tracking"] = False
        if self.token is not None and self.token is not True:
            settled["hub_token"] = self.hub_token or self.token
        name = self.hub_model_id or (Path(self.output_dir).resolve().name if self.push_to_hub else None)
        if name is not None and self.push_to_hub_organization and "/" not in name:
            name = f"{self.push_to_hub_organization}/{name}"
        settled["hub_model_id"] = name
        if self.backbone is not None and self.head is None:
            settled["head"] = "uper"
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    def check(self) -> None:
        """Check that there is an output folder, evaluations to find a best model by, and the named trackers."""
        super().check()
        if self.output_dir is None:
            self.refuse("output_dir is missing; name the folder that becomes the model")
        if not (self.do_train or self.do_eval):
            self.refuse("do_train and --do_eval are both off, so that there is nothing to do; leave one of them on")
        if self.load_best_model_at_end and not (self.do_train and self.do_eval):
            self.refuse("load_best_model_at_end needs evaluations; do not leave --do_eval out")
        if self.with_tracking and not {"all", "none"} & set(self.report_to or ("all",)):
            from accelerate.tracking import get_available_trackers

            available = [str(tracker) for tracker in get_available_trackers()]
            missing = [name for name in self.report_to if name not in available]
            if missing:
                installed = ", ".join(available) or "none"
                self.refuse(f"report_to {missing[0]}: this tracker is not installed; installed: {installed}")

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that this run can follow a recipe.

        Raises:
            SegZooError: with streaming, whose length is unknown, the recipe has no number of steps, or evaluations or
                checkpoints are due every epoch, or the classes have to be counted; or checkpoints are to leave out a backbone that is trained.
        """
        if self.save_trained_only and not recipe.freeze_backbone:
            self.refuse("save_trained_only goes with --freeze_backbone; all of this model is trained")
        if self.augmentation is not None and recipe.pipeline is None and self.resume_from_checkpoint is None:
            self.refuse(
                "augmentation is read with the command line; in Python, give the recipe pipeline=read_pipeline(FILE)"
            )
        if self.streaming and recipe.max_train_steps is None:
            self.refuse("streaming needs --max_train_steps: the number of pictures is not known beforehand")
        if self.streaming and (recipe.weights_rule is not None or recipe.sampling == "balanced"):
            needs = "sampling balanced" if recipe.weights_rule is None else f"class_weights {recipe.weights_rule}"
            self.refuse(
                f"{needs} counts the classes of all training masks first, which a stream does not allow; leave one out"
            )
        if self.streaming and "epoch" in (self.eval_steps, self.checkpointing_steps):
            self.refuse("streaming knows no epochs; give --eval_steps and --checkpointing_steps as numbers")

    @property
    def hub_options(self) -> dict[str, Any]:
        """Keyword arguments of ``from_pretrained``."""
        return {
            "token": self.hub_token or self.token,
            "revision": self.model_revision,
            "cache_dir": self.cache_dir,
            "trust_remote_code": self.trust_remote_code,
        }


_NOT_ON_THE_CARD = frozenset(
    """
    output_dir overwrite_output_dir resume_from_checkpoint logging_steps dataloader_num_workers with_tracking report_to
    push_to_hub hub_model_id hub_private_repo hub_token token cache_dir checkpointing_steps save_total_limit save_trained_only eval_steps
    trust_remote_code model_revision per_device_eval_batch_size dataset_name run_name do_train do_eval max_bad_steps max_empty_steps
    augmentation verify warmup_ratio crop_by_model push_to_hub_organization recipe_file use_cpu tf32 without_effect
    """.split()  # noqa: SIM905
)


def settings_for_card(options: RunOptions, num_processes: int, total_steps: int) -> dict[str, Any]:
    """The settings of the run that influence the result, besides the recipe, by the names of their options.

    Options that are None or False are left out, and so are local paths, which mean nothing to others, and the parts of
    a new model where there is none.
    """
    left_out = _NOT_ON_THE_CARD if options.backbone is not None else _NOT_ON_THE_CARD.union(_NEW_PARTS)
    settings = {
        name: value
        for name, value in options.to_dict().items()
        if name not in left_out and value is not None and value is not False
    }
    for name, value in list(settings.items()):
        if isinstance(value, str) and (is_local_path(value) or value.startswith(".")):
            del settings[name]
        elif isinstance(value, str):
            settings[name] = without_secrets(value)
    return {**settings, "processes": num_processes, "steps": total_steps}

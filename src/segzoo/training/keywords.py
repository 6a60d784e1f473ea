"""The options of `segzoo.train` and their types, for type checkers and editors; written by docs/train_keywords.py."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Text = str | os.PathLike[str]
Number = int | float


class TrainKeywords(TypedDict, total=False):
    """Every option of ``segzoo train`` but the recipe's name; ``segzoo train --help`` explains them."""

    adam_beta1: Number
    adam_beta2: Number
    adam_epsilon: Number
    augmentation: Text | None
    auxiliary_channels: int
    auxiliary_losses: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    backbone: Text | None
    bf16: bool
    cache_dir: Text | None
    cat_max_ratio: Number
    checkpointing_steps: int | Literal["epoch"] | None
    class_weights: (
        Number
        | Literal["auto", "inverse_sqrt", "effective_number", "median_frequency"]
        | Sequence[Number | Literal["auto", "inverse_sqrt", "effective_number", "median_frequency"]]
        | None
    )
    classes: Text | None
    config_name: Text | None
    crop_size: int | Sequence[int] | None
    dataloader_drop_last: Any
    dataloader_num_workers: int
    dataloader_persistent_workers: Any
    dataloader_pin_memory: Any
    dataset_config_name: Text | None
    dataset_name: Text
    disable_tqdm: Any
    do_eval: bool
    do_reduce_labels: bool | None
    do_train: bool
    drop_path_rate: Number | None
    ema_decay: Number | None
    eval_flip: bool
    eval_scale_size: int | Sequence[int] | None
    eval_scales: Number | Sequence[Number]
    eval_steps: int | Literal["epoch"]
    eval_strategy: Literal["no", "epoch", "steps"] | None
    evaluation_strategy: Literal["no", "epoch", "steps"] | None
    flip_probability: Number
    fp16: bool
    freeze_backbone: bool
    freeze_norms: bool
    gradient_accumulation_steps: int | None
    gradient_checkpointing: bool
    greater_is_better: Any
    head: Text | None
    head_channels: int | None
    head_lr_multiplier: Number
    hub_model_id: Text | None
    hub_private_repo: bool
    hub_strategy: Any
    hub_token: Text | None
    ignore_index: int
    image_column: Text | None
    image_processor_name: Text | None
    keep_ratio: bool
    label_column: Text | None
    layer_decay: Number | None
    learning_rate: Number
    load_best_model_at_end: bool
    log_level: Any
    logging_steps: int | Literal["epoch"]
    logging_strategy: Literal["no", "epoch", "steps"] | None
    losses: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    lr_power: Number
    lr_scheduler_type: Text
    lr_step_factor: Number
    lr_steps: int | Sequence[int]
    max_bad_steps: int
    max_corrupt: int
    max_empty_steps: int
    max_eval_samples: int | None
    max_grad_norm: Number | None
    max_steps: int | None
    max_train_samples: int | None
    max_train_steps: int | None
    memory_format: Literal["auto", "contiguous", "channels_last"]
    metric_for_best_model: Text | None
    min_learning_rate: Number
    mixed_precision: Literal["no", "fp16", "bf16", "auto"] | None
    model_name_or_path: Text | None
    model_revision: Text
    momentum: Number
    no_cuda: bool
    no_decay: (
        Literal["norms", "layer_norms", "biases", "vectors", "positions", "offsets"]
        | Sequence[Literal["norms", "layer_norms", "biases", "vectors", "positions", "offsets"]]
    )
    norm_momentum: Number | None
    num_channels: int | None
    num_labels: int | None
    num_train_epochs: Number
    num_warmup_steps: int
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_hf", "sgd"] | None
    optimizer: Literal["adamw", "adam", "sgd"]
    output_dir: Text | None
    overwrite_output_dir: bool
    palette: Text | None
    parameter_rules: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    per_device_eval_batch_size: int
    per_device_train_batch_size: int | None
    photometric_distortion: bool
    push_to_hub: bool
    push_to_hub_model_id: Text | None
    push_to_hub_organization: Text | None
    push_to_hub_token: Text | None
    random_backbone: bool
    recipe_file: Text | None
    reduce_labels: bool | None
    reduced_decoding: bool
    remove_unused_columns: Any
    report_to: Text | Sequence[Text] | None
    resume_from_checkpoint: Text | None
    run_name: Text | None
    sampling: Literal["all", "balanced"]
    sampling_temperature: Number
    save_steps: int | Literal["epoch"] | None
    save_strategy: Literal["no", "epoch", "steps", "best"] | None
    save_total_limit: int | None
    save_trained_only: bool
    scale_edges: int | Sequence[int]
    scale_range: Number | Sequence[Number]
    scale_size: int | Sequence[int] | None
    seed: int
    shuffle_buffer: int
    size_divisor: int | None
    streaming: bool
    sync_batch_norm: bool
    tf32: bool | None
    tile: int | None
    tile_stride: int | None
    token: Text | None
    torch_compile: bool
    total_train_batch_size: int | None
    train_fraction: Number | None
    train_val_groups: Text | None
    train_val_split: Number
    trust_remote_code: bool
    use_auth_token: Text | None
    use_cpu: bool
    verify: bool
    warmup_ratio: Number | None
    warmup_start: Number
    warmup_steps: Number | None
    weight_decay: Number
    window_size: int | Sequence[int] | None
    window_stride: int | Sequence[int] | None
    with_tracking: bool

"""A training recipe in words, for model cards and logs."""

from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.cards.scores import table_cell
from segzoo.data.augmentation import check_pipeline, pipeline_names
from segzoo.options import plain
from segzoo.training.recipes.recipe import Recipe


def recipe_rows(recipe: Recipe) -> dict[str, str]:
    """The settings of a recipe in words, by topic; topics that it leaves to the model are left out."""
    rows = {
        "recipe": recipe.name + (f" ({recipe.source})" if recipe.source else ""),
        "optimizer": _optimizer(recipe),
        "learning rate": _learning_rate(recipe),
        "length": _length(recipe),
        "pictures": _pictures(recipe),
        "losses": _losses(recipe),
        "model": _model(recipe),
        "tests": _tests(recipe),
    }
    return {name: text for name, text in rows.items() if text}


def describe_recipe(recipe: Recipe) -> str:
    """The rows of `recipe_rows` as a Markdown table."""
    rows = [(name, table_cell(text)) for name, text in recipe_rows(recipe).items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _optimizer(recipe: Recipe) -> str:
    parts = [recipe.optimizer]
    if recipe.optimizer == "sgd":
        parts.append(f"momentum {recipe.momentum:g}")
    else:
        parts.append(f"betas {recipe.adam_beta1:g} and {recipe.adam_beta2:g}")
    decay = f"weight decay {recipe.weight_decay:g}"
    if recipe.weight_decay and recipe.no_decay:
        decay += f" (not on {_words(recipe.no_decay)})"
    parts.append(decay)
    if recipe.max_grad_norm:
        parts.append(f"gradient norm at most {recipe.max_grad_norm:g}")
    return ", ".join(parts)


def _learning_rate(recipe: Recipe) -> str:
    parts = [f"{recipe.learning_rate:g}"]
    if recipe.layer_decay is not None:
        parts.append(f"times {recipe.layer_decay:g} for each layer below the heads")
    if recipe.head_lr_multiplier != 1:
        parts.append(f"times {recipe.head_lr_multiplier:g} in the heads")
    parts += [_rule(rule) for rule in recipe.parameter_rules]
    if recipe.lr_scheduler_type == "poly":
        parts.append(f"poly of power {recipe.lr_power:g} down to {recipe.min_learning_rate:g}")
    elif recipe.lr_scheduler_type == "multistep":
        parts.append(f"times {recipe.lr_step_factor:g} at {_words(recipe.lr_steps)} steps")
    else:
        parts.append(recipe.lr_scheduler_type.replace("_", " "))
    if recipe.num_warmup_steps:
        parts.append(f"warm-up of {recipe.num_warmup_steps} steps")
    return ", ".join(parts)


def _rule(rule: Mapping[str, Any]) -> str:
    factors = (
        f"learning rate times {rule.get('lr_multiplier', 1):g}, weight decay times {rule.get('decay_multiplier', 1):g}"
    )
    return f"`{rule['match']}`: {factors}"


def _length(recipe: Recipe) -> str:
    parts = [f"{recipe.max_train_steps} steps" if recipe.max_train_steps else f"{recipe.num_train_epochs:g} epochs"]
    if recipe.total_train_batch_size:
        parts[0] += f" of {recipe.total_train_batch_size} pictures"
    if recipe.mixed_precision:
        precision = {"no": "float32", "auto": "mixed precision bf16 where the processor computes in it"}
        parts.append(precision.get(recipe.mixed_precision, f"mixed precision {recipe.mixed_precision}"))
    if recipe.ema_decay is not None:
        parts.append(f"moving average of the weights ({recipe.ema_decay:g})")
    return ", ".join(parts)


def _pictures(recipe: Recipe) -> str:
    parts = []
    if recipe.pipeline is not None:
        parts.append(f"{', '.join(pipeline_names(recipe.pipeline))} of {check_pipeline(recipe.pipeline)}")
        if recipe.crop_size is not None:
            parts.append(f"crops of {_by(recipe.crop_size)}")
        return "; ".join([*parts, *_sampling(recipe)])
    low, high = recipe.scale_range
    factor = "" if low == high == 1 else f", times {low:g} to {high:g}" if low != high else f", times {low:g}"
    if recipe.scale_edges:
        limit = recipe.scale_size[1:] if recipe.scale_size else ()
        parts.append(f"short edge one of {_words(recipe.scale_edges)}{_limit(limit)}{factor}")
    elif recipe.scale_size or factor:
        parts.append(f"{_size(recipe.scale_size, recipe.keep_ratio)}{factor}")
    if recipe.crop_size is None:
        parts.append("no crop" + (f", stretched to multiples of {recipe.size_divisor}" if recipe.size_divisor else ""))
    else:
        limited = f" (one class at most {recipe.cat_max_ratio:.0%})" if recipe.cat_max_ratio < 1 else ""
        parts.append(f"crops of {_by(recipe.crop_size)}{limited}")
    if recipe.flip_probability:
        parts.append(f"mirrored with chance {recipe.flip_probability:g}")
    if recipe.photometric_distortion:
        parts.append("photometric distortion")
    if recipe.reduced_decoding:
        parts.append("JPEG decoded at reduced size")
    return "; ".join([*parts, *_sampling(recipe)])


def _sampling(recipe: Recipe) -> list[str]:
    if recipe.sampling == "balanced":
        return [f"rare classes first (temperature {recipe.sampling_temperature:g})"]
    return []


def _losses(recipe: Recipe) -> str:
    parts = []
    if recipe.losses is not None:
        parts.append(" + ".join(_loss(loss) for loss in recipe.losses))
    if recipe.auxiliary_losses is not None:
        parts.append("auxiliary heads " + " + ".join(_loss(loss) for loss in recipe.auxiliary_losses))
    if recipe.class_weights is not None:
        parts.append(f"class weights {_words(recipe.class_weights)}")
    return "; ".join(parts)


def _loss(loss: Mapping[str, Any]) -> str:
    options = [f"{name} {_option(value)}" for name, value in loss.items() if name not in ("type", "weight")]
    weight = loss.get("weight", 1.0)
    return (f"{weight:g} x " if weight != 1 else "") + loss["type"] + (f" ({', '.join(options)})" if options else "")


def _option(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_option(part)}" for name, part in value.items())
    return str(plain(value))


def _model(recipe: Recipe) -> str:
    parts = []
    if recipe.drop_path_rate is not None:
        parts.append(f"drop path {recipe.drop_path_rate:g}")
    if recipe.norm_momentum is not None:
        parts.append(f"momentum of batch norms {recipe.norm_momentum:g}")
    if recipe.freeze_backbone:
        parts.append("frozen backbone")
    return ", ".join(parts)


def _tests(recipe: Recipe) -> str:
    parts = []
    size = recipe.eval_scale_size or recipe.scale_size
    if size:
        stretched = f", stretched to multiples of {recipe.size_divisor}" if recipe.size_divisor else ""
        parts.append(_size(size, recipe.keep_ratio) + stretched)
    if recipe.window_size:
        step = f" with step {_by(recipe.window_stride)}" if recipe.window_stride else ""
        parts.append(f"windows of {_by(recipe.window_size)}{step}")
    if recipe.eval_scales != (1.0,):
        parts.append(f"scales {_words(recipe.eval_scales)}")
    if recipe.eval_flip:
        parts.append("mirrored too")
    return "; ".join(parts)


def _size(size: Sequence[int] | None, keep_ratio: bool) -> str:
    if size is None:
        return "at their own size"
    return f"short edge {size[0]}{_limit(size[1:])}" if keep_ratio else f"resized to {_by(size)}"


def _limit(rest: Sequence[int]) -> str:
    return f" (long edge at most {rest[0]})" if rest else ""


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _words(values: Sequence[Any]) -> str:
    return ", ".join(value.replace("_", " ") if isinstance(value, str) else f"{value:.6g}" for value in values)

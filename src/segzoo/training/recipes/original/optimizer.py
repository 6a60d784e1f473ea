"""Optimizer, precision and accumulation of an original config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.options import Options, type_name, values_that_fit
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translation import Translation
from segzoo.errors import SegZooError
from segzoo.training.layer_depths import layer_depths
from segzoo.training.recipes.original.by_name import LAYER_DECAYS, factors_of, named_parameters, options_of
from segzoo.training.recipes.original.findings import Findings, part_of

_KNOWN_PARAMWISE = (
    "custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "flat_decay_mult",
)  # fmt: skip


def optimizer_fields(config: Mapping[str, Any], translation: Translation | None, findings: Findings) -> int:
    """Take the optimizer, of 1.x out of its wrapper, and what goes with it.

    Args:
        config: the whole config.
        translation: of its model; None where the model is not supported.
        findings: what is found is added to it.

    Returns:
        Number of passes whose gradients make a step.

    Raises:
        SegZooError: the config has no optimizer.
    """
    wrapper = part_of(config, "optim_wrapper")
    place = "optimizer" if wrapper is None else "optim_wrapper.optimizer"
    optimizer = part_of(config, *place.split("."))
    if optimizer is None:
        raise SegZooError(
            "the config has no optimizer: its base files with the schedule are not there; keep its folder whole, or give the "
            "resolved config, which the original's tools/misc/print_config.py prints and each work_dirs folder holds"
        )
    options = Options(optimizer, place)
    constructor, settings = options.take("constructor", None), options.take("paramwise_cfg", None)
    if wrapper is not None:
        constructor = wrapper.get("constructor", constructor)
        settings = wrapper.get("paramwise_cfg", settings)
    with values_that_fit(place):
        _optimizer(options, type_name(optimizer, place), findings)
    where = "paramwise_cfg" if wrapper is None else "optim_wrapper.paramwise_cfg"
    with findings.reading(where):
        _groups(dict(settings or {}), constructor and constructor.rpartition(".")[2], translation, findings, where)
    return _hooks(config, findings) if wrapper is None else _wrapper(wrapper, findings)


def _optimizer(options: Options, kind: str, findings: Findings) -> None:
    place = options.where
    if kind not in ("SGD", "Adam", "AdamW"):
        findings.leave(
            place, f"the optimizer {kind} is not available; AdamW stands in its place, so try other learning rates"
        )
        kind = "AdamW"
    findings.take(f"{place}.type", optimizer=kind.lower())
    findings.take(f"{place}.lr", learning_rate=options.take("lr"))
    decay = options.take("weight_decay", 0.01 if kind == "AdamW" else 0.0)  # PyTorch's defaults
    findings.take(f"{place}.weight_decay", weight_decay=decay)
    if kind == "SGD":
        findings.take(f"{place}.momentum", momentum=options.take("momentum", 0.0))
    else:
        beta1, beta2 = options.take("betas", (0.9, 0.999))
        findings.take(f"{place}.betas", adam_beta1=beta1, adam_beta2=beta2)
        findings.take(f"{place}.eps", adam_epsilon=options.take("eps", 1e-8))
    for name in ("nesterov", "amsgrad", "dampening"):
        if not options.take(name, False):
            continue
        findings.leave(f"{place}.{name}", "a recipe's optimizer has no such option")
    findings.leave_rest(options)


def _groups(
    settings: dict[str, Any], constructor: str | None, translation: Translation | None, findings: Findings, place: str
) -> None:
    """Learning rates and weight decay by name."""
    if constructor in LAYER_DECAYS:
        with findings.reading(f"{place}.layer_decay_rate"):
            _layer_decay(settings, translation, findings, place)
        for name in ("offset_lr_scale",):
            if settings.get(name, 1.0) != 1:
                findings.leave(f"{place}.{name}", "a recipe has no learning rate for offsets alone")
    elif constructor not in (None, "DefaultOptimizerConstructor", "DefaultOptimWrapperConstructor"):
        findings.leave(f"{place}", f"the class {constructor} is not known; all parameters decay at one learning rate")
        settings = {}
    elif unknown := settings.keys() - {*_KNOWN_PARAMWISE, "bypass_duplicate", "dcn_offset_lr_mult"}:
        findings.leave(place, f"not known: {', '.join(sorted(unknown))}")
    findings.take(place if settings else f"no {place}", no_decay=[])
    if constructor not in LAYER_DECAYS and all(settings.get(key) in (None, {}, 1) for key in _KNOWN_PARAMWISE):
        return
    if translation is None:
        findings.leave(
            place, "whose parameters it means is not known without the model; all decay at one learning rate"
        )
        return
    model = build_without_weights(translation.config)
    parameters, engine = named_parameters(model, translation.components), place.startswith("optim_wrapper")
    wanted = {p: factors_of(p, settings, constructor, engine=engine) for p in parameters}
    if not findings.fields["weight_decay"]:
        wanted = {p: (factor, 1.0) for p, (factor, _) in wanted.items()}
    found = options_of(wanted)
    if found is None:
        findings.leave(place, "its groups of parameters cannot be said shortly; all decay at one learning rate")
        return
    findings.take(
        place, **{name: value for name, value in found.items() if name == "no_decay" or value not in (1.0, [])}
    )


def _layer_decay(settings: Mapping[str, Any], translation: Translation | None, findings: Findings, place: str) -> None:
    """Take the factor from layer to layer, and say where the original counts other layers than a recipe."""
    rate = settings.get("layer_decay_rate", settings.get("decay_rate", 1.0))
    if rate == 1:
        return
    if translation is not None:
        _, count = layer_depths(build_without_weights(translation.config))
        layers, kind = settings.get("num_layers", count - 1), settings.get("decay_type", "layer_wise")
        if layers != count - 1:
            findings.leave(
                f"{place}.num_layers", f"{layers} becomes {count - 1}, as this backbone's layers are counted"
            )
        if "convnext" in translation.config.backbone_config.model_type and kind != "stage_wise":
            findings.leave(
                f"{place}.decay_type",
                f"{kind} becomes stage_wise: a recipe counts the stages of a ConvNeXt, not its layers",
            )
    findings.take(f"{place}.layer_decay_rate", layer_decay=rate)


def _wrapper(wrapper: Mapping[str, Any], findings: Findings) -> int:
    """1.x: precision, clipping and accumulation."""
    options = Options(wrapper, "optim_wrapper")
    options.ignore("optimizer", "paramwise_cfg", "constructor")
    kind = str(wrapper.get("type") or "OptimWrapper").rpartition(".")[2]
    dtype, _ = options.take("dtype", None), options.take("loss_scale", None)
    if kind == "AmpOptimWrapper":
        findings.take("optim_wrapper.type", mixed_precision="bf16" if dtype == "bfloat16" else "fp16")
    elif kind != "OptimWrapper":
        findings.leave("optim_wrapper.type", f"{kind} is not known")
    with findings.reading("optim_wrapper.clip_grad"):
        _clip(options.take("clip_grad", None), "optim_wrapper.clip_grad", findings)
    passes = options.take("accumulative_counts", 1)
    findings.leave_rest(options)
    return passes


def _hooks(config: Mapping[str, Any], findings: Findings) -> int:
    """0.x: precision, clipping and accumulation."""
    hook = part_of(config, "optimizer_config") or {}
    options = Options(hook, "optimizer_config")
    kind = str(hook.get("type") or "OptimizerHook").rpartition(".")[2]
    if config.get("fp16") is not None:
        findings.take("fp16", mixed_precision="fp16")
    elif "Fp16" in kind:
        findings.take("optimizer_config.type", mixed_precision="fp16")
    options.ignore(
        "loss_scale", "detect_anomalous_params", "update_interval", "coalesce", "bucket_size_mb", "use_fp16"
    )
    if hook.get("use_fp16"):
        findings.take("optimizer_config.use_fp16", mixed_precision="fp16")
    with findings.reading("optimizer_config.grad_clip"):
        _clip(options.take("grad_clip", None), "optimizer_config.grad_clip", findings)
    passes = options.take("cumulative_iters", hook.get("update_interval", 1))
    findings.leave_rest(options)
    return passes


def _clip(settings: Mapping[str, Any] | None, place: str, findings: Findings) -> None:
    if settings is None:
        return
    options = Options(settings, place)
    if (norm := options.take("max_norm", None)) is not None:
        findings.take(f"{place}.max_norm", max_grad_norm=norm)
    if options.take("norm_type", 2) not in (2, 2.0):
        findings.leave(f"{place}.norm_type", "gradients are clipped by their Euclidean norm")
    findings.leave_rest(options)

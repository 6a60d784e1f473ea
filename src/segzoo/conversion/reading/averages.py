"""Moving averages that mmcv's EMAHook keeps in the model, as buffers named ``ema_backbone_conv1_weight``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from segzoo.conversion.errors import CheckpointError, ConversionError
from segzoo.conversion.reading.configs import read_config_text

_PRIORITIES = {
    "HIGHEST": 0, "VERY_HIGH": 10, "HIGH": 30, "ABOVE_NORMAL": 40, "NORMAL": 50, "BELOW_NORMAL": 60, "LOW": 70,
    "VERY_LOW": 90, "LOWEST": 100,
}  # fmt: skip


def are_beside(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether there are averages beside the weights of a state dict."""
    return any(_buffer_of(key) in state_dict for key in state_dict)


def _buffer_of(key: str) -> str:
    return f"ema_{key.replace('.', '_')}"


def are_swapped(text: str | None, values: Mapping[str, Any] | None, meta: Mapping[str, Any]) -> bool | None:
    """Whether the averages have the names of the weights, and the weights in training have those of the averages.

    At the end of an epoch EMAHook swaps the two until the next one begins. A file has them swapped if the hook came before the
    one that wrote it; a training by iterations has no such ends.

    Args:
        text, values: the training config in one of its two forms, or None.
        meta: the file's ``meta``.

    Returns:
        None if the config does not tell.
    """
    try:
        values = values if text is None else read_config_text(text)
        return None if values is None else _swaps(values, meta)
    except ConversionError:
        return None


def _swaps(values: Mapping[str, Any], meta: Mapping[str, Any]) -> bool | None:
    """What `are_swapped` returns, of a config as values."""
    saving, runner = _dict(values.get("checkpoint_config")), _dict(values.get("runner"))
    if runner.get("type", "IterBasedRunner") != "EpochBasedRunner":
        return False
    # The evaluation, which comes after the hook that saves regularly, saves the best weights.
    best = str(_dict(meta.get("hook_msgs")).get("best_ckpt")).endswith(f"_epoch_{meta.get('epoch')}.pth")
    if not best and saving.get("by_epoch", True) is False:
        return False
    hooks = values.get("custom_hooks")
    for hook in hooks if isinstance(hooks, (list, tuple)) else ():
        if str(_dict(hook).get("type")).endswith("EMAHook"):
            priority = hook.get("priority", "NORMAL")
            number = _PRIORITIES.get(priority.upper()) if isinstance(priority, str) else priority
            return number < _PRIORITIES["LOW" if best else "NORMAL"] if isinstance(number, int) else None
    return None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def separate(state_dict: dict[str, Tensor], source: Path, take: bool) -> tuple[dict[str, Tensor], bool]:
    """Takes mmcv's averages out of the weights.

    Args:
        state_dict: keys of the model and of the averages.
        source: the file, for messages.
        take: replace the weights by the averages.

    Returns:
        the weights under the model's keys, and whether they were replaced by averages.
    """
    buffers = {key: value for key, value in state_dict.items() if key.startswith("ema_") and "." not in key}
    weights = {key: value for key, value in state_dict.items() if key not in buffers}
    keys: dict[str, str] = {}
    for key in weights:
        name = _buffer_of(key)
        if name in buffers:
            if take and name in keys:
                raise CheckpointError(
                    source,
                    f"{name!r} could be the average of {keys[name]!r} and of {key!r}",
                    "leave the option for the average out",
                )
            keys[name] = key
    unmatched = {key: value for key, value in buffers.items() if key not in keys}
    weights.update(unmatched)  # not averages: the key rules will judge them
    if take:
        weights.update((key, buffers[name]) for name, key in keys.items())
    return weights, take and bool(keys)

"""Which of the models in a state dict is meant, where trainers put theirs under a prefix or keep several."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from segzoo.conversion.errors import CheckpointError

ROLES = ("student", "teacher")
"""Models of a distillation that a caller can name."""

_HEAD = "decode_head"  # every model has one, and nothing else has
_WRAPPERS = ("module", "_orig_mod")
_AVERAGES = ("ema_model", "model_ema", "ema", "ema_network")
_PLAIN = ("", "model", "network", "net", "segmentor", "architecture")


def choose_model(
    state_dict: dict[str, Tensor], source: Path, *, prefer_ema: bool = False, weights: str | None = None
) -> tuple[str, str]:
    """Finds the model that is meant among those of a state dict.

    A trainer of domain adaptation saves ``model.*`` beside ``ema_model.*``, one of distillation ``student.*`` beside
    ``teacher.*``, Lightning ``network.*`` or ``model.*`` alone.

    Args:
        state_dict: tensors by key, without the prefixes of wrappers.
        source: the file, for messages.
        prefer_ema: take the average, where the state dict has one beside the weights.
        weights: take this one of `ROLES`.

    Returns:
        the prefix of the model's keys, ``""`` where there is none or it is not a segmentation model; and its role,
        "model", "average", "student", "teacher" or another name that the file gives it.

    Raises:
        CheckpointError: there are several models and no rule says which one is meant, or none has the role
            ``weights``.
    """
    models: dict[str, list[str]] = {}
    for prefix in sorted(_prefixes(state_dict)):
        models.setdefault(_role(prefix), []).append(prefix)
    if weights is not None:
        if weights not in models and weights == "student" and "teacher" in models and "model" in models:
            models["student"] = models["model"]  # the teacher stands beside the model that learns
        if weights not in models:
            raise CheckpointError(source, f"it holds no weights of a {weights}", "leave --weights out")
        role = weights
    elif prefer_ema and "average" in models:
        role = "average"
    elif "teacher" in models and len(models) > 1 or "student" in models and len(models) > 1:
        raise CheckpointError(
            source, f"it holds several models ({_shown(models)})", f"choose one with --weights {'|'.join(ROLES)}"
        )
    elif "model" in models:
        role = "model"
    elif len(models) == 1:
        role = next(iter(models))
    elif not models:
        return "", "model"
    else:
        raise CheckpointError(source, f"it holds several models ({_shown(models)})", "save the weights of one")
    prefixes = models[role]
    if len(prefixes) > 1:
        raise CheckpointError(
            source, f"it holds several models ({_shown({role: prefixes})})", "save the weights of one"
        )
    return prefixes[0], role


def take_model(state_dict: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under a prefix, without it, and the keys of the others.

    Without a prefix, the tensors of an average, a student and a teacher are the others.
    """
    if prefix:
        chosen = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        return chosen, [key for key in state_dict if not key.startswith(prefix)]
    named = tuple(p for p in _prefixes(state_dict) if _role(p) in ("average", *ROLES))
    others = [key for key in state_dict if named and key.startswith(named)]
    left = set(others)
    return {key: value for key, value in state_dict.items() if key not in left}, others


def _prefixes(keys: Iterable[str]) -> set[str]:
    """What stands before the decode heads: the prefixes of all models, dots included."""
    found = set()
    for key in keys:
        parts = key.split(".")
        if _HEAD in parts:
            found.add("".join(f"{part}." for part in parts[: parts.index(_HEAD)]))
    return found


def _role(prefix: str) -> str:
    """The role of the model under a prefix: its name in the trainer, or one name for all names of a kind."""
    parts = [part for part in prefix.split(".") if part and part not in _WRAPPERS]
    name = parts[-1] if parts else ""
    if name in _PLAIN:
        return "model"
    return "average" if name in _AVERAGES else name


def _shown(models: dict[str, list[str]]) -> str:
    return ", ".join(f"{prefix}*" for prefixes in models.values() for prefix in prefixes)

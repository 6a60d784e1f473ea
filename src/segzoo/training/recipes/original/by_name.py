"""The parameter groups that mmcv's optimizers make by names of parameters, as the options of a recipe.

mmcv's ``paramwise_cfg`` speaks of the original's names ("norm" is a part of a name there, not a kind of layer), and a recipe of kinds of
parameters and of our names. So what each of our parameters gets is worked out by its original name, and then said as shortly as a recipe can.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from segzoo.conversion.translation import ComponentKeys
from segzoo.training.layer_depths import HEADS
from segzoo.training.optimization import kinds_of_parameters
from segzoo.training.recipes.groups import KINDS

Factors = tuple[float, float]
"""Factors on the learning rate and on the weight decay."""

LAYER_DECAYS = (
    "LayerDecayOptimizerConstructor",
    "LearningRateDecayOptimizerConstructor",
    "CustomLayerDecayOptimizerConstructor",
)
"""Constructors of optimizers whose learning rate falls from layer to layer."""

_CUSTOM = "CustomLayerDecayOptimizerConstructor"
_CUSTOM_WITHOUT_DECAY = ("relative_position", "norm", "sampling_offsets")
_COMPONENTS = ("backbone.", "neck.", "decode_heads.", "auxiliary_heads.")
_MOST_KINDS, _MOST_RULES = 3, 12
_NORM_TYPES = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class NamedParameter:
    """A parameter of our model.

    Args:
        native, original: its names; that of the original is None where no key table has it.
        dimensions: number of its dimensions.
        in_norm: whether it is of a normalisation layer.
        in_depthwise: whether it is of a convolution with as many groups as input channels.
        kinds: see `segzoo.training.optimization.kinds_of_parameters`.
    """

    native: str
    original: str | None
    dimensions: int
    in_norm: bool
    in_depthwise: bool
    kinds: frozenset[str]

    @property
    def in_head(self) -> bool:
        """Whether ``head_lr_multiplier`` is for it."""
        return self.native.startswith(HEADS)


def named_parameters(model: nn.Module, components: Sequence[ComponentKeys]) -> list[NamedParameter]:
    """The parameters of a model with what an optimizer of mmcv goes by.

    Args:
        model: on any device.
        components: its key tables.
    """
    kinds = kinds_of_parameters(model)
    modules = dict(model.named_modules())
    found = []
    for name, parameter in model.named_parameters():
        owner = modules[name.rpartition(".")[0]]
        part = next((part for part in components if name.startswith(part.native_prefix)), None)
        original = None if part is None else part.table.to_original(name.removeprefix(part.native_prefix))
        found.append(
            NamedParameter(
                native=name,
                original=None if original is None else part.original_prefix + original,
                dimensions=parameter.ndim,
                in_norm=isinstance(owner, _NORM_TYPES),
                in_depthwise=isinstance(owner, nn.Conv2d) and owner.groups == owner.in_channels,
                kinds=frozenset(kinds[name]),
            )
        )
    return found


def factors_of(
    parameter: NamedParameter, settings: Mapping[str, Any], constructor: str | None, *, engine: bool = False
) -> Factors:
    """What mmcv's optimizer gives a parameter, layer-wise decay left aside.

    Args:
        parameter: the parameter.
        settings: ``paramwise_cfg``.
        constructor: name of the class that makes the optimizer; None for the usual one.
        engine: whether mmengine makes it.
    """
    name = parameter.original or parameter.native
    if constructor in LAYER_DECAYS:
        free = parameter.dimensions == 1 or name.endswith(".bias")
        free = free or (constructor == _CUSTOM and any(part in name for part in _CUSTOM_WITHOUT_DECAY))
        return 1.0, 0.0 if free else 1.0
    custom = settings.get("custom_keys") or {}
    key = next((key for key in sorted(sorted(custom), key=len, reverse=True) if key in name), None)
    if key is not None:
        return float(custom[key].get("lr_mult", 1.0)), float(custom[key].get("decay_mult", 1.0))
    is_bias = name.rpartition(".")[2] == "bias"  # unlike the "in_proj_bias" of an attention
    factor = _or_one(settings.get("bias_lr_mult")) if is_bias and not parameter.in_norm else 1.0
    norm, depthwise, bias, flat = (
        (parameter.in_norm, settings.get("norm_decay_mult")),
        (parameter.in_depthwise, settings.get("dwconv_decay_mult")),
        (is_bias, settings.get("bias_decay_mult")),
        (parameter.dimensions == 1, settings.get("flat_decay_mult")),
    )
    if engine:  # the first that is given decides
        decays = [value for holds, value in (norm, bias, depthwise, flat) if holds and value is not None]
    else:  # the first that it belongs to decides, given or not
        decays = [value for holds, value in (norm, depthwise, bias) if holds]
    return factor, _or_one(decays[0]) if decays else 1.0


def _or_one(value: Any) -> float:
    return 1.0 if value is None else float(value)


def options_of(wanted: Mapping[NamedParameter, Factors]) -> dict[str, Any] | None:
    """``no_decay``, ``head_lr_multiplier`` and ``parameter_rules`` of a recipe that give each parameter its factors.

    Args:
        wanted: the factors of each parameter of a model.

    Returns:
        The shortest such options that are found: few rules, then few kinds; None if there are none within bounds.
    """
    best = None
    for kinds, factor in itertools.product(_sets_of_kinds(), _head_factors(wanted)):
        others = {
            p: f
            for p, f in wanted.items()
            if f != (factor if p.in_head else 1.0, 0.0 if p.kinds.intersection(kinds) else 1.0)
        }
        rules = _rules(others, wanted)
        if rules is not None and (best is None or len(rules) < len(best[2])):
            best = (kinds, factor, rules)
        if rules == []:
            break
    if best is None:
        return None
    return {"no_decay": list(best[0]), "head_lr_multiplier": best[1], "parameter_rules": best[2]}


def _sets_of_kinds() -> Iterator[tuple[str, ...]]:
    for count in range(_MOST_KINDS + 1):
        yield from itertools.combinations(KINDS, count)


def _head_factors(wanted: Mapping[NamedParameter, Factors]) -> list[float]:
    found = Counter(factor for parameter, (factor, _) in wanted.items() if parameter.in_head)
    return [factor for factor, _ in found.most_common() if factor > 0] or [1.0]


def _rules(
    others: Mapping[NamedParameter, Factors], wanted: Mapping[NamedParameter, Factors]
) -> list[dict[str, Any]] | None:
    """Rules that give some parameters their factors, and no other parameter anything else; None if they are too many.

    A component most of which is to have rules gets one for all of it, the last; before it, and elsewhere, there is one for each place in the
    model, with any number in place of its numbers.

    Args:
        others: the parameters that need rules.
        wanted: the factors of all.
    """
    whole, places = [], {}
    for start in _COMPONENTS:
        members = {p: f for p, f in wanted.items() if p.native.startswith(start)}
        left = {p: f for p, f in members.items() if p in others}
        if 2 * len(left) > len(members):
            usual = Counter(members.values()).most_common(1)[0][0]
            whole.append(_rule("^" + re.escape(start), usual))
            left = {p: f for p, f in members.items() if f != usual}
        for parameter, factors in left.items():
            parts = parameter.native.rpartition(".")[0].split(".")
            place = "^" + r"\.".join(r"\d+" if part.isdecimal() else re.escape(part) for part in parts) + r"\."
            if places.setdefault(place, factors) != factors or len(places) > _MOST_RULES:
                return None
    rules = [_rule(place, factors) for place, factors in places.items()] + whole
    return rules if _gives(rules, others, wanted) else None


def _rule(match: str, factors: Factors) -> dict[str, Any]:
    rule: dict[str, Any] = {"match": match}
    for key, value in zip(("lr_multiplier", "decay_multiplier"), factors, strict=True):
        if value != 1:
            rule[key] = value
    return rule


def _gives(
    rules: Iterable[Mapping[str, Any]],
    others: Mapping[NamedParameter, Factors],
    wanted: Mapping[NamedParameter, Factors],
) -> bool:
    """Whether the first rule that matches is right for each parameter, and each of ``others`` has one."""
    compiled = [
        (re.compile(rule["match"]), (rule.get("lr_multiplier", 1.0), rule.get("decay_multiplier", 1.0)))
        for rule in rules
    ]
    for parameter, factors in wanted.items():
        found = next((given for match, given in compiled if match.search(parameter.native)), None)
        if found != factors and (found is not None or parameter in others):
            return False
    return True

"""Rules for the components of original models: how each is configured, and how its weights are named.

A component (backbone, neck or head) of an original model is described by one :class:`ComponentRule`: the type names
that original configs use for it, a function that translates its config, and a table of :class:`KeyRule` that
renames its weights. The table works in both directions: a native model can be written back with its original names.

    RESNET = register(BackboneRule(types=("ResNet", "ResNetV1c"), translate=translate_resnet, keys=RESNET_KEYS))

To add a component, add a file to ``conversion/rules``; nothing else has to be changed.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

from torch import Tensor

from segzoo.conversion.errors import ConversionError, UnknownTypeError
from segzoo.conversion.options import Options, taking_notes, type_name, values_that_fit
from segzoo.conversion.original_config import OriginalConfig

PLACEHOLDER = "{}"
_CAPTURE = r"([^.]+(?:\.[^.]+)*?)"


class TensorChange(ABC):
    """A change of a tensor that can be undone, for a weight that our models store in another form than the original."""

    @abstractmethod
    def to_native(self, tensor: Tensor) -> Tensor:
        """The original's tensor in our form."""

    @abstractmethod
    def to_original(self, tensor: Tensor) -> Tensor:
        """Our tensor in the original's form."""


@dataclass(frozen=True)
class Part:
    """A part of a tensor's first axis: from ``begin`` to ``end``, of ``total`` equal shares."""

    begin: int
    end: int
    total: int

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor, a view; the tensor itself if its first axis does not divide into the shares."""
        if not tensor.ndim or tensor.shape[0] % self.total:
            return tensor
        share = tensor.shape[0] // self.total
        return tensor[self.begin * share : self.end * share]


@dataclass(frozen=True)
class KeyRule:
    """One renaming.

    Args:
        original: name in the original state dict, relative to the component. Each ``{}`` stands for one or more whole
            dotted segments.
        native: name in our state dict, with as many ``{}``, filled in the same order. None: the entry is not needed (a
            buffer that is computed, a layer that is never used); it is left out, and reported.
        alias: the original stores the tensor under another name as well, which another rule renames. Both must be
            equal; written back, the tensor gets both names.
        change: what becomes of the tensor besides its name; None leaves it as it is.
        native_part: the original's tensor, changed, is this part of ours; the rules of the other parts have the same
            ``native`` (see `segzoo.conversion.layouts.join`).
        original_part: our tensor is this part of the original's, changed; the rules of the other parts have the same
            ``original`` (see `segzoo.conversion.layouts.split`).

    Raises:
        ValueError: the names' ``{}`` are not whole segments or differ in number, or an alias has no native name.
    """

    original: str
    native: str | None
    alias: bool = False
    change: TensorChange | None = None
    native_part: Part | None = None
    original_part: Part | None = None

    def __post_init__(self) -> None:
        for pattern in (self.original, self.native):
            if pattern is None:
                continue
            for segment in pattern.split("."):
                if PLACEHOLDER in segment and segment != PLACEHOLDER:
                    raise ValueError(f"key rule {pattern!r}: '{{}}' must be a whole dotted segment")
        if self.native is None:
            if self.alias:
                raise ValueError(f"key rule {self.original!r}: an alias needs a native name")
        elif self.native.count(PLACEHOLDER) != self.original.count(PLACEHOLDER):
            raise ValueError(f"key rule {self.original!r} -> {self.native!r}: different numbers of '{{}}'")

    def inside(self, old_prefix: str, new_prefix: str) -> KeyRule:
        """The rule for the same tensor in an outer component whose names have these prefixes, dots included."""
        native = None if self.native is None else new_prefix + self.native
        return replace(self, original=old_prefix + self.original, native=native)


@cache
def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(_CAPTURE.join(re.escape(part) for part in pattern.split(PLACEHOLDER)))


class KeyTable:
    """An ordered list of key rules; the first that matches wins, in either direction.

    Args:
        rules: the rules, the more special ones first.
    """

    def __init__(self, rules: Iterable[KeyRule]):
        self.rules = tuple(rules)
        self._forward = [(_matcher(rule.original), rule) for rule in self.rules]
        self._backward = [(_matcher(rule.native), rule) for rule in self.rules if rule.native is not None]

    def find_all(self, original_key: str) -> list[tuple[KeyRule, str | None]]:
        """(rule, native key) for each of our tensors that an original key is; empty if no rule knows it.

        There is one, whose native key is None if it is left out, and several where the original's tensor is split.
        """
        found: list[tuple[KeyRule, str | None]] = []
        for matcher, rule in self._forward:
            if found and (found[0][0].original_part is None or rule.original != found[0][0].original):
                continue
            if match := matcher.fullmatch(original_key):
                found.append((rule, None if rule.native is None else rule.native.format(*match.groups())))
                if rule.original_part is None:
                    break
        return found

    def find(self, original_key: str) -> tuple[KeyRule | None, str | None]:
        """The first of `find_all`; (None, None) if no rule knows the key."""
        return next(iter(self.find_all(original_key)), (None, None))

    def leaves_out(self, original_key: str) -> bool:
        """Whether a rule knows an original key and drops it."""
        rule, native = self.find(original_key)
        return rule is not None and native is None

    def to_native(self, original_key: str) -> str | None:
        """The native name of an original key, or None if it is left out or no rule knows it."""
        return self.find(original_key)[1]

    def origins(self, native_key: str) -> list[tuple[KeyRule, str]]:
        """(rule, original key) of each original tensor that holds a native key's; empty if there is none.

        There is one, followed by its aliases, and several where parts of the tensor are joined.
        """
        first: list[tuple[KeyRule, str]] = []
        aliases: list[tuple[KeyRule, str]] = []
        for matcher, rule in self._backward:
            joins = bool(first) and first[0][0].native_part is not None and rule.native == first[0][0].native
            if (not first or rule.alias or joins) and (match := matcher.fullmatch(native_key)):
                (aliases if rule.alias else first).append((rule, rule.original.format(*match.groups())))
        return first + aliases

    def to_originals(self, native_key: str) -> list[str]:
        """The original names of a native key, aliases last; empty if there is none."""
        return [name for _, name in self.origins(native_key)]

    def to_original(self, native_key: str) -> str | None:
        """The first original name of a native key, or None if there is none."""
        return next(iter(self.to_originals(native_key)), None)


@dataclass(frozen=True)
class Context:
    """What a translate function reads besides its own dict, and where it puts notes and findings.

    Args:
        where: place of the dict in the original config, for error messages ("model.decode_head[1]").
        original: the whole original config.
        test_cfg: the model's test settings, from which heads take their own; shared by all components of a model.
        notes: remarks for the user about what was not carried over; shared by all components of a model.
        ignore_index: the ignored label id of each head, by its place; shared by all components of a model.
        one_channel: number of classes that each head with one output channel named, by its place; shared by all
            components of a model.
        package: the package that stands before the type of the dict, such as "mmcls"; empty for none.
    """

    where: str
    original: OriginalConfig = field(default_factory=OriginalConfig)
    test_cfg: Options = field(default_factory=lambda: Options({}, "model.test_cfg"))
    notes: list[str] = field(default_factory=list)
    ignore_index: dict[str, int] = field(default_factory=dict)
    one_channel: dict[str, int] = field(default_factory=dict)
    package: str = ""

    @property
    def of_mmpretrain(self) -> bool:
        """Whether the class is one of mmpretrain, or of mmcls, as it was called before."""
        return self.package in ("mmcls", "mmpretrain")

    def at(self, where: str) -> Context:
        """The same context at another place of the config."""
        return replace(self, where=where)

    def take_ignore_index(self, options: Options) -> None:
        """Takes the ignored label of the head at this place: 255 by default, and PyTorch's -100 for None.

        Raises:
            ConversionError: it is not an integer.
        """
        label = options.take("ignore_index", 255)
        label = -100 if label is None else label
        if type(label) is not int:
            raise options.error(f"ignore_index={label!r} must be an integer or None")
        self.ignore_index[self.where] = label

    def note(self, where: str, text: str) -> None:
        """Adds a remark for the user about what differs in training or use; logits are never affected."""
        self.notes.append(f"{where}: {text}")


@dataclass(frozen=True, kw_only=True)
class ComponentRule:
    """How one component converts.

    Args:
        types: names of the original classes, as configs write them in ``type``.
        translate: ``translate(original_dict, context) -> native config``. It accounts for every option of the dict
            through :class:`Options`, so that an unknown option is an error and never silently dropped. A component
            that holds another one returns ``(native config, key rules)``, with the rules that `nested` returned.
        keys: the key rules, or ``keys(native_config) -> rules`` where they depend on the config.
        told_by: where several original classes have the same name, options that only this one has.
    """

    types: tuple[str, ...]
    translate: Callable[[Mapping[str, Any], Context], Any]
    keys: tuple[KeyRule, ...] | Callable[[Any], Iterable[KeyRule]]
    told_by: tuple[str, ...] = ()

    def key_table(self, config: Any) -> KeyTable:
        """The key table of a component with this native config, without the keys of components inside it."""
        return KeyTable(self.keys(config) if callable(self.keys) else self.keys)

    def convert(self, original: Mapping[str, Any], context: Context) -> tuple[Any, KeyTable]:
        """Translates an original dict to a native config and the key table of the whole component.

        Raises:
            ConversionError: an option is not known or not supported, or a value does not fit its option.
        """
        written, name = original["type"], type_name(original, context.where, self.types)
        if name != type_name(original, context.where):
            context.note(context.where, f"its class {written} is taken for {name} of the same name")
        package = written.split(".")[0] if "." in written else str(original.get("_scope_") or "")
        context = replace(context, package=package)
        with values_that_fit(context.where), taking_notes(context.notes):
            found = self.translate({**original, "type": name}, context)
        config, inner = found if isinstance(found, tuple) else (found, ())
        return config, KeyTable((*inner, *self.key_table(config).rules))


@dataclass(frozen=True, kw_only=True)
class BackboneRule(ComponentRule):
    """The rule of a component that turns an image into feature maps.

    Args:
        neck: ``neck(native_config) -> (config of the neck, key rules)`` if the original class holds layers that are a
            neck of ours; the rules rename keys of the backbone to keys of the neck.
        neck_option: the option of the original class that adds these layers; None if they are always there.
        neck_by_default: whether it has them if the option is not given.
    """

    kind = "backbone"
    neck: Callable[[Any], tuple[Any, Iterable[KeyRule]]] | None = None
    neck_option: str | None = None
    neck_by_default: bool = False

    def neck_of(self, original: Mapping[str, Any]) -> Callable[[Any], tuple[Any, Iterable[KeyRule]]] | None:
        """``neck`` if the component with this original dict has such layers, and otherwise None."""
        there = self.neck_option is None or original.get(self.neck_option, self.neck_by_default)
        return self.neck if there else None


class NeckRule(ComponentRule):
    """The rule of a component between backbone and heads."""

    kind = "neck"


class HeadRule(ComponentRule):
    """The rule of a component that turns feature maps into logits: decode head or auxiliary head."""

    kind = "head"


Rule = TypeVar("Rule", bound=ComponentRule)
RULES: dict[str, dict[str, tuple[ComponentRule, ...]]] = {"backbone": {}, "neck": {}, "head": {}}


def register(rule: Rule) -> Rule:
    """Makes a rule known under each of its type names, and returns it.

    Raises:
        ValueError: another rule already has one of the type names, and nothing tells the two apart.
    """
    known = RULES[rule.kind]
    for name in rule.types:
        others = known.get(name, ())
        if any(not (rule.told_by and other.told_by) for other in others):
            raise ValueError(f"two conversion rules for the {rule.kind} type {name!r}")
        known[name] = (*others, rule)
    return rule


def find_rule(kind: str, original: Any, where: str) -> ComponentRule:
    """The rule for an original dict, among those that importing `segzoo.conversion.rules` has registered.

    Of several for one type it is the one that has options of the dict for itself, and otherwise the first.

    Args:
        kind: "backbone", "neck" or "head".
        original: the dict.
        where: its place in the original config, for messages.

    Raises:
        UnknownTypeError: no rule knows its type; the message names it, the known types and the nearest of them.
    """
    known = RULES[kind]
    name = type_name(original, where, known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UnknownTypeError(
            f"{where}: {kind} type {name!r} is not supported (known: {', '.join(sorted(known)) or 'none'}){hint}"
        )
    rules = known[name]
    return next((rule for rule in rules if any(option in original for option in rule.told_by)), rules[0])


def nested(
    kind: str, original: Any, context: Context, old_prefix: str, new_prefix: str
) -> tuple[Any, tuple[KeyRule, ...]]:
    """Translates an inner component for the ``translate`` of the outer one, which returns its rules too.

    Args:
        kind: "backbone", "neck" or "head".
        original: the inner component's dict.
        context: the context at the inner component's place.
        old_prefix: prefix of its keys in the outer component's original state dict, with the dot.
        new_prefix: prefix of its keys in our state dict of the outer component, with the dot.

    Returns:
        the native config, and the key rules with the prefixes.

    Raises:
        ConversionError: no rule knows its type, it has a neck inside, or one of its options or values is not supported.
    """
    rule = find_rule(kind, original, context.where)
    if isinstance(rule, BackboneRule) and rule.neck_of(original) is not None:
        raise ConversionError(f"{context.where}: {original['type']} inside another component is not supported")
    config, table = rule.convert(original, context)
    return config, tuple(rule.inside(old_prefix, new_prefix) for rule in table.rules)

"""Key rules: how one component of an original model is named and configured, as data.

A component (backbone, neck or head) of an original model is described by one :class:`ComponentRule`: the type names
under which original configs know it, a function that translates its config, and a table of :class:`KeyRule` that
renames its weights.  The table works in both directions: a native model can be written back with its original names.

    RESNET = register(BackboneRule(types=("ResNet", "ResNetV1c"), translate=translate_resnet, keys=RESNET_KEYS))

Adding a component touches its own file in ``conversion/rules`` alone.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from segzoo.conversion.errors import ConversionError
from segzoo.errors import SegZooError

PLACEHOLDER = "{}"
_CAPTURE = r"([^.]+(?:\.[^.]+)*?)"
_REQUIRED = object()
# mmengine writes the scope of a registry before the type: mmseg.FCNHead, mmpretrain.ConvNeXt
_SCOPES = ("mmseg.", "mmcls.", "mmpretrain.", "mmdet.", "mmengine.", "mmcv.")


def type_name(original: Any, where: str) -> str:
    """The ``type`` of an original config dict, without the registry scope that 1.x configs may carry.

    Raises:
        ConversionError: ``original`` is not a dict, or has no ``type``.
    """
    if not isinstance(original, Mapping) or not isinstance(original.get("type"), str):
        raise ConversionError(f"{where}: expected a dict with a 'type', found {original!r:.80}")
    name = original["type"]
    for scope in _SCOPES:
        name = name.removeprefix(scope)
    return name


@dataclass(frozen=True)
class KeyRule:
    """One renaming.

    Args:
        original: name in the original state dict, relative to the component. Each ``{}`` stands for one or more whole
            dotted segments.
        native: name in our state dict, with as many ``{}``, filled in the same order. None: the original has the entry
            and we need it not (a buffer that is computed, a layer that is never used); it is left out, and reported.
    """

    original: str
    native: str | None

    def __post_init__(self) -> None:
        for pattern in (self.original, self.native):
            if pattern is None:
                continue
            for segment in pattern.split("."):
                if PLACEHOLDER in segment and segment != PLACEHOLDER:
                    raise ValueError(f"key rule {pattern!r}: '{{}}' must be a whole dotted segment")
        if self.native is not None and self.native.count(PLACEHOLDER) != self.original.count(PLACEHOLDER):
            raise ValueError(f"key rule {self.original!r} -> {self.native!r}: different numbers of '{{}}'")


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

    def find(self, original_key: str) -> tuple[KeyRule | None, str | None]:
        """(rule, native key) for an original key: (None, None) if no rule knows it, (rule, None) if it is left out."""
        for matcher, rule in self._forward:
            match = matcher.fullmatch(original_key)
            if match:
                return rule, None if rule.native is None else rule.native.format(*match.groups())
        return None, None

    def to_native(self, original_key: str) -> str | None:
        """The native name of an original key, or None where there is none."""
        return self.find(original_key)[1]

    def to_original(self, native_key: str) -> str | None:
        """The original name of a native key, or None where there is none."""
        for matcher, rule in self._backward:
            match = matcher.fullmatch(native_key)
            if match:
                return rule.original.format(*match.groups())
        return None


@dataclass(frozen=True)
class Context:
    """What a translate function may know besides its own dict, and where it leaves what it found.

    Args:
        where: place of the dict in the original config, for error messages ("model.decode_head[1]").
        config: the whole original config.
        notes: remarks for the user about what was not carried over; shared by all components of a model.
        ignore_index: the ignored label ids that the heads named; shared by all components of a model.
    """

    where: str
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ignore_index: set[int] = field(default_factory=set)

    def at(self, where: str) -> Context:
        """The same context at another place of the config."""
        return replace(self, where=where)

    def note(self, where: str, text: str) -> None:
        """Leaves a remark for the user: what differs in training; never anything that changes the logits."""
        self.notes.append(f"{where}: {text}")


@dataclass(frozen=True, kw_only=True)
class ComponentRule:
    """How one component converts.

    Args:
        types: names of the original classes, as configs write them in ``type``.
        translate: ``translate(original_dict, context) -> native config``. It accounts for every option of the dict
            through :class:`Options`, so an option that nobody knows is an error and never silently dropped.
        keys: the key rules, or ``keys(native_config) -> rules`` where they depend on the config.
    """

    types: tuple[str, ...]
    translate: Callable[[Mapping[str, Any], Context], Any]
    keys: tuple[KeyRule, ...] | Callable[[Any], Iterable[KeyRule]]

    def key_table(self, config: Any) -> KeyTable:
        """The key table for a component with this native config."""
        return KeyTable(self.keys(config) if callable(self.keys) else self.keys)


class BackboneRule(ComponentRule):
    """A component that turns an image into feature maps."""

    kind = "backbone"


class NeckRule(ComponentRule):
    """A component between backbone and heads."""

    kind = "neck"


class HeadRule(ComponentRule):
    """A component that turns feature maps into logits: decode head or auxiliary head."""

    kind = "head"


RULES: dict[str, dict[str, ComponentRule]] = {"backbone": {}, "neck": {}, "head": {}}


def register(rule: ComponentRule) -> ComponentRule:
    """Makes a rule known under each of its type names, and returns it.

    Raises:
        ValueError: another rule already has one of the type names.
    """
    known = RULES[rule.kind]
    for name in rule.types:
        if known.setdefault(name, rule) is not rule:
            raise ValueError(f"two conversion rules for the {rule.kind} type {name!r}")
    return rule


def find_rule(kind: str, original: Any, where: str) -> ComponentRule:
    """The rule for an original dict; kind is "backbone", "neck" or "head".

    Raises:
        ConversionError: no rule knows its type; the message names it, the known types and the nearest of them.
    """
    from segzoo.conversion import rules  # noqa: F401  (each rule module registers itself)

    name = type_name(original, where)
    known = RULES[kind]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConversionError(
            f"{where}: {kind} type {name!r} is not supported (known: {', '.join(sorted(known))}){hint}"
        )
    return known[name]


@contextlib.contextmanager
def values_that_fit(where: str) -> Iterator[None]:
    """Turns what a value of the wrong type or length raises, deep inside, into an error that names the place.

    Raises:
        ConversionError: the block raised such an error; errors of segzoo pass unchanged.
    """
    try:
        yield
    except SegZooError:
        raise
    except (StrictDataclassError, TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, SegZooError):
            raise cause from error
        raise ConversionError(f"{where}: a value does not fit its option ({' '.join(str(cause).split())})") from error


class Options:
    """The options of one original config dict, each of which must be accounted for.

    >>> o = Options({"type": "ResNet", "depth": 50, "with_cp": True}, where="model.backbone")
    >>> o.take("depth")
    50
    >>> o.ignore("with_cp")
    >>> o.finish()

    Args:
        original: the dict; it is not changed. ``type`` and ``_delete_`` count as accounted for.
        where: its place in the original config, for error messages.

    Raises:
        ConversionError: ``original`` is no dict.
    """

    def __init__(self, original: Mapping[str, Any], where: str):
        if not isinstance(original, Mapping):
            raise ConversionError(f"{where}: expected a dict, found {original!r:.80}")
        self.where = where
        self._left = {k: v for k, v in original.items() if k not in ("type", "_delete_", "_scope_")}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def error(self, message: str) -> ConversionError:
        """A ConversionError that begins with the place of this dict."""
        return ConversionError(f"{self.where}: {message}")

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value of an option; ``default`` where it is absent.

        Raises:
            ConversionError: it is absent and there is no default.
        """
        value = self._left.pop(name, default)
        if value is _REQUIRED:
            raise self.error(f"the option {name!r} is missing")
        return value

    def ignore(self, *names: str) -> None:
        """Accounts for options that do not change the numbers of the converted model (training and initialisation)."""
        for name in names:
            self._left.pop(name, None)

    def expect(self, name: str, *allowed: Any) -> Any:
        """Accounts for an option that is supported with some values only; absent is fine and gives the first of them.

        Raises:
            ConversionError: it has another value; the message names the option, its value and the supported ones.
        """
        value = self._left.pop(name, allowed[0])
        if isinstance(value, tuple):
            value = list(value)
        if value not in [list(a) if isinstance(a, tuple) else a for a in allowed]:
            supported = " or ".join(repr(a) for a in allowed)
            raise self.error(f"{name}={value!r} is not supported (only {supported})")
        return value

    def norm_eps(self, name: str = "norm_cfg", default: Any = _REQUIRED) -> float | None:
        """Takes a norm config: the eps of its batch normalisation, or None where there is no norm (``norm_cfg=None``).

        ``default`` is the norm config of the original class where the option is absent.

        Raises:
            ConversionError: the norm is not a batch normalisation, or has an option that is not known.
        """
        original = self.take(name, default)
        if original is None:
            return None
        place = f"{self.where}.{name}"
        if (kind := type_name(original, place)) not in ("BN", "BN2d", "SyncBN", "MMSyncBN", "NaiveSyncBN"):
            raise ConversionError(f"{place}: norm type {kind!r} is not supported here (only BN and SyncBN)")
        options = Options(original, place)
        options.ignore("requires_grad", "momentum")
        options.expect("affine", True)
        options.expect("track_running_stats", True)
        eps = options.take("eps", 1e-5)
        options.finish()
        return float(eps)

    def expect_relu(self, name: str = "act_cfg") -> None:
        """Accounts for an activation config that must be ReLU.

        Raises:
            ConversionError: it is another activation.
        """
        original = self.take(name, {"type": "ReLU"})
        place = f"{self.where}.{name}"
        if original is None or type_name(original, place) != "ReLU":
            raise ConversionError(f"{place}: activation {original!r} is not supported here (only ReLU)")
        options = Options(original, place)
        options.ignore("inplace")
        options.finish()

    def finish(self) -> None:
        """Closes the account.

        Raises:
            ConversionError: options are left that nobody took; the message names them with their values.
        """
        if self._left:
            listed = ", ".join(f"{k}={v!r:.60}" for k, v in self._left.items())
            raise self.error(f"unknown option{'s' if len(self._left) > 1 else ''} {listed}")

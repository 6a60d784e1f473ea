"""The options of an original config, each of which must be taken, expected or ignored; what is left over is an error.

So an option that nobody thought of cannot silently change the numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from segzoo.conversion.errors import ConfigReadError, ConversionError
from segzoo.errors import SegZooError, one_line

MAX_ENTRIES = 70_000
"""The most entries of a list in an original config: one for each class, and some."""

_REQUIRED = object()
_BATCH_NORM = {"type": "BN"}
_LAYER_NORM = {"type": "LN"}
# Keys of `segzoo.layers.conv.NORMS` and `ACTIVATIONS` by original type.
_NORMS = {
    **dict.fromkeys(("BN", "SyncBN", "BN2d", "MMSyncBN", "NaiveSyncBN"), "batch_norm"),
    "GN": "group_norm",
}
_ACTIVATIONS = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Swish": "silu",
    "HSwish": "hardswish",
}
# Packages whose names may stand before a type: as the scope of a registry (mmseg.FCNHead, mmpretrain.ConvNeXt), or as
# the place of a class in mmengine's lazy configs (mmseg.models.backbones.resnet.ResNetV1c, torch.nn.SyncBatchNorm).
_PACKAGES = (
    "mmseg", "mmcls", "mmpretrain", "mmdet", "mmengine", "mmcv", "mmseg_custom", "mmdet_custom", "mmcv_custom",
    "mmseg_extension", "torch",
)  # fmt: skip
# Names of PyTorch's classes, which lazy configs use -> names of the same in mmcv's registries.
_TORCH_CLASSES = {
    "BatchNorm2d": "BN",
    "SyncBatchNorm": "SyncBN",
    "GroupNorm": "GN",
    "LayerNorm": "LN",
    "InstanceNorm2d": "IN",
    "Hardswish": "HSwish",
}

# What the originals do with options that act in training alone, and how to do it here.
_LEFT_OUT = "it acts in training alone, and is left out"
_FROZEN = "the original trains no part of it; nor does --freeze_backbone"
_IN_TRAINING = {
    "freeze_vit": _FROZEN,
    "frozen": _FROZEN,
    "frozen_exclude": "the original trains no parameters but those with these names; here all of them train",
    "frozen_stages": "the original does not train its first stages, which train here; --freeze_backbone trains none of them",
    "norm_eval": "in training the original's batch norms keep their running statistics; with --freeze_norms all of the model's do",
    "requires_grad": "the original does not train the weights and biases of these norms; here they train, unless "
    "SegmentationTrainer gets them with requires_grad=False",
    "unfreeze_pos_embed": "the original trains the positions although the rest is frozen; --freeze_backbone does not",
}
_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextlib.contextmanager
def taking_notes(notes: list[str]) -> Iterator[None]:
    """Adds to ``notes`` what `Options.in_training` finds inside the block, at any depth of the config."""
    token = _NOTES.set(notes)
    try:
        yield
    finally:
        _NOTES.reset(token)


def type_name(original: Any, where: str, known: Container[str] = ()) -> str:
    """The name of an original config dict's ``type``, as mmcv's and mmsegmentation's registries call it.

    Packages that stand before the name in 1.x configs are left out, and classes of PyTorch have mmcv's names:
    "torch.nn.SyncBatchNorm" is "SyncBN".

    Args:
        original: the dict.
        where: its place in the original config, for messages.
        known: names that are taken out of packages of any other name too; without them such a name is returned whole.

    Raises:
        ConversionError: ``original`` is not a dict, or has no ``type``.
    """
    if not isinstance(original, Mapping) or not isinstance(original.get("type"), str):
        raise ConversionError(f"{where}: expected a dict with a 'type', found {original!r:.80}")
    name = original["type"]
    last = name.rpartition(".")[2]
    short = _TORCH_CLASSES.get(last, last)
    package = name.partition(".")[0] if "." in name else None
    return short if package in (None, *_PACKAGES) or short in known else name


@contextlib.contextmanager
def values_that_fit(where: str) -> Iterator[None]:
    """Turns an error that a value of the wrong type or length raises inside the block into one that names the place.

    Args:
        where: the place in the original config.

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
        raise ConversionError(f"{where}: a value does not fit its option ({one_line(cause):.500})") from error


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except ConfigReadError as error:  # it, or a part of it, could not be read
        return f"(cannot be read: {error})"


class Options:
    """The options of one original config dict, each of which must be accounted for.

    >>> o = Options({"type": "ResNet", "depth": 50, "with_cp": True}, where="model.backbone")
    >>> o.take("depth")
    50
    >>> o.ignore("with_cp")
    >>> o.finish()

    Args:
        original: the dict, which is not changed. ``type``, ``_delete_`` and ``_scope_`` need no account.
        where: its place in the original config, for error messages.

    Raises:
        ConversionError: ``original`` is not a dict.
    """

    def __init__(self, original: Mapping[str, Any], where: str):
        if not isinstance(original, Mapping):
            raise ConversionError(f"{where}: expected a dict, found {original!r:.80}")
        self.where = where
        self._left = {k: v for k, v in original.items() if k not in ("type", "_delete_", "_scope_")}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def error(self, message: str) -> ConversionError:
        """A ConversionError whose message begins with the place of this dict."""
        return ConversionError(f"{self.where}: {message}")

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """Takes the value of an option, or ``default`` if the option is absent.

        Raises:
            ConversionError: the option is absent and there is no default, or it is a list longer than `MAX_ENTRIES`.
        """
        value = self._left.pop(name, default)
        if value is _REQUIRED:
            raise self.error(f"the option {name!r} is missing")
        if type(value) in (list, tuple) and len(value) > MAX_ENTRIES:
            raise self.error(f"{name} has {len(value)} entries, and no option has more than {MAX_ENTRIES}")
        return value

    def ignore(self, *names: str) -> None:
        """Accounts for options that affect neither the numbers of the converted model nor how it trains on."""
        for name in names:
            self._left.pop(name, None)

    def in_training(self, name: str, default: Any, usual: Sequence[Any] | None = None) -> None:
        """Accounts for an option that acts in training alone; a value with which a model trains otherwise here is noted.

        Args:
            name: of the option; ``_IN_TRAINING`` has the words of the note.
            default: the value of the original class, if the option is absent.
            usual: values with which the original trains as segzoo does; None is ``default`` alone.
        """
        value = self._left.pop(name, default)
        try:
            differs = value not in ((default,) if usual is None else usual)
        except ConfigReadError:
            differs = True
        notes = _NOTES.get()
        if differs and notes is not None:
            notes.append(f"{self.where}: {name}={_shown(value)}: {_IN_TRAINING.get(name, _LEFT_OUT)}")

    def expect(self, name: str, *allowed: Any) -> Any:
        """Takes an option of which only some values are supported; if it is absent, its value is the first of them.

        Raises:
            ConversionError: the value is another; the message names the option, the value and the supported values.
        """
        value = self._left.pop(name, allowed[0])
        try:
            if isinstance(value, tuple):
                value = list(value)
            if value in [list(a) if isinstance(a, tuple) else a for a in allowed]:
                return value
            found = f"{name}={value!r:.200}"
        except ConfigReadError as error:
            raise self.error(f"{name} cannot be read ({error})") from None
        supported = " or ".join(repr(a) for a in allowed)
        raise self.error(f"{found} is not supported (only {supported})")

    def norm(self, name: str = "norm_cfg", default: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Takes a norm config, and returns our fields ``norm``, ``norm_eps`` and, of batch norms, ``norm_momentum``.

        Without a norm the only field is ``norm=None``; a momentum that is not given is PyTorch's.

        Args:
            name: name of the option.
            default: the norm config of the original class, if the option is absent; None for no norm.

        Raises:
            ConversionError: the norm is neither a batch norm nor a group norm of 32 groups, or has an unknown option.
        """
        return self._norm(name, default, _NORMS)

    def batch_norm(self, name: str = "norm_cfg", default: Mapping[str, Any] | None = _BATCH_NORM) -> dict[str, Any]:
        """Takes a norm config that must be a batch norm; arguments and result are those of `norm`, without ``norm``.

        Raises:
            ConversionError: there is no norm, it is not a batch norm, or it has an unknown option.
        """
        fields = self._norm(name, default, {k: norm for k, norm in _NORMS.items() if norm == "batch_norm"})
        if fields.pop("norm") is None:
            raise self.error(f"a network without normalisation ({name}=None) is not supported here")
        return fields

    def layer_norm_eps(self, name: str = "norm_cfg", *, kind: str = "LN", eps: float = 1e-5) -> float:
        """Takes a norm config that must be a layer norm, which it is by default, and returns its eps.

        Args:
            name: name of the option.
            kind: type of the original's layer norm.
            eps: its eps, if the option is absent.

        Raises:
            ConversionError: there is no norm, it is not a layer norm, or it has an unknown option.
        """
        fields = self._norm(name, {"type": kind, "eps": eps}, {kind: "layer_norm"})
        if fields["norm"] is None:
            raise self.error(f"a network without normalisation ({name}=None) is not supported here")
        return fields["norm_eps"]

    def _norm(self, name: str, default: Mapping[str, Any] | None, supported: Mapping[str, str]) -> dict[str, Any]:
        original = self.take(name, default)
        if original is None:
            return {"norm": None}
        place = f"{self.where}.{name}"
        kind, options = type_name(original, place, _NORMS), Options(original, place)
        if kind not in supported:
            raise options.error(f"norm type {kind!r} is not supported here (only {', '.join(supported)})")
        options.in_training("requires_grad", True)
        momentum = options.take("momentum", None)
        options.expect("affine", True)
        if supported[kind] == "group_norm":
            if (groups := options.take("num_groups")) != 32:
                raise options.error(f"num_groups={groups!r} is not supported (only 32)")
        else:
            options.expect("track_running_stats", True)
        eps = float(options.take("eps", 1e-5))
        options.finish()
        fields = {"norm": supported[kind], "norm_eps": eps}
        if momentum is not None and supported[kind] == "batch_norm":
            fields["norm_momentum"] = float(momentum)
        return fields

    def activation(self, name: str = "act_cfg", default: str = "ReLU", only: str | None = None) -> str | None:
        """Takes an activation config, and returns its key in `segzoo.layers.conv.ACTIVATIONS`; None for no activation.

        Args:
            name: name of the option.
            default: the type of the original class's activation, if the option is absent.
            only: the only original type that is supported here; None supports all that we have, and no activation.

        Raises:
            ConversionError: it is not supported, or it has an unknown option.
        """
        original = self.take(name, {"type": default})
        place = f"{self.where}.{name}"
        if original is None and only is None:
            return None
        kind = None if original is None else type_name(original, place, _ACTIVATIONS)
        if kind not in _ACTIVATIONS or only not in (None, kind):
            supported = only or ", ".join(_ACTIVATIONS)
            raise ConversionError(f"{place}: activation {original!r} is not supported here (only {supported})")
        options = Options(original, place)
        options.ignore("inplace")
        if kind == "LeakyReLU":
            options.expect("negative_slope", 0.01)
        elif kind == "GELU":
            options.expect("approximate", "none")
        options.finish()
        return _ACTIVATIONS[kind]

    def rest(self) -> str:
        """Accounts for all options that are left, and returns them with their values as text; empty for none."""
        listed = ", ".join(f"{name}={_shown(value)}" for name, value in self._left.items())
        self._left.clear()
        return listed

    def finish(self) -> None:
        """Checks that every option has been accounted for.

        Raises:
            ConversionError: options are left; the message names them with their values.
        """
        if self._left:
            many = "s" if len(self._left) > 1 else ""
            raise self.error(f"unknown option{many} {self.rest()}")

"""The base classes of all configs and models."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

import torch
from huggingface_hub import dataclasses as hub_dataclasses
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from segzoo.compat import ComposableConfig
from segzoo.errors import SegZooError
from segzoo.layers.conv import ACTIVATIONS, ConvNormAct
from segzoo.layers.pointwise import plain_linears
from segzoo.sizes import MAX_SIZE

# Lists of numbers in configs: tuples are taken too, and kept as lists, as JSON gives them back.
Ints = list[int] | tuple[int, ...]

MAX_LAYERS = 1000
"""The most layers, blocks or stages of one kind in a config. The deepest published model has 152."""

# Fields that say how many layers are built, or how many entries a list has; 0 is a number of layers too.
_LAYERS = frozenset(
    {
        "blocks",
        "branch_blocks",
        "decoder_layers",
        "depth",
        "depths",
        "encoder_layers",
        "extra_extractors",
        "extra_maps",
        "modules",
        "num_convs",
        "num_hidden_layers",
        "num_layers",
        "num_levels",
        "num_stages",
        "recurrence",
        "stem_blocks",
        "subdivision_steps",
    }
)
# Fields that may be below 1: positions, and sizes that 0 turns off or that have a check of their own.
_HAVE_NO_LEAST = frozenset(
    {"first_map", "in_index", "interaction_layers", "post_norm_blocks", "windows", "window_size", "window_stride"}
)
# Keys with an entry for each class.
_OF_CLASSES = frozenset({"id2label", "label2id", "palette"})
# The id of pixels that do not count may be any number.
_WITHOUT_BOUND = "semantic_loss_ignore_index"

Activation = Literal["relu", "relu6", "leaky_relu", "gelu", "silu", "hardswish"]

# What transformers itself gives to a config besides the config's fields: what PreTrainedConfig.__post_init__ takes out
# of its keyword arguments, the attributes that it sets (both end up in config.json), and what from_pretrained,
# quantizers and code on the Hub add. After a new release of transformers tests/test_base.py names what is missing
# here.
_TRANSFORMERS_KEYS = frozenset(
    {
        "_attn_implementation_internal",
        "_commit_hash",
        "_experts_implementation_internal",
        "_name_or_path",
        "_output_attentions",
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "torch_dtype",
        "use_cache",
    }
)

# Whether configs are being loaded, which keep keys that they do not know; their constructors refuse them.
_keeps_unknown_keys: ContextVar[bool] = ContextVar("keeps_unknown_keys", default=False)


Config = TypeVar("Config", bound=type)


def strict(cls: Config) -> Config:
    """huggingface_hub's ``strict``, which checks the types of a config's fields, with whole numbers for floats too.

    ``dropout=0`` is kept as 0.0, and ``[1, 0.4]`` in a list of floats as ``[1.0, 0.4]``.
    """
    unchecked = cls.__setattr__
    cls = hub_dataclasses.strict(cls)
    floats = {field.name for field in fields(cls) if _takes(field.type, float, int)}
    checked = cls.__setattr__

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self)._strict is cls:
            checked(self, name, _as_floats(value) if name in floats else value)
        else:  # a class that is derived from this one has checked all fields
            unchecked(self, name, value)

    cls.__setattr__, cls._strict = __setattr__, cls
    return cls


def _takes(hint: Any, kind: type, without: type) -> bool:
    """Whether a type hint, or one within it, is of a kind and none of another."""
    kinds, rest = set(), [hint]
    while rest:
        rest += get_args(found := rest.pop())
        kinds.add(found)
    return kind in kinds and without not in kinds


def _as_floats(value: Any) -> Any:
    """Whole numbers as floats, also in lists; one that no float holds is left for the check of types to refuse."""
    if isinstance(value, list | tuple):
        return type(value)(map(_as_floats, value))
    return float(value) if type(value) is int and abs(value) <= 2**53 else value


@strict
class SegZooBaseConfig(ComposableConfig):
    """Base of all segzoo configs: typed fields, and an error for a key that is not one of them.

    transformers accepts unknown keyword arguments silently, so that a misspelt option would train another model.

    Raises:
        SegZooError: a keyword argument is not a field of the config; the message lists the fields.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(key for key in kwargs if key not in _TRANSFORMERS_KEYS)
        if unknown and _keeps_unknown_keys.get():
            warnings.warn(
                f"the config of type {self.model_type} has {', '.join(map(repr, unknown))}, which this version of segzoo does not "
                "know: kept, and without effect",
                stacklevel=2,
            )
        elif unknown:
            known = sorted({f.name for f in fields(self)} - {f.name for f in fields(PreTrainedConfig)})
            raise SegZooError(
                f"{type(self).__name__} has no option {', '.join(map(repr, unknown))}; its options are: {', '.join(known)}"
            )
        kwargs.pop("model_type", None)
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), tuple):
                setattr(self, field.name, list(value))
        check_num_labels({"num_labels": kwargs.get("num_labels")}, type(self).__name__)
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build a config from what `to_dict` or a later version wrote.

        Unlike the constructor it takes keys that are not options, an attribute of a user's or an option of a later
        version of segzoo: they are kept as attributes, and a warning names them.

        Args:
            config_dict: the options, and parts of the config as dicts.
            kwargs: further options, and ``return_unused_kwargs``, as transformers' ``from_dict`` takes them.

        Raises:
            SegZooError: an option is out of range, or a list or dict has more entries than any model's.
        """
        for name, value in config_dict.items():  # before each entry's type is looked at
            most = MAX_SIZE if name in _OF_CLASSES else MAX_LAYERS
            if isinstance(value, list | tuple | dict) and len(value) > most:
                raise SegZooError(
                    f"{cls.__name__}: {name} has {len(value)} entries, and no model has more than {most}"
                )
        token = _keeps_unknown_keys.set(True)
        try:
            return super().from_dict(config_dict, **kwargs)
        finally:
            _keeps_unknown_keys.reset(token)

    def _numbers(self) -> Iterator[tuple[str, list[Any]]]:
        """The fields that are numbers or lists of numbers, each as a list."""
        of_transformers = {field.name for field in fields(PreTrainedConfig)}
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, list) else [value]
            if field.name not in of_transformers and values and all(type(number) in (int, float) for number in values):
                yield field.name, values

    def _check_bounds(self) -> None:
        """No number is of a model that cannot be built: thousands of layers, sizes of millions, strides of 0."""
        for name, values in self._numbers():
            if name == _WITHOUT_BOUND:
                continue
            shown = f"{type(self).__name__}: {name}={getattr(self, name)!r:.60}"
            most = MAX_LAYERS if name in _LAYERS else MAX_SIZE
            if len(values) > MAX_LAYERS:
                raise SegZooError(f"{shown} has {len(values)} entries, and no model has more than {MAX_LAYERS}")
            if not all(abs(number) <= most for number in values):  # NaN is not
                raise SegZooError(f"{shown} is out of range; no model has more than {most}")
            if name.endswith("eps") and min(values) < 0:
                raise SegZooError(f"{shown} must not be negative")
            least = 0 if name in _LAYERS else 1
            if name not in _HAVE_NO_LEAST and any(type(number) is int and number < least for number in values):
                raise SegZooError(f"{shown} must be {least} at least")
        check_depth(self)

    def check(self) -> None:
        """Raise a SegZooError when options are out of range or do not fit each other.

        Subclasses call ``super().check()`` first and go on: every number has a bound then, and what is counted or
        divided by is 1 at least. transformers' ``validate_*`` methods would do the same, but wrap the error in one that
        is not a ValueError.
        """
        self._check_bounds()

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: segzoo writes its own shim, and transformers' copy of one source file would not load."""


def check_num_labels(values: Mapping[str, Any], source: str) -> None:
    """Refuse a number of classes that none can have; transformers would make a name for each of them.

    Args:
        values: of a config; ``num_labels`` may be missing or None.
        source: where they come from, for the message.

    Raises:
        SegZooError: it is no integer in 1..MAX_SIZE.
    """
    count = values.get("num_labels")
    if count is not None and (type(count) is not int or not 1 <= count <= MAX_SIZE):
        raise SegZooError(
            f"{source}: num_labels={count!r:.60} is no number of classes; give an integer from 1 to {MAX_SIZE}"
        )


def check_depth(config: PreTrainedConfig) -> None:
    """Refuse a config with more layers than any model, over all its stages; transformers' own configs have no bound.

    Raises:
        SegZooError: it has more than MAX_LAYERS.
    """
    for name in sorted(_LAYERS):
        value = vars(config).get(name)  # what is given, not what follows from it: that may fail before it is checked
        values = value if isinstance(value, list | tuple) else [value]
        if all(type(number) is int for number in values) and sum(map(abs, values)) > MAX_LAYERS:
            raise SegZooError(
                f"{type(config).__name__}: {name}={value!r:.60} is out of range; no model has more than {MAX_LAYERS} layers"
            )


@strict
class SegZooSubConfig(SegZooBaseConfig):
    """Base of backbone, neck and head configs: class names belong to the composite config and are not repeated."""

    _writes_num_labels: ClassVar[bool] = False

    def to_dict(self) -> dict[str, Any]:
        """The config as a dict ready for JSON; a head's number of classes is written as ``num_labels``."""
        output = super().to_dict()
        for key in ("id2label", "label2id"):
            output.pop(key, None)
        if self._writes_num_labels:
            output["num_labels"] = self.num_labels
        return output

    @classmethod
    def tiny(cls) -> Self:
        """A config of this class small enough for tests that run over every registered model."""
        raise SegZooError(f"{cls.__name__} has no tiny() config; add one so that the contract tests cover it")


@strict
class BatchNormConfig(SegZooSubConfig):
    """Base of the configs of models that may have batch norms.

    Args:
        norm_momentum: share of the new batch in the running statistics of batch norms, above 0 and at most 1.

    Raises:
        SegZooError: ``norm_momentum`` is out of range.
    """

    norm_momentum: float = 0.1

    def check(self) -> None:
        """``norm_momentum`` is above 0 and at most 1."""
        super().check()
        if not 0 < self.norm_momentum <= 1:
            raise SegZooError(
                f"{type(self).__name__}: norm_momentum={self.norm_momentum} must be above 0 and at most 1"
            )


@strict
class ConvBlockConfig(BatchNormConfig):
    """Base of the configs of models that are made of convolutions, norms and activations.

    Args:
        norm: the layer after each convolution: "batch_norm", "group_norm" (32 groups), or None, with which
            convolutions have a bias.
        norm_eps: epsilon of the norms.
        norm_momentum: share of the new batch in the running statistics of batch norms, above 0 and at most 1.
        activation: the function after each norm, a key of ``segzoo.layers.conv.ACTIVATIONS``, or None for none.
    """

    norm: Literal["batch_norm", "group_norm"] | None = "batch_norm"
    norm_eps: float = 1e-5
    activation: Activation | None = "relu"

    @property
    def block_options(self) -> dict[str, Any]:
        """Norm and activation as keyword arguments for `ConvNormAct` and layers built from it."""
        names = ("norm", "norm_eps", "norm_momentum", "activation")
        return {name: getattr(self, name) for name in names}

    @property
    def block(self) -> Callable[..., ConvNormAct]:
        """`ConvNormAct` with this config's norm and activation."""
        return partial(ConvNormAct, **self.block_options)

    def make_activation(self) -> nn.Module:
        """A layer with this config's activation alone, for sums that are activated after the addition."""
        return nn.Identity() if self.activation is None else ACTIVATIONS[self.activation]()


def nested_dict(config: PreTrainedConfig) -> dict[str, Any]:
    """A part's dict inside an outer config's: what differs from transformers' defaults, without ``num_labels``."""
    return {k: v for k, v in config.to_diff_dict().items() if k not in ("num_labels", "transformers_version")}


class SegZooPreTrainedModel(PreTrainedModel):
    """Base of all segzoo models: weight initialisation and what the Auto classes and Trainer need to know."""

    config: SegZooBaseConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # Trainer must not think that forward consumes num_items_in_batch: it would scale the loss under accumulation.
    accepts_loss_kwargs = False
    # A composite passes the choice of attention on to its parts. Parts without attention accept any choice; a part
    # whose attention lacks one sets the flag to False.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def get_input_embeddings(self) -> nn.Module | None:
        """The layer that reads the images, for quantisers and adapters; None of models that read feature maps."""
        return None

    @classmethod
    def get_init_context(cls, dtype: torch.dtype, is_quantized: bool, *args: Any, **kwargs: Any) -> list[Any]:
        """The contexts in which ``from_pretrained`` builds the model.

        Some quantisers replace layers whose type is ``nn.Linear`` itself, and no other.
        """
        contexts = super().get_init_context(dtype, is_quantized, *args, **kwargs)
        return [*contexts, plain_linears()] if is_quantized else contexts

    @property
    def num_depths(self) -> int | None:
        """Number of layers of a backbone, including its stem, for layer-wise learning rates.

        None: `segzoo.training.layer_depths` counts the layers by the names of the parameters.
        """
        return None

    def parameter_depth(self, name: str) -> int | None:
        """Layer of one of the model's own parameters: 0 for the stem, ``num_depths - 1`` for the last block.

        None means that the parameter learns at the full rate, as everything after the backbone does. A backbone
        overrides this and ``num_depths`` if its original's optimizer groups parameters differently from what their
        names suggest; necks and heads override it if their originals train some of their parts at a backbone layer's
        rate.
        """
        return None

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For models outside its own package, transformers skips modules without weights of their own, because their
        # _init_weights might overwrite loaded weights. Ours use transformers' init functions, which never do, so that
        # _init_weights may treat a block as a whole.
        super()._initialize_weights(module, False)  # the name of the argument differs between versions

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: segzoo writes its own shim, and transformers' copy of one source file would not load."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Models that are built inside have names, shapes and dtypes: they are on the meta device, and nothing is drawn for them.

    Parameters that a model shares are tied only by its ``tie_weights``, after it.
    """
    with torch.device("meta"), init.no_init_weights():
        yield


def first_convolution(model: nn.Module) -> nn.Module | None:
    """The first convolution of a model, which reads its images; None of a model without."""
    return next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)

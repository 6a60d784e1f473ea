"""What every config and every model of segzoo shares."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar, Literal, Self

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from segzoo.errors import SegZooError
from segzoo.layers.conv import ACTIVATIONS, ConvNormAct

# Lists of numbers in configs: tuples are taken too, and kept as lists, as JSON gives them back.
Ints = list[int] | tuple[int, ...]

Activation = Literal["relu", "relu6", "leaky_relu", "gelu", "silu", "hardswish"]

# What transformers itself gives to a config besides the config's fields: what PreTrainedConfig.__post_init__ takes out of its
# keyword arguments, the attributes that it sets (both end up in config.json), and what from_pretrained, quantizers and code on
# the Hub add. After a new release of transformers tests/test_base.py names what is missing here.
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


@strict
class SegZooBaseConfig(PreTrainedConfig):
    """Base of all segzoo configs: typed fields, and an error for a key that is not one of them.

    transformers accepts unknown keyword arguments silently, so that a misspelt option would train another model.

    Raises:
        SegZooError: a keyword argument is no field of the config; the message lists the fields.
    """

    def __post_init__(self, **kwargs):
        unknown = sorted(key for key in kwargs if key not in _TRANSFORMERS_KEYS)
        if unknown:
            known = sorted({f.name for f in fields(self)} - {f.name for f in fields(PreTrainedConfig)})
            raise SegZooError(
                f"{type(self).__name__} has no option {', '.join(map(repr, unknown))}; its options are: {', '.join(known)}"
            )
        kwargs.pop("model_type", None)
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), tuple):
                setattr(self, field.name, list(value))
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise a SegZooError when options do not fit each other; subclasses add their own and call this one.

        transformers' ``validate_*`` methods would do the same, but wrap the error in one that is no ValueError.
        """

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: segzoo writes its own shim, and transformers' copy of one source file would not load."""


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
class ConvBlockConfig(SegZooSubConfig):
    """Base of the configs of models that are made of convolutions, norms and activations.

    Args:
        norm: what follows the convolutions: "batch_norm", "group_norm" (of 32 groups), or None; then they have a bias.
        norm_eps: epsilon of the norms.
        activation: what follows the norms, a key of ``segzoo.layers.conv.ACTIVATIONS``.
    """

    norm: Literal["batch_norm", "group_norm"] | None = "batch_norm"
    norm_eps: float = 1e-5
    activation: Activation = "relu"

    @property
    def block_options(self) -> dict[str, Any]:
        """``norm``, ``norm_eps`` and ``activation``, for `ConvNormAct` and the layers that take its options."""
        return {"norm": self.norm, "norm_eps": self.norm_eps, "activation": self.activation}

    @property
    def block(self) -> Callable[..., ConvNormAct]:
        """`ConvNormAct` with this config's norm and activation."""
        return partial(ConvNormAct, **self.block_options)

    def make_activation(self) -> nn.Module:
        """A layer with this config's activation alone, for what is added up behind a norm."""
        return ACTIVATIONS[self.activation]()


class SegZooPreTrainedModel(PreTrainedModel):
    """Base of all segzoo models: weight initialisation and what the Auto classes and Trainer need to know."""

    config: SegZooBaseConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # Trainer must not think that forward consumes num_items_in_batch: it would scale the loss under accumulation.
    accepts_loss_kwargs = False
    # A choice of attention passes through composites to the parts; those without attention take any. Others say what they cannot.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @property
    def num_depths(self) -> int | None:
        """Number of layers of a backbone, its stem included, for layer-wise learning rates.

        None: the layers are counted by the names of the parameters, see `segzoo.training.layer_depths`.
        """
        return None

    def parameter_depth(self, name: str) -> int | None:
        """Layer of one of the model's own parameters: 0 for the stem, ``num_depths - 1`` for the last block.

        None stands for the depth behind the backbone, which learns at the full rate. A backbone overrides this and ``num_depths``
        where its original's optimizer has other groups than the names give; necks and heads do where their originals train
        parts of them as deep layers.
        """
        return None

    def _init_weights(self, module):
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

    def _initialize_weights(self, module, is_custom_code: bool = False):
        # In models of other packages transformers passes over modules that hold no weights of their own, in case they
        # overwrite loaded ones. Ours use its init functions, which do not: their _init_weights may treat a block as a whole.
        super()._initialize_weights(module, is_custom_code=False)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: segzoo writes its own shim, and transformers' copy of one source file would not load."""

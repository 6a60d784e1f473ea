"""What newer versions of our dependencies have, and what stands for it under the lowest that pyproject.toml names.

Each entry names the version that brought it; it goes when the lower bound reaches that version.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

import torch
import transformers
from torch.autograd import forward_ad
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

_TRANSFORMERS = tuple(int(part) for part in transformers.__version__.split(".")[:2])

# The loss of transformers' OneFormer compares queries with texts unless its config says that there are none.
ONEFORMER_LEARNS_WITHOUT_TEXTS = _TRANSFORMERS >= (5, 23)

# The names that a saved Swin's weights have. 5.5 has others; which version changed them was not looked up, 5.24 has them.
SWIN_IS_NAMED_AS_WRITTEN = _TRANSFORMERS >= (5, 24)

try:  # transformers 5.20
    from transformers.configuration_utils import SubConfigSpec
except ImportError:

    class SubConfigSpec:  # type: ignore[no-redef]
        """What a config inside a config is: any kind that AutoConfig knows, ``model_type`` unless it says another.

        Args:
            config_class: AutoConfig.
            model_type: the kind of a dict that names none, and of None.
            optional: None stays None.
        """

        def __init__(self, config_class: type, model_type: str, optional: bool = False):
            self.config_class, self.model_type, self.optional = config_class, model_type, optional

    class ComposableConfig(PreTrainedConfig):
        """A config that makes configs of the dicts in its fields, and of None where the part is not optional."""

        sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {}

        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.sub_configs = {name: spec.config_class for name, spec in cls.sub_configs_defaults.items()}

        def __post_init__(self, **kwargs: Any) -> None:
            for name, spec in self.sub_configs_defaults.items():
                values = getattr(self, name)
                if not isinstance(values, PreTrainedConfig) and not (values is None and spec.optional):
                    values = {"model_type": spec.model_type, **(values or {})}
                    setattr(self, name, CONFIG_MAPPING[values["model_type"]].from_dict(values))
            super().__post_init__(**kwargs)
else:
    ComposableConfig = PreTrainedConfig

# Where the blocks of transformers' ViT are inside the model.
VIT_BLOCKS = "layers" if _TRANSFORMERS >= (5, 9) else "encoder.layer"


def is_exporting() -> bool:
    """Whether torch.export is tracing. ``torch.compiler.is_exporting`` in torch 2.8 is true in torch.compile as well."""
    return torch.compiler._is_exporting_flag


def is_transformed() -> bool:
    """Whether a transform of torch.func is active (grad, vmap, jvp and so on), or a level of torch.autograd.forward_ad."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_followed() -> bool:
    """Whether torch compiles, exports or transforms what runs: all that it can follow are its own operators."""
    return torch.compiler.is_compiling() or is_exporting() or is_transformed()


def checkpoint_activations(model: PreTrainedModel, enabled: bool = True) -> None:
    """Whether the blocks of a model keep their input alone, and run again in the backward pass."""
    what = "activation" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient"  # before 5.24
    getattr(model, f"{what}_checkpointing_{'enable' if enabled else 'disable'}")()


def compile_kinds(function: Callable, *, kinds: int, **options: Any) -> Callable:
    """``torch.compile`` of a function for no more than so many kinds of calls.

    Args:
        function: the function.
        kinds: for how many kinds of calls it is compiled; one more raises torch's ``FailOnRecompileLimitHit``.
        options: further arguments of ``torch.compile``.
    """
    # Counts the calls of this object alone; before, those of the same function count together.
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # torch 2.12
        return torch.compile(function, recompile_limit=kinds, isolate_recompiles=True, **options)
    compiled = torch.compile(function, **options)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=kinds):
            return compiled(*arguments)

    return call

"""Registration with the Auto classes, and the Auto classes that transformers does not have.

``AutoHead`` and ``AutoNeck`` build, load and save heads and necks alone; ``AutoBackbone`` is transformers' mapping
with a ``from_pretrained`` that also takes local folders, offline. ``BACKBONES``, ``NECKS`` and ``HEADS`` hold what is
registered; ``--backbone``, ``segzoo list --backbones`` and the contract tests read them.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from segzoo.errors import SegZooError


@dataclass(frozen=True)
class Registration:
    """A backbone, neck or head that the Auto classes know.

    Args:
        config: the config class.
        model: the model class.
        variants: keyword arguments of the config by name, one entry for each published size of a backbone.
    """

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def variant_config(self, name: str, **changes: Any) -> PreTrainedConfig:
        """The config of one of the variants, with changes to it."""
        return self.config(**{**self.variants[name], **changes})


# By ``model_type``.
BACKBONES: dict[str, Registration] = {}
NECKS: dict[str, Registration] = {}
HEADS: dict[str, Registration] = {}


class AutoHead(_BaseAutoModelClass):
    """Builds (``from_config``) or loads (``from_pretrained``) any registered decode head by its config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoNeck(_BaseAutoModelClass):
    """Builds (``from_config``) or loads (``from_pretrained``) any registered neck by its config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoBackbone(_BaseAutoModelClass):
    """transformers' AutoBackbone that also loads a local folder, with or without a network.

    transformers' own ``AutoBackbone.from_pretrained`` asks the Hub whether the name exists, and so fails on a path.
    """

    _model_mapping = transformers.AutoBackbone._model_mapping

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *model_args: Any, **kwargs: Any
    ) -> PreTrainedModel:
        """Load a backbone from a local folder or the Hub; the arguments are those of transformers' AutoBackbone."""
        if os.path.isdir(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        return transformers.AutoBackbone.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


def register_backbone(
    config_class: type[PreTrainedConfig],
    model_class: type[PreTrainedModel],
    *,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Make a backbone known to ``AutoConfig`` and ``AutoBackbone`` under its config's ``model_type``.

    Args:
        config_class: the backbone's config.
        model_class: the backbone itself.
        variants: keyword arguments of the config by name, such as ``{"resnet50": {"depth": 50}}``; the names can be
            given to ``segzoo train --backbone``.

    Raises:
        SegZooError: another backbone has a variant with the same name.
    """
    variants = {} if variants is None else variants
    for model_type, other in BACKBONES.items():
        if model_type != config_class.model_type and (twice := sorted(variants.keys() & other.variants.keys())):
            raise SegZooError(
                f"{config_class.__name__} and {other.config.__name__} both have a variant {twice[0]!r}; rename one of them"
            )
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    transformers.AutoBackbone.register(config_class, model_class, exist_ok=True)
    BACKBONES[config_class.model_type] = Registration(config_class, model_class, variants)


def backbone_variants() -> dict[str, Registration]:
    """The backbone of each variant name: segzoo's, which `import segzoo` registers, and others' own."""
    return {name: backbone for backbone in BACKBONES.values() for name in backbone.variants}


def register_neck(config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
    """Make a neck known to ``AutoConfig`` and ``AutoNeck`` under its config's ``model_type``."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoNeck.register(config_class, model_class, exist_ok=True)
    NECKS[config_class.model_type] = Registration(config_class, model_class)


def register_head(config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
    """Make a decode head known to ``AutoConfig`` and ``AutoHead`` under its config's ``model_type``."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoHead.register(config_class, model_class, exist_ok=True)
    HEADS[config_class.model_type] = Registration(config_class, model_class)

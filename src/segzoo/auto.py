"""Registration with the Auto classes, and the Auto classes that transformers does not have.

``AutoHead`` and ``AutoNeck`` build, load and save heads and necks alone; ``AutoBackbone`` is transformers' mapping with a
``from_pretrained`` that also takes local folders, offline. ``BACKBONES``, ``NECKS`` and ``HEADS`` list what is registered;
the contract tests run over them.
"""

import os
from collections import OrderedDict

import transformers
from transformers import AutoConfig
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

BACKBONES: dict[str, tuple[type, type]] = {}
NECKS: dict[str, tuple[type, type]] = {}
HEADS: dict[str, tuple[type, type]] = {}


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
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a backbone from a local folder or the Hub; the arguments are those of transformers' AutoBackbone."""
        if os.path.isdir(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        return transformers.AutoBackbone.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


def register_backbone(config_class: type, model_class: type) -> None:
    """Make a backbone known to ``AutoConfig`` and ``AutoBackbone`` under its config's ``model_type``."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    transformers.AutoBackbone.register(config_class, model_class, exist_ok=True)
    BACKBONES[config_class.model_type] = (config_class, model_class)


def register_neck(config_class: type, model_class: type) -> None:
    """Make a neck known to ``AutoConfig`` and ``AutoNeck`` under its config's ``model_type``."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoNeck.register(config_class, model_class, exist_ok=True)
    NECKS[config_class.model_type] = (config_class, model_class)


def register_head(config_class: type, model_class: type) -> None:
    """Make a decode head known to ``AutoConfig`` and ``AutoHead`` under its config's ``model_type``."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoHead.register(config_class, model_class, exist_ok=True)
    HEADS[config_class.model_type] = (config_class, model_class)

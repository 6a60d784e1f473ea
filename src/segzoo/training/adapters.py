"""What a training with adapters, such as peft's LoRA, has to keep besides them."""

import re

from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.modeling_segzoo import SegZooForSemanticSegmentation


def modules_to_save(model: SegZooForSemanticSegmentation) -> list[str]:
    """The names for ``modules_to_save`` of peft's configs, with which a saved adapter is the model that was trained.

    They are the neck and all heads, and the backbone's batch norms: these follow the batches in train mode, also where
    they are frozen, and peft saves what it is told alone. All of them are trained in full.

    Args:
        model: the model that is to be adapted. ``target_modules`` of the config should name layers of its backbone.

    Returns:
        Names of modules of the model.
    """
    named = dict(model.named_modules())
    heads = [name for name in named if re.fullmatch(r"neck|(decode|auxiliary)_heads\.\d+", name)]
    norms = [name for name, module in named.items() if isinstance(module, _BatchNorm) and name.startswith("backbone.")]
    return heads + norms

"""Models that are trained on with other classes: the rows of a classifier follow the names of its classes."""

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from segzoo.data.classes import plain_name
from segzoo.universal import load_segmentation_model, model_from_config

_NO_NAME = re.compile(r"(label|class) ?\d+")


def load_for_classes(
    name: str, config: PreTrainedConfig, hub_options: Mapping[str, Any]
) -> tuple[PreTrainedModel, str | None]:
    """Load a model for the classes of a config, which may be others than its own.

    Rows of the classifiers, of auxiliary heads too, go where the class of their name is; those of new classes begin
    with random weights. Where the names of either side are no names, such as ``LABEL_3``, as many classes are taken to
    be the same.

    Args:
        name: folder or Hub name of the model.
        config: its config with the names of the new classes.
        hub_options: ``token``, ``revision``, ``cache_dir``, ``trust_remote_code`` for loading.

    Returns:
        The model, and a line for the user about its classifier; None if the classes are the model's.

    Raises:
        OSError, ValueError: the model cannot be loaded.
    """
    own = AutoConfig.from_pretrained(name, **hub_options)
    old, new = _names(own), _names(config)
    if old == new:
        return _load(name, config, hub_options), None
    unnamed = next((whose for whose, names in (("data's", new), ("model's", old)) if _are_no_names(names)), None)
    if unnamed is not None and len(old) == len(new):
        note = (
            f"classifier: it is kept, for the model has {len(old)} classes too; the {unnamed} have no names to compare"
        )
        return _load(name, config, hub_options), note
    moves = {} if unnamed is not None else _moves(old, new)
    sizes = _class_tensors(own, hub_options)
    rows = {}
    if moves:
        state = load_segmentation_model(name, own, hub_options).state_dict()
        rows = {key: state[key] for key in sizes}
        del state
    model = _load(name, config, hub_options)
    if len(old) == len(new):
        _begin_anew(model, sizes)
    _move_rows(model, rows, sizes, moves, len(old), len(new))
    return model, _note(old, new, moves)


def _load(name: str, config: PreTrainedConfig, hub_options: Mapping[str, Any]) -> PreTrainedModel:
    return load_segmentation_model(name, config, hub_options, ignore_mismatched_sizes=True)


def _names(config: PreTrainedConfig) -> list[str]:
    return [plain_name(config.id2label[index]) for index in sorted(config.id2label)]


def _are_no_names(names: Sequence[str]) -> bool:
    return all(_NO_NAME.fullmatch(name) for name in names)


def _moves(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """The old id for each new one whose class has the same name; of equal names the first belongs to the first."""

    def numbered(names: Sequence[str]) -> dict[tuple[str, int], int]:
        seen: Counter[str] = Counter()
        places = {}
        for index, name in enumerate(names):
            places[name, seen[name]] = index
            seen[name] += 1
        return places

    places = numbered(old)
    return {index: places[key] for key, index in numbered(new).items() if key in places}


def _class_tensors(config: PreTrainedConfig, hub_options: Mapping[str, Any]) -> dict[str, int]:
    """The tensors of a model whose shape follows its number of classes, each with the dimension that does."""
    shapes = []
    for more in (0, 1):
        changed = copy.deepcopy(config)
        changed.id2label = {index: str(index) for index in range(config.num_labels + more)}
        changed.label2id = {name: index for index, name in changed.id2label.items()}
        with torch.device("meta"):
            model = model_from_config(changed, trust_remote_code=bool(hub_options.get("trust_remote_code")))
        shapes.append({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
    found = {}
    for key, shape in shapes[0].items():
        differing = [i for i, (a, b) in enumerate(zip(shape, shapes[1][key], strict=True)) if a != b]
        if len(differing) == 1:
            found[key] = differing[0]
    return found


def _begin_anew(model: PreTrainedModel, names: Mapping[str, int]) -> None:
    """Give some tensors of a loaded model random weights, as if they had not been in its file."""
    owners = {key.rpartition(".")[0] for key in names}
    # Some models initialise a layer from a module around it; tensors that keep their mark are left alone.
    around = {owner[:i] for owner in owners for i, sign in enumerate(owner) if sign == "."} | {""}
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor._is_hf_initialized = key not in names
    for key, module in model.named_modules():
        module._is_hf_initialized = key not in owners and key not in around
    model.initialize_weights()


@torch.no_grad()
def _move_rows(
    model: PreTrainedModel,
    rows: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    moves: Mapping[int, int],
    num_old: int,
    num_new: int,
) -> None:
    """Copy the rows of the old classes, and those behind the classes, such as "no object"."""
    state = model.state_dict()
    for key, tensor in rows.items():
        dim, target = sizes[key], state[key]
        behind = tensor.shape[dim] - num_old
        pairs = {**moves, **{num_new + i: num_old + i for i in range(behind)}}
        to = torch.tensor(list(pairs.keys()), device=target.device)
        values = tensor.index_select(dim, torch.tensor(list(pairs.values()), device=tensor.device))
        target.index_copy_(dim, to, values.to(target))


def _note(old: Sequence[str], new: Sequence[str], moves: Mapping[int, int]) -> str:
    if not moves:
        return f"classifier: it begins with random weights, for none of the {len(new)} classes is one of the model's {len(old)}"
    if len(moves) == len(new):
        rest = "" if len(old) == len(new) else f" of the model's {len(old)}"
        return f"classifier: the {len(new)} classes are the model's in another order; its rows{rest} were moved to them by name"
    kept = [new[index] for index in sorted(moves)]
    names = ", ".join(kept[:5]) + (", ..." if len(kept) > 5 else "")
    return (
        f"classifier: {len(kept)} of the {len(new)} classes are the model's and keep their rows ({names}); the others begin "
        "with random weights"
    )

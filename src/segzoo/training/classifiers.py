"""Models that are trained on with other classes: the rows of a classifier follow the names of its classes."""

import copy
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from segzoo.configuration_segzoo import SegZooConfig, class_names
from segzoo.data.classes import plain_name
from segzoo.inference.loading import read_config, read_weights
from segzoo.universal import load_segmentation_model, model_from_config

_NO_NAME = re.compile(r"(label|class) ?\d+")


def load_for_classes(
    name: str,
    config: PreTrainedConfig,
    hub_options: Mapping[str, Any],
    *,
    other_config: bool = False,
    verify: bool = True,
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model for the classes of a config, which may be others than its own.

    Rows of the classifiers, of auxiliary heads too, go where the class of their name is; those of new classes begin
    with random weights. Where the names of either side are no names, such as ``LABEL_3``, as many classes are taken to
    be the same. Heads begin anew where the weights are of a model without them, such as a classifier of transformers.

    Args:
        name: folder or Hub name of the model.
        config: its config with the names of the new classes.
        hub_options: ``token``, ``revision``, ``cache_dir``, ``trust_remote_code`` for loading.
        other_config: the config is not the folder's, so that it may have other heads.
        verify: compare the weights with the hashes that were saved with them.

    Returns:
        The model, and lines for the user about what begins anew and about the classifier; none if the classes are the
        model's.

    Raises:
        SegZooError: weights are missing, left over, of other shapes, changed or not finite. What else may be raised is for
            `errors_in_a_line`.
    """
    own = read_config(name, hub_options)
    old, new = _names(own), _names(config)
    sizes = {} if old == new else _class_tensors(own, hub_options)
    heads = _NewHeads(own, other_config)

    def fresh(model: PreTrainedModel, found: Mapping[str, Any]) -> list[str]:
        of_classes = [key for key, *_ in found["mismatched_keys"] if key in sizes]
        wrong = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
        return [
            *of_classes,
            *heads.find(model, wrong.difference(of_classes)),
            *heads.left_over(found["unexpected_keys"]),
        ]

    model = read_weights(
        partial(load_segmentation_model, name, config, hub_options),
        name,
        hub_options,
        own=isinstance(own, SegZooConfig),
        verify=verify,
        new=fresh,
    )
    notes = []
    if heads.parts:
        _begin_anew(model, heads.keys)
        notes.append(
            f"head: {', '.join(heads.parts)} begin{'s' * (len(heads.parts) == 1)} with random weights: {heads.why(name)}"
        )
    here = model.state_dict().keys() - heads.keys
    sizes = {key: dimension for key, dimension in sizes.items() if key in here}
    if not sizes:  # the classes are the same, or the whole classifier is new
        return model, notes
    unnamed = next((whose for whose, names in (("data's", new), ("model's", old)) if _are_no_names(names)), None)
    if unnamed is not None and len(old) == len(new):
        notes.append(
            f"classifier: it is kept, for the model has {len(old)} classes too; the {unnamed} have no names to compare"
        )
        return model, notes
    moves = {} if unnamed is not None else _moves(old, new)
    rows = {}
    if moves:
        state = load_segmentation_model(name, own, hub_options).state_dict()
        rows = {key: state[key] for key in sizes}
        del state
    if len(old) == len(new):
        _begin_anew(model, sizes)
    _move_rows(model, rows, sizes, moves, len(old), len(new))
    return model, [*notes, _note(old, new, moves)]


class _NewHeads:
    """The heads of a model that its weights do not hold, because they are of another kind of model.

    A model of transformers without a head that segments says so: its config names another architecture. A config from
    elsewhere may name other heads than the weights are for. In both, the backbone must be there, whole.

    Args:
        own: the config that lies with the weights.
        other_config: the model is made by another config.
    """

    def __init__(self, own: PreTrainedConfig, other_config: bool):
        self.own, self.other_config = own, other_config
        self.parts: list[str] = []
        self.keys: set[str] = set()

    def find(self, model: PreTrainedModel, wrong: Collection[str]) -> set[str]:
        """The weights of each head of which some are ``wrong``, missing or mis-shaped; it begins anew as a whole."""
        of_another_kind = not isinstance(self.own, SegZooConfig) and type(model).__name__ not in (
            self.own.architectures or []
        )
        if not (self.other_config or of_another_kind):
            return set()
        children = dict(model.named_children())
        base = model.base_model_prefix if model.base_model_prefix in children else "backbone"
        if base not in children:
            return set()

        def head_of(key: str) -> str | None:
            first, _, rest = key.partition(".")
            if first == base:
                return None
            return f"{first}.{rest.partition('.')[0]}" if isinstance(children.get(first), nn.ModuleList) else first

        self.parts = sorted({head for key in wrong if (head := head_of(key)) is not None})
        self.keys = {key for key in model.state_dict() if head_of(key) in self.parts}
        return self.keys

    def left_over(self, unexpected: Collection[str]) -> list[str]:
        """The weights of the heads that another config leaves out."""
        return [key for key in unexpected if self.other_config and not key.startswith("backbone.")]

    def why(self, name: str) -> str:
        """Why they are new, for the user."""
        if self.other_config:
            return f"the config has other heads than {name}"
        kind = (self.own.architectures or ["model of unknown kind"])[0]
        return f"{name} is a {kind}, without such a head"


def _names(config: PreTrainedConfig) -> list[str]:
    return [plain_name(name) for name in class_names(config)]


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


def _begin_anew(model: PreTrainedModel, names: Collection[str]) -> None:
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

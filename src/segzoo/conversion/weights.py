"""Original state dict -> native state dict, with an account of every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.reading.checkpoints import all_finite
from segzoo.conversion.report import KeyMatch
from segzoo.conversion.translation import ComponentKeys

_COUNTER = "num_batches_tracked"  # batch norms of old files lack it, and inference does not read it


def find_native(key: str, components: Sequence[ComponentKeys]) -> tuple[KeyRule | None, str | None]:
    """(rule, native name) for an original key: (None, None) if no rule knows it, (rule, None) if it is left out."""
    for component in components:
        if key.startswith(component.original_prefix):
            rule, native = component.table.find(key.removeprefix(component.original_prefix))
            if rule is not None:
                return rule, None if native is None else component.native_prefix + native
    return None, None


def original_names(key: str, components: Sequence[ComponentKeys]) -> list[str]:
    """The original name of a native key, followed by its aliases; empty if there is none."""
    for component in components:
        if key.startswith(component.native_prefix):
            names = component.table.to_originals(key.removeprefix(component.native_prefix))
            if names:
                return [component.original_prefix + name for name in names]
    return []


def match_weights(
    state: Mapping[str, Tensor],
    components: Sequence[ComponentKeys],
    expected: Mapping[str, Tensor],
    *,
    in_bfloat16: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], KeyMatch]:
    """Renames and changes the tensors of an original state dict, and compares them with what the model expects.

    Tensors are copied only if their dtype is not the model's (the originals load other float types into float32
    models), or if they are slices of larger storages.

    Args:
        state: tensors by original key.
        components: the key tables of the model.
        expected: state dict of the model on the meta device: native keys, shapes and dtypes.
        in_bfloat16: beginnings of native keys whose tensors the original runs in bfloat16; those in half precision are
            kept so, instead of in the model's dtype.

    Returns:
        the native state dict, which is complete if `KeyMatch.raise_for_problems` finds none, and the account of all
        keys. Of a tensor with two original names one suffices.
    """
    match = KeyMatch()
    native_state: dict[str, Tensor] = {}
    origins: dict[str, tuple[str, KeyRule]] = {}
    for key, tensor in state.items():
        rule, native = find_native(key, components)
        if rule is None or (native is not None and native not in expected):
            match.unexpected.append(key)
        elif native is None:
            match.left_out.append(key)
        elif native in origins:
            other, first_rule = origins[native]
            if not (rule.alias or first_rule.alias):
                match.doubled.append(key)
            elif not torch.equal(tensor, state[other]):
                match.unequal.append((other, key))
            else:
                match.renamed[key] = native
        else:
            origins[native] = key, rule
            shape, change = tensor.shape, rule.change
            if change is not None and tensor.ndim:
                tensor = change.to_native(tensor)
            if tensor.shape != expected[native].shape:
                wanted = expected[native] if change is None else change.to_original(expected[native])
                match.wrong_shapes.append((key, list(shape), list(wanted.shape)))
                native_state[native] = tensor
            else:
                match.renamed[key] = native
                dtype, halves = expected[native].dtype, (torch.float16, torch.bfloat16)
                if tensor.dtype in halves and native.startswith(in_bfloat16):
                    dtype = torch.bfloat16
                native_state[native] = prepared(key, tensor, dtype, match)
    for native, meta in expected.items():
        if native in native_state:
            continue
        if native.endswith(_COUNTER):
            native_state[native] = torch.zeros(meta.shape, dtype=meta.dtype)
        else:
            match.missing[native] = next(iter(original_names(native, components)), native)
    return native_state, match


def prepared(key: str, tensor: Tensor, dtype: torch.dtype, match: KeyMatch) -> Tensor:
    """The tensor in the model's dtype and a storage of its own size; ``match`` records other dtypes, NaN, infinity."""
    tensor = tensor.detach()
    if not all_finite(tensor):
        match.not_finite.append(key)
    if tensor.dtype != dtype:
        name = str(tensor.dtype).removeprefix("torch.")
        counts = match.to_bfloat16 if dtype == torch.bfloat16 else match.converted_dtypes
        counts[name] = counts.get(name, 0) + 1
        return tensor.to(dtype)
    if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes:
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor


def original_state_dict(native_state: Mapping[str, Tensor], components: Sequence[ComponentKeys]) -> dict[str, Tensor]:
    """A native state dict under its original names, aliases included, for use with the original code.

    Raises:
        KeyError: a key has no original name.
    """
    renamed = {}
    for key, tensor in native_state.items():
        names = original_names(key, components)
        if not names:
            raise KeyError(key)
        rule, _ = find_native(names[0], components)
        if rule is not None and rule.change is not None:
            tensor = rule.change.to_original(tensor)
        renamed |= dict.fromkeys(names, tensor)
    return renamed

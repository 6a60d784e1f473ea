"""Original state dict -> native state dict, with an account of every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from segzoo.conversion.keys import KeyRule, Part
from segzoo.conversion.reading.checkpoints import all_finite
from segzoo.conversion.report import KeyMatch
from segzoo.conversion.translation import ComponentKeys

_COUNTER = "num_batches_tracked"  # batch norms of old files lack it, and inference does not read it


def find_natives(key: str, components: Sequence[ComponentKeys]) -> list[tuple[KeyRule, str | None]]:
    """(rule, native name) for each of our tensors that an original key is; see `KeyTable.find_all`."""
    for component in components:
        if key.startswith(component.original_prefix):
            found = component.table.find_all(key.removeprefix(component.original_prefix))
            if found:
                return [(rule, None if name is None else component.native_prefix + name) for rule, name in found]
    return []


def find_native(key: str, components: Sequence[ComponentKeys]) -> tuple[KeyRule | None, str | None]:
    """The first of `find_natives`; (None, None) if no rule knows the key."""
    return next(iter(find_natives(key, components)), (None, None))


def find_origins(key: str, components: Sequence[ComponentKeys]) -> list[tuple[KeyRule, str]]:
    """(rule, original name) of each original tensor that holds a native key's; see `KeyTable.origins`."""
    for component in components:
        if key.startswith(component.native_prefix):
            found = component.table.origins(key.removeprefix(component.native_prefix))
            if found:
                return [(rule, component.original_prefix + name) for rule, name in found]
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
    models), if they are slices of larger storages, or if another key has the same.

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
    parts: dict[str, dict[Part, Tensor]] = {}
    origins: dict[tuple[str, Part | None], tuple[str, KeyRule]] = {}
    for key, tensor in state.items():
        found = find_natives(key, components)
        if not found or any(native is not None and native not in expected for _, native in found):
            match.unexpected.append(key)
            continue
        for rule, native in found:
            if native is None:
                match.left_out.append(key)
            elif (place := (native, rule.native_part)) in origins:
                other, first_rule = origins[place]
                if not (rule.alias or first_rule.alias):
                    match.doubled.append(key)
                elif not torch.equal(tensor, state[other]):
                    match.unequal.append((other, key))
                else:
                    match.renamed[key] = native
            else:
                origins[place] = key, rule
                taken = to_native(tensor, rule)
                whole = expected[native]
                if taken.shape != (whole if rule.native_part is None else rule.native_part.of(whole)).shape:
                    match.wrong_shapes.append((key, list(tensor.shape), _original_shape(whole, rule)))
                else:
                    match.renamed[key] = f"{match.renamed[key]}, {native}" if key in match.renamed else native
                    dtype, halves = whole.dtype, (torch.float16, torch.bfloat16)
                    if taken.dtype in halves and native.startswith(in_bfloat16):
                        dtype = torch.bfloat16
                    taken = prepared(key, taken, dtype, match)
                if rule.native_part is None:
                    native_state[native] = taken
                else:
                    parts.setdefault(native, {})[rule.native_part] = taken
    wrong = {key for key, *_ in match.wrong_shapes}
    for native, meta in expected.items():
        if native in native_state:
            continue
        names = find_origins(native, components)
        found_parts = parts.pop(native, {})
        lacking = [name for rule, name in names if rule.native_part not in found_parts]
        if found_parts and not lacking:
            if wrong.isdisjoint(name for _, name in names):
                native_state[native] = put_together(found_parts)
        elif native.endswith(_COUNTER):
            native_state[native] = torch.zeros(meta.shape, dtype=meta.dtype)
        else:
            match.missing[native] = ", ".join(lacking) if found_parts else next(iter(lacking), native)
    _separate(native_state)
    return native_state, match


def _separate(state: dict[str, Tensor]) -> None:
    """Copies tensors that are another one, too: keys of weights that were tied, which torch.save keeps so."""
    taken: set[int] = set()
    for key, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        if place in taken:
            state[key] = tensor.clone()
        taken.add(place)


def put_together(parts: Mapping[Part, Tensor]) -> Tensor:
    """The tensor of these parts.

    Raises:
        KeyError: parts are missing.
    """
    ordered = sorted(parts, key=lambda part: part.begin)
    if sum(part.end - part.begin for part in ordered) != ordered[0].total:
        raise KeyError("a part of a tensor is missing")
    return torch.cat([parts[part] for part in ordered])


def to_native(tensor: Tensor, rule: KeyRule) -> Tensor:
    """What a rule makes of an original's tensor: ours, or a part of it."""
    if rule.original_part is not None:
        tensor = rule.original_part.of(tensor)
    return tensor if rule.change is None else rule.change.to_native(tensor)


def _to_original(tensor: Tensor, rule: KeyRule) -> Tensor:
    """What a rule makes of our tensor: the original's, or a part of it."""
    if rule.native_part is not None:
        tensor = rule.native_part.of(tensor)
    return tensor if rule.change is None else rule.change.to_original(tensor)


def _original_shape(whole: Tensor, rule: KeyRule) -> list[int]:
    """The shape that the original's tensor should have, by the shape of ours."""
    shape = list(_to_original(whole, rule).shape)
    if (part := rule.original_part) is not None:
        shape[0] = shape[0] * part.total // (part.end - part.begin)
    return shape


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
        KeyError: a key has no original name, or another part of an original's tensor is missing.
    """
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[Part, Tensor]] = {}
    for key, tensor in native_state.items():
        origins = find_origins(key, components)
        if not origins:
            raise KeyError(key)
        first = _to_original(tensor, origins[0][0])
        for rule, name in origins:
            value = first if rule.alias else _to_original(tensor, rule)
            if rule.original_part is not None:
                parts.setdefault(name, {})[rule.original_part] = value
            renamed[name] = value  # of parts for now, which keeps the order
    for name, found in parts.items():
        renamed[name] = put_together(found)
    return renamed

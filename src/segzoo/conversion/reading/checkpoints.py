"""Reads the weights that an original system saved, in any of their layouts and file formats.

    .pth, .pth.tar (torch.save before and since 1.6), .safetensors, or a zip archive with exactly one of them
    -> {"state_dict"}, {"model"}, {"module"}, {"state_dict", "meta"}, {"student", "teacher"}, a bare dict of tensors;
       with or without averages; the model alone, or under a prefix beside others (`layouts`)

Nothing in a file is run (`safe_pickle`), nothing is unpacked without bounds (`archives`), and tensors in files since
torch 1.6 stay on disk until they are read, so that optimizer states cost nothing.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from segzoo.conversion.errors import CheckpointError
from segzoo.conversion.reading import archives, averages, layouts, safe_pickle
from segzoo.files import sha256_of
from segzoo.text import listed

WEIGHT_ENTRIES = ("state_dict", "model_state_dict", "model", "module", "model_state", "net", "network", "weights")
AVERAGE_ENTRIES = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "module_ema")
_OPTIMIZER_ENTRIES = frozenset(
    ("optimizer", "optimizer_state_dict", "optim", "optim_wrapper", "lr_scheduler", "param_schedulers", "param_groups")
)
_COUNTERS = ("steps", "n_averaged")  # of mmengine's and torch's averaged models
_WRAPPERS = ("module.", "_orig_mod.")
_FINITE_CHUNK = 1 << 22


@dataclass
class OriginalCheckpoint:
    """The content of an original checkpoint.

    Attributes:
        state_dict: tensors by original key, without the prefixes of wrappers (``module.``), on the CPU, in the dtype
            of the file. Tensors may lie in the mapped file: do not overwrite it while they are in use.
        config_text: Python text of the training config, or None.
        config: the training config as values, if the file holds values instead of text, or None.
        class_names: names of the classes, in the order of their ids, or None.
        palette: colours [red, green, blue], each 0..255, in the order of the classes, or None.
        meta: the file's ``meta`` (mmcv, mmengine) or safetensors' metadata, as plain data.
        sha256: SHA-256 of the file that was named, 64 hexadecimal digits.
        source: the file that was named.
        member: name of the checkpoint inside this file, if it is a zip archive, or None.
        entry: the entry that the weights came from; ``""`` for a bare dict.
        averaged: whether the weights are an exponential moving average.
        may_be_swapped: whether mmcv may have swapped the average and the weights in training, so that ``averaged`` is not sure.
        model: name that the file gives the model whose weights were taken, such as "model", "ema_model" or "teacher";
            ``""`` where it holds one model without a name.
        left_out: keys of the weights of other models in the same state dict.
        ignored: entries of the file that were not used (optimizer, schedulers, averages and so on).
    """

    state_dict: dict[str, torch.Tensor]
    source: Path
    sha256: str
    config_text: str | None = None
    config: dict[str, Any] | None = None
    class_names: list[str] | None = None
    palette: list[list[int]] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    member: str | None = None
    entry: str = ""
    averaged: bool = False
    may_be_swapped: bool = False
    model: str = ""
    left_out: list[str] = field(default_factory=list)
    ignored: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, *, prefer_ema: bool = False, weights: str | None = None) -> OriginalCheckpoint:
    """Reads a checkpoint of an original system.

    Args:
        path: a ``.pth``, ``.pth.tar`` or other file of torch.save (in any of its formats), a ``.safetensors``
            file, or a zip archive with exactly one of them inside.
        prefer_ema: take the exponential moving average of the weights. mmengine saves the average as
            ``state_dict`` and the weights in training as ``ema_state_dict``, and mmcv in some trainings by epochs does
            the like: there both choices give the average.
        weights: "student" or "teacher", to take that model of a file with both.

    Returns:
        the weights and what the file says about them.

    Raises:
        CheckpointError: the file cannot be read, has another format, names objects that weights do not need, has no
            weights, no average with ``prefer_ema``, or not the model ``weights``, or it has several models and none was
            chosen; the message names file, cause and fix.
    """
    source = Path(path)
    kind = archives.file_kind(source, source)
    member = None
    if kind == "zip":
        with archives.open_zip(source, source) as archive:
            if archives.torch_folder(archive) is None:
                inner = archives.checkpoint_member(archive, source)
                member = inner.filename
                with archives.extracted(archive, inner, source) as unpacked:
                    content = _load_unpacked(unpacked, source, member)
            else:
                content = _load(source, kind, source)
    else:
        content = _load(source, kind, source)
    checkpoint = _interpret(content, source, prefer_ema, weights)
    checkpoint.member = member
    checkpoint.sha256 = sha256_of(source)
    return checkpoint


def _load_unpacked(path: Path, source: Path, member: str) -> Any:
    """Loads a checkpoint that was extracted from a zip archive, and whose file will be removed."""
    try:
        kind = archives.file_kind(path, source)
        if kind == "zip":
            with archives.open_zip(path, source) as archive:
                if archives.torch_folder(archive) is None:
                    raise CheckpointError(source, "this is an archive in an archive", "unpack it")
        return _load(path, kind, source, mapped=os.name != "nt")  # Windows cannot remove a file that is mapped
    except CheckpointError as error:
        raise CheckpointError(source, f"{member!r} in it: {error.cause}", error.fix) from error


def _load(path: Path, kind: str, source: Path, *, mapped: bool = True) -> Any:
    """Loads the object that a file holds; ``source`` is its name in messages, ``mapped`` leaves tensors on disk."""
    with archives.in_utf8(path) as place:
        return _load_kind(place, kind, source, mapped)


def _load_kind(path: Path, kind: str, source: Path, mapped: bool) -> Any:
    if kind == "safetensors":
        content = _load_safetensors(path, source)
        if not mapped:
            content["state_dict"] = {key: tensor.clone() for key, tensor in content["state_dict"].items()}
        return content
    if kind == "legacy":
        if not archives.is_legacy_torch(path):
            raise CheckpointError(
                source,
                "this is a pickle that torch.save did not write",
                "give the PyTorch checkpoint (.pth), or save the weights with torch.save or safetensors",
            )
        return safe_pickle.load_legacy(path, source)
    with archives.open_zip(path, source) as archive:
        folder = archives.torch_folder(archive)
        if folder is None:
            raise CheckpointError(source, "this is a zip archive without a checkpoint", "give the checkpoint file")
        archives.check_torch_zip(archive, folder, source)
        return safe_pickle.load_zip(path, archive, folder, source, mapped=mapped)


def _load_safetensors(path: Path, source: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            return {"state_dict": tensors, "meta": dict(file.metadata() or {})}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            source, f"the safetensors file is cut off or damaged ({error})", "download it again"
        ) from error


def _interpret(content: Any, source: Path, prefer_ema: bool, model: str | None) -> OriginalCheckpoint:
    """Finds weights, config and class names in what a file holds."""
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(
            source, f"it holds a {kind}, not a dict of weights", "save the model's state_dict() with torch.save"
        )
    # Plain dicts: a file may set any attribute of an OrderedDict, such as "items".
    content = {
        key: dict(dict.items(value)) if isinstance(value, dict) else value for key, value in dict.items(content)
    }
    meta = safe_pickle.plain(content.get("meta"))
    meta = meta if isinstance(meta, dict) else {}
    entry, weights, averaged = _choose_weights(content, meta, source, prefer_ema)
    state_dict = _without_wrappers(_tensors(weights, source, entry), source)
    if entry in AVERAGE_ENTRIES:
        state_dict = _completed_average(state_dict, content, source)
    text, values = _find_config(content, meta)
    swapped: bool | None = False
    if averages.are_beside(state_dict):
        swapped = averages.are_swapped(text, values, meta)
        state_dict, taken = averages.separate(state_dict, source, prefer_ema and not averaged and not swapped)
        averaged = averaged or taken or swapped is True
    prefix, role = layouts.choose_model(state_dict, source, prefer_ema=prefer_ema and not averaged, weights=model)
    state_dict, left_out = layouts.take_model(state_dict, prefix)
    averaged = averaged or role == "average"
    if prefer_ema and not averaged:
        raise CheckpointError(
            source, "it holds no moving average of the weights", "leave the option for the average out"
        )
    names, palette = _find_classes(content, meta)
    ignored = () if entry == "" else tuple(str(key) for key in content if key not in (entry, "meta"))
    return OriginalCheckpoint(
        state_dict=state_dict,
        source=source,
        sha256="",
        config_text=text,
        config=values,
        class_names=names,
        palette=palette,
        meta=meta,
        entry=entry,
        averaged=averaged,
        may_be_swapped=swapped is None,
        model=prefix.removesuffix("."),
        left_out=left_out,
        ignored=ignored,
    )


def _choose_weights(
    content: dict[Any, Any], meta: dict[str, Any], source: Path, prefer_ema: bool
) -> tuple[str, dict[Any, Any], bool]:
    """The entry with the weights, its dict, and whether it is an average."""
    average = next((name for name in AVERAGE_ENTRIES if _has_tensors(content.get(name))), None)
    weights = next((name for name in WEIGHT_ENTRIES if _has_tensors(content.get(name))), None)
    if weights == "state_dict" and average == "ema_state_dict" and _is_swapped(content, meta):
        return weights, content[weights], True
    if prefer_ema and average is not None:
        return average, content[average], True
    if weights is not None:
        return weights, content[weights], False
    if _has_tensors(content):
        return "", content, False
    if average is not None:
        return average, content[average], True
    named = {name: content[name] for name in layouts.ROLES if _has_tensors(content.get(name))}
    if named:  # as in a state dict that holds both
        return "", {f"{name}.{key}": value for name, part in named.items() for key, value in part.items()}, False
    entries = ", ".join(repr(str(key)[:60]) for key in list(content)[:8])
    if content and (content.keys() & _OPTIMIZER_ENTRIES or set(content) == {"state", "param_groups"}):
        raise CheckpointError(
            source,
            f"it holds the state of an optimizer and no weights (entries: {entries})",
            "give the checkpoint of the model",
        )
    raise CheckpointError(
        source,
        f"it holds no weights (entries: {entries})" if content else "it holds an empty dict, no weights",
        "give a checkpoint with a 'state_dict' or 'model' entry, or a dict of tensors",
    )


def _is_swapped(content: dict[Any, Any], meta: dict[str, Any]) -> bool:
    """Whether mmengine's EMAHook saved the file, with the average as ``state_dict``.

    The weights in training are then in ``ema_state_dict``, under the keys of its averaged model.
    """
    keys = content["ema_state_dict"].keys()
    averaged_model = "steps" in keys and all(str(key).startswith("module.") for key in keys if key != "steps")
    return averaged_model and ("mmengine_version" in meta or "message_hub" in content)


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, torch.Tensor) for item in dict.values(value))


def _tensors(weights: dict[Any, Any], source: Path, entry: str) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, detached, in the order of the file.

    Raises:
        CheckpointError: a key is not a string, or a value is not an ordinary tensor.
    """
    where = f"{entry!r} " if entry else ""
    state_dict: dict[str, torch.Tensor] = {}
    wrong: list[str] = []
    for key, value in weights.items():
        if isinstance(value, torch.Tensor):
            # A plain one: a file may set any attribute of a tensor, such as "numel".
            value = torch.Tensor.detach(value)
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            if entry == "" and not isinstance(value, torch.Tensor):
                continue  # a bare dict may hold more than weights: epoch, optimizer
            wrong.append(f"{str(key)[:80]!r} ({type(value).__name__})")
        elif value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            wrong.append(f"{key[:80]!r} ({_odd_kind(value)} tensor)")
        elif value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), 1 << 26):
            wrong.append(f"{key[:80]!r} (a tensor of {value.numel()} numbers that are not in the file)")
        else:
            state_dict[key] = value
    if wrong:
        raise CheckpointError(
            source,
            f"its {where}weights hold values that are no ordinary tensors: {listed(wrong, 5)}",
            "remove them from the state dict",
        )
    return state_dict


def _odd_kind(value: torch.Tensor) -> str:
    if value.is_quantized:
        return "quantized"
    return "sparse" if value.layout != torch.strided else value.device.type


def _without_wrappers(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """The state dict with the prefixes of DataParallel and torch.compile removed from its keys."""
    renamed: dict[str, torch.Tensor] = {}
    for key, value in state_dict.items():
        short = key
        while short.startswith(_WRAPPERS):
            short = short.split(".", 1)[1]
        if short in renamed:
            raise CheckpointError(
                source,
                f"the key {short!r} is there twice, with and without 'module.'",
                "save the weights of one model",
            )
        renamed[short] = value
    return renamed


def _completed_average(
    average: dict[str, torch.Tensor], content: dict[Any, Any], source: Path
) -> dict[str, torch.Tensor]:
    """An average without its counters; what was not averaged, such as running statistics, is the weights'."""
    average = {key: value for key, value in average.items() if key not in _COUNTERS}
    entry = next((name for name in WEIGHT_ENTRIES if _has_tensors(content.get(name))), None)
    if entry is None:
        return average
    weights = _without_wrappers(_tensors(content[entry], source, entry), source)
    return {**weights, **average} if average.keys() <= weights.keys() else average


def _find_config(content: dict[Any, Any], meta: dict[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
    """The training config as text or as values, of which one or both are None."""
    hub = safe_pickle.plain(content.get("message_hub"))
    runtime = hub.get("runtime_info") if isinstance(hub, dict) else None
    runtime = runtime if isinstance(runtime, dict) else {}
    top = safe_pickle.plain({key: content.get(key) for key in ("config", "cfg")})
    places = (meta.get("config"), meta.get("cfg"), top["cfg"], top["config"], runtime.get("cfg"))
    for value in places:
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str) and value.strip() and not value.strip().endswith(".py"):  # not a mere path
            return value, None
        if isinstance(value, dict):
            value = value.get("_cfg_dict", value)  # mmengine's Config, pickled as an object
            if isinstance(value, dict) and "model" in value:
                return None, value
    return None, None


def _find_classes(content: dict[Any, Any], meta: dict[str, Any]) -> tuple[list[str] | None, list[list[int]] | None]:
    """Class names and palette: ``CLASSES`` and ``PALETTE`` of mmcv, ``dataset_meta`` of mmengine."""
    hub = safe_pickle.plain(content.get("message_hub"))
    runtime = hub.get("runtime_info") if isinstance(hub, dict) else None
    top = safe_pickle.plain({key: content.get(key) for key in ("CLASSES", "PALETTE", "dataset_meta")})
    dicts: list[Mapping[str, Any]] = [meta]
    for holder in (meta, top, runtime):
        if isinstance(holder, dict) and isinstance(holder.get("dataset_meta"), dict):
            dicts.append(holder["dataset_meta"])
    dicts.append(top)
    names, palette = None, None
    for values in dicts:
        names = names or _names(values.get("CLASSES")) or _names(values.get("classes"))
        palette = palette or _palette(values.get("PALETTE")) or _palette(values.get("palette"))
    return names, palette


def _names(value: Any) -> list[str] | None:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        return None
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in value]
    return names if all(isinstance(name, str) for name in names) else None


def _palette(value: Any) -> list[list[int]] | None:
    if not isinstance(value, list | tuple) or not value:
        return None
    colours = [list(colour) if isinstance(colour, list | tuple) else [] for colour in value]
    good = all(len(colour) == 3 and all(_is_level(level) for level in colour) for colour in colours)
    return [[int(level) for level in colour] for colour in colours] if good else None


def _is_level(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 255 and value == int(value)


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; it is read in pieces, so that a large one is not held twice."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    for piece in _pieces(tensor):
        # NaN and infinity survive a sum, which is quick and needs no memory: if it is finite, so is the piece.
        wide = piece.dtype if piece.element_size() >= 4 else torch.float32
        if not torch.isfinite(piece.sum(dtype=wide)) and not torch.isfinite(piece).all():
            return False
    return True


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    for piece in tensor.detach().reshape(-1).split(_FINITE_CHUNK):
        yield piece.float() if piece.element_size() == 1 else piece

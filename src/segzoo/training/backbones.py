"""The backbone of a new model: what a name stands for, and the weights that it begins with."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, TimmBackboneConfig
from transformers.utils import is_timm_available

from segzoo.auto import Registration, backbone_variants
from segzoo.backbones.stage_encoder import ENCODERS, StageEncoderBackbone, StageEncoderConfig
from segzoo.base import SegZooBaseConfig
from segzoo.configuration_segzoo import input_channels
from segzoo.conversion.published import (
    backbones_of_transformers,
    download_published,
    load_published,
    original_files,
    published_weights,
)
from segzoo.errors import SegZooError, first_line
from segzoo.inference.loading import errors_in_a_line, read_weights
from segzoo.inference.soundness import check_weights

RANDOM = "random"
# What to take instead of encoders that are no backbones: a model of the same kind that is one.
_INSTEAD = {
    **dict.fromkeys(("vit", "deit", "vit_mae", "ijepa"), "vit-s, vit-b or vit-l"),
    **dict.fromkeys(("clip", "clip_vision_model", "siglip", "siglip_vision_model", "siglip2"), "vit-b or dinov2_base"),
    "pvt": "pvt_v2_b2",
    "mobilenet_v2": "mobilenetv2",
    "mobilevit": "timm's mobilevit_s",
    "regnet": "timm's regnety_032",
    "efficientnet": "timm's efficientnet_b0",
}
Load = Callable[[PreTrainedModel], tuple[PreTrainedModel, list[str]]]


@dataclass(frozen=True)
class NewBackbone:
    """The backbone of a new model.

    Args:
        config: its config.
        load: takes the backbone of this config with random weights, and returns it or another one with those that it
            begins with, and lines for the user about layers that begin anew.
        weights: these weights in words, for the model card.
        note: the same as a line for the user.
    """

    config: PreTrainedConfig
    load: Load
    weights: str
    note: str


@dataclass(frozen=True)
class Wanted:
    """What the user wants of a backbone; the fields are the arguments of `new_backbone`."""

    random: bool
    drop_path_rate: float | None
    num_channels: int | None
    hub_options: Mapping[str, Any]
    verify: bool


@contextmanager
def loading(what: str, advice: str = "") -> Iterator[None]:
    """A context that turns errors of downloads into a one-line `SegZooError` that begins with ``what``."""
    try:
        yield
    except Exception as error:  # of huggingface_hub, httpx, safetensors, timm ...
        raise SegZooError(f"{what}: {first_line(error)}{advice}") from error


@contextmanager
def loading_from(source: str, what: str, kind: str = "segmentation model") -> Iterator[None]:
    """A context that turns any error of loading a folder into a one-line `SegZooError`.

    Args:
        source: the folder or Hub name.
        what: what the line begins with.
        kind: what the folder is to be loaded as.
    """
    try:
        with errors_in_a_line(source, kind):
            yield
    except SegZooError as error:
        raise SegZooError(f"{what}: {str(error).removeprefix(f'{source}: ')}") from error


def new_backbone(
    name: str,
    *,
    random: bool = False,
    drop_path_rate: float | None = None,
    num_channels: int | None = None,
    hub_options: Mapping[str, Any],
    verify: bool = True,
) -> NewBackbone:
    """Find the backbone that a name stands for. Its weights are loaded when the model around it is built.

    Args:
        name: a variant of segzoo, a short name of transformers' (``"convnext_tiny"``) or a model of timm, with the
            weights that are published for it; or folder or Hub name of a backbone.
        random: begin with random weights.
        drop_path_rate: rate of the backbone; None keeps its own.
        num_channels: number of channels of the pictures; None: 3, or those of a backbone that is loaded.
        hub_options: ``token``, ``revision``, ``cache_dir``, ``trust_remote_code`` for loading.
        verify: compare the weights of a folder with the hashes that were saved with them.

    Raises:
        SegZooError: there is no such backbone, transformers' has no backbone of this type, or it does not fit.
    """
    variants = backbone_variants()
    wanted = Wanted(random, drop_path_rate, num_channels, dict(hub_options), verify)
    if name in variants:
        return _own(name, variants[name], wanted)
    is_folder = Path(name).is_dir()
    if not is_folder and (found := _timm_name(name)) is not None:
        return _of_timm(name, found, wanted)
    place = name
    if not is_folder and name in backbones_of_transformers():
        place, wanted.hub_options["revision"] = backbones_of_transformers()[name], None
    with loading(f"--backbone {name}: {_unknown(name, variants)}"):
        config = AutoConfig.from_pretrained(place, **wanted.hub_options)
    return _loaded(name, place, config, wanted)


def is_backbone_name(name: str) -> bool:
    """Whether `new_backbone` knows a short name: of segzoo, transformers or timm, not a folder or Hub name."""
    if name in backbone_variants():
        return True
    return not Path(name).is_dir() and (name in backbones_of_transformers() or _timm_name(name) is not None)


def refuse_other_channels(num_channels: int | None, config: PreTrainedConfig, name: str) -> None:
    """Refuse another number of channels than that of a model or backbone whose weights are loaded.

    Raises:
        SegZooError: the numbers differ.
    """
    if num_channels not in (None, input_channels(config)):
        raise SegZooError(
            f"--num_channels {num_channels}: {name} takes pictures of {input_channels(config)} channels; leave "
            "--num_channels out, or make a new model with --backbone and the name of a variant"
        )


def set_drop_path(config: PreTrainedConfig, rate: float | None) -> None:
    """Set the drop path rate of a config; None keeps its own.

    Raises:
        SegZooError: there is none to set.
    """
    if rate is None:
        return
    if not hasattr(config, "drop_path_rate"):
        if rate > 0:
            raise SegZooError(f"{type(config).__name__} has no drop path; leave --drop_path_rate out, or give none")
        return
    config.drop_path_rate = rate


def _own(name: str, variant: Registration, wanted: Wanted) -> NewBackbone:
    channels = {} if wanted.num_channels is None else {"num_channels": wanted.num_channels}
    config = variant.variant_config(name, **channels)
    set_drop_path(config, wanted.drop_path_rate)
    source, hub_options = published_weights().get(name), wanted.hub_options
    if wanted.random or source is None:
        return NewBackbone(config, _keep, RANDOM, _random_note(name, wanted.random))

    def load(backbone: PreTrainedModel) -> tuple[PreTrainedModel, list[str]]:
        with loading(
            f"--backbone {name}: the weights {source} cannot be loaded from the Hub",
            "; check the connection, or pass --random_backbone to begin with random weights",
        ):
            file = download_published(name, token=hub_options.get("token"), cache_dir=hub_options.get("cache_dir"))
        with errors_in_a_line(source, "backbone"):
            load_published(backbone, file, source)
            check_weights(backbone, source)
        return backbone, []

    return NewBackbone(config, load, source, _note(name, source))


def _timm_name(name: str) -> str | None:
    """timm's name of one of its models, with or without ``timm/`` before it; None if it has none of this name."""
    bare = name.removeprefix("timm/")
    if name in backbones_of_transformers() or "/" in bare or not is_timm_available():
        return None
    import timm

    return bare if timm.is_model(bare) else None


def _of_timm(name: str, model_name: str, wanted: Wanted) -> NewBackbone:
    import timm

    if wanted.drop_path_rate:
        raise SegZooError(f"--drop_path_rate: {name} is loaded by timm without drop path; leave it out, or give 0")
    strides = _timm_strides(name, model_name)
    # the last map of each of the strides from 4 on
    indices = [i for i, stride in enumerate(strides) if stride >= 4 and stride not in strides[i + 1 :]]
    config = TimmBackboneConfig(backbone=model_name, num_channels=wanted.num_channels or 3, out_indices=indices)
    if wanted.random:
        return NewBackbone(config, _keep, RANDOM, _random_note(name, True))
    cfg = timm.get_pretrained_cfg(model_name)
    if cfg is None or not cfg.has_weights:
        raise SegZooError(
            f"--backbone {name}: timm has no weights of it; pass --random_backbone to begin with random weights"
        )
    source = cfg.hf_hub_id or cfg.url or model_name

    def load(backbone: PreTrainedModel) -> tuple[PreTrainedModel, list[str]]:
        with loading(
            f"--backbone {name}: timm's weights {source} cannot be loaded from the Hub",
            "; check the connection, or pass --random_backbone to begin with random weights",
        ):
            loaded = timm.create_model(
                model_name,
                pretrained=True,
                features_only=True,
                in_chans=config.num_channels,
                out_indices=tuple(indices),
            )
        with errors_in_a_line(source, "backbone"):
            backbone._backbone.load_state_dict(loaded.state_dict())
            check_weights(backbone, source)
        return backbone, []

    return NewBackbone(config, load, source, _note(name, source))


def _timm_strides(name: str, model_name: str) -> list[int]:
    """The strides of the maps of a model of timm, which must be several, of images of any size."""
    import timm

    sentence = f"--backbone {name}: timm gives no feature maps of this model for images of any size"
    try:
        with torch.device("meta"):
            model = timm.create_model(model_name, features_only=True, pretrained=False)
            model(torch.empty(1, 3, 96, 160))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError, AssertionError, ValueError) as error:
        raise SegZooError(
            f"{sentence} ({first_line(error)}); take another one, such as vit-b or dinov2_base"
        ) from error
    strides = list(model.feature_info.reduction())
    if len(set(strides)) == 1:
        raise SegZooError(
            f"--backbone {name}: it has maps of stride {strides[0]} only; take a model with a pyramid of maps, or vit-b or "
            "dinov2_base, from whose maps one is made"
        )
    return strides


def _loaded(name: str, place: str, config: PreTrainedConfig, wanted: Wanted) -> NewBackbone:
    """A backbone whose config comes from a folder or the Hub."""
    refuse_other_channels(wanted.num_channels, config, name)
    set_drop_path(config, wanted.drop_path_rate)
    is_folder = Path(place).is_dir()
    shown = f"the folder {Path(place).name}" if is_folder else place
    is_encoder = config.model_type in ENCODERS
    if not is_encoder:
        _refuse_no_backbone(name, config)
    backbone_config = StageEncoderConfig.of(config) if is_encoder else config

    def load(backbone: PreTrainedModel) -> tuple[PreTrainedModel, list[str]]:
        fresh: list[str] = []

        def new(model: PreTrainedModel, found: Mapping[str, Any]) -> list[str]:
            fresh.extend(_new_norms(model, found["missing_keys"], config.architectures or []))
            return fresh

        in_encoder = isinstance(backbone, StageEncoderBackbone)
        kind, inner = (AutoModel, backbone.encoder.config) if in_encoder else (type(backbone), backbone.config)
        with loading_from(place, f"--backbone {name}: cannot be loaded", "backbone"):
            loaded = read_weights(
                partial(kind.from_pretrained, place, config=inner, **wanted.hub_options),
                place,
                wanted.hub_options,
                own=isinstance(config, SegZooBaseConfig),
                verify=wanted.verify,
                new=new,
            )
        if in_encoder:
            backbone.encoder = loaded
        notes = []
        if fresh:
            layers = sorted({key.rpartition(".")[0] for key in fresh})
            notes.append(
                f"backbone: {len(layers)} norms of its maps begin anew, for {name} has none ({', '.join(layers[:2])}"
                f"{', ...' if len(layers) > 2 else ''})"
            )
        return backbone if in_encoder else loaded, notes

    if wanted.random:
        return NewBackbone(backbone_config, _keep, RANDOM, _random_note(name, True))
    return NewBackbone(backbone_config, load, shown, _note(name, name if is_folder else shown))


def _new_norms(model: PreTrainedModel, missing: Collection[str], architectures: Sequence[str]) -> list[str]:
    """The missing weights that a backbone of transformers has beyond the classifier that its weights are from.

    These are the norms of its maps: a part of the model of its own, of which nothing may be there.
    """
    if type(model).__name__ in architectures:
        return []
    keys: dict[str, set[str]] = {}
    for key in model.state_dict():
        keys.setdefault(key.partition(".")[0], set()).add(key)
    return [
        key
        for part in keys.values()
        if part <= set(missing)
        for key in sorted(part)
        if "norm" in type(model.get_submodule(key.rpartition(".")[0])).__name__.lower()
    ]


def _refuse_no_backbone(name: str, config: PreTrainedConfig) -> None:
    if type(config) in transformers.AutoBackbone._model_mapping:
        return
    instead = _INSTEAD.get(config.model_type)
    if type(config) in transformers.AutoModelForSemanticSegmentation._model_mapping and instead is None:
        advice = "a whole model is for --model_name_or_path"
    else:
        advice = f"take {instead or 'a name of `segzoo list --backbones`, or a ConvNeXt, Swin or DINOv2'} instead"
    raise SegZooError(f"--backbone {name}: there is no backbone of the type {config.model_type!r}; {advice}")


def _unknown(name: str, variants: Mapping[str, Registration]) -> str:
    names = ", ".join(sorted(variants))
    timm = "" if is_timm_available() else " (models of timm need it: pip install 'segzoo[timm]')"
    if name in backbones_of_transformers():
        return f"{backbones_of_transformers()[name]} cannot be loaded from the Hub"
    return f"is none of the variants ({names}) and cannot be loaded{timm}"


def _note(name: str, source: str) -> str:
    return f"backbone: {name} begins with {'its own weights' if name == source else f'the weights of {source}'}"


def _random_note(name: str, asked: bool) -> str:
    begins = f"backbone: {name} begins with random weights"
    if asked:
        return f"{begins}, as asked"
    original = original_files().get(name)
    if original is None:
        return f"{begins}: none are known that are published"
    return f"{begins}: none on the Hub load as they are; `segzoo convert` makes a folder for --backbone of {original}"


def _keep(backbone: PreTrainedModel) -> tuple[PreTrainedModel, list[str]]:
    return backbone, []

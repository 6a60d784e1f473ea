"""Loading a model with its image processor from a folder or the Hub: the one place where commands and users do it."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity, set_verbosity_error

from segzoo import registration  # noqa: F401  the Auto classes know segzoo's models
from segzoo.base import check_num_labels
from segzoo.configuration_segzoo import SegZooConfig, class_names, input_channels
from segzoo.errors import SegZooError, first_line, one_line
from segzoo.hub_names import hub_or_cache
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.inference.soundness import (
    check_config_numbers,
    check_preparation,
    check_weights,
    try_preparation,
)
from segzoo.model_folder import CONFIG, PREPROCESSOR, check_files
from segzoo.universal import load_segmentation_model
from segzoo.weight_hashes import HASHES, check_hashes, read_hashes

if TYPE_CHECKING:
    import os

_WEIGHTS = "the weights"
_log = logging.getLogger(__name__)


class LoadedModel(NamedTuple):
    """A model and the image processor that belongs to it.

    Attributes:
        model: the model, in eval mode.
        processor: its image processor.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor


def load(
    name: str | os.PathLike,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    trust_remote_code: bool | None = None,
    verify: bool = True,
) -> LoadedModel:
    """Load a model for semantic segmentation, in eval mode, with its image processor.

    ``model, processor = segzoo.load("namespace/name")`` takes any model that
    ``AutoModelForSemanticSegmentation`` loads, and the universal ones of `segzoo.universal`. Transformers' progress bars are off for the process afterwards.

    Args:
        name: model folder, or name on the Hub.
        device: torch device for the weights, such as ``"cuda:1"``.
        revision: branch, tag or commit on the Hub; None: its main branch.
        token: access token; None or True takes the one of ``hf auth login`` or ``HF_TOKEN``.
        cache_dir: where downloads are kept; None: the Hugging Face cache.
        trust_remote_code: whether code in the repository may run; models of segzoo need none. Nobody is asked: None is
            False.
        verify: compare the weights with the hashes that were saved with them; False for those that were changed since. A
            model of segzoo, or a folder, without hashes is loaded, and one line of the log says so.

    Raises:
        SegZooError: no such model, or one that does not load as it was saved: another kind of model, a damaged file,
            weights that are missing, left over, of other shapes, changed or not finite; an image processor for other
            channels, or with a mean or deviation that is no number; class names that are no text; or a device that
            is not there.
    """
    source = str(name)
    disable_progress_bar()
    options = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "trust_remote_code": bool(trust_remote_code),
    }
    options = {key: value for key, value in options.items() if value is not None}
    with errors_in_a_line(source), hub_or_cache(source, revision=revision, token=token):
        config = read_config(source, options)
        processor = read_processor(source, options, input_channels(config))
        model = read_weights(
            partial(load_segmentation_model, source, config, options),
            source,
            options,
            own=isinstance(config, SegZooConfig),
            verify=verify,
        )
    check_channels(model.config, processor, source)
    try:
        return LoadedModel(model.to(torch.device(device)), processor)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise SegZooError(f"device {device} cannot be used here ({reason}); try cpu") from error


def load_model(source: str | os.PathLike, device: str | torch.device = "cpu") -> LoadedModel:
    """`load` with nothing but a device."""
    return load(source, device=device)


@contextmanager
def errors_in_a_line(source: str, kind: str = "segmentation model") -> Iterator[None]:
    """A context that turns whatever transformers, safetensors and json raise into a line with the file and the fix.

    Args:
        source: folder or Hub name; the line begins with it.
        kind: what it is to be loaded as.

    Raises:
        SegZooError: in place of any other error.
    """
    try:
        yield
    except SegZooError as error:
        if str(error).startswith(source):
            raise
        raise SegZooError(f"{source}: {_part_of(error)}: {_shown(error)}") from error
    except Exception as error:
        part = _part_of(error)
        damaged = part if part != _WEIGHTS else _unreadable_weights(Path(source)) or f"{CONFIG} or {part}"
        raise SegZooError(
            f"{source}: this does not load as a {kind} ({damaged}: {_shown(error)}); save or fetch the folder again, or "
            "give another folder that segzoo wrote, or a Hub name"
        ) from error


@contextmanager
def _reading(part: str) -> Iterator[None]:
    """A context whose errors get a note of what was being read, for `errors_in_a_line`.

    They stay what they are: between the two, `hub_or_cache` has to tell one from the other.
    """
    try:
        yield
    except Exception as error:
        error.add_note(part)
        raise


def _part_of(error: Exception) -> str:
    return [CONFIG, *getattr(error, "__notes__", ())][-1]


def read_config(source: str, options: Mapping[str, Any], **changes: Any) -> PreTrainedConfig:
    """The config of a model for segmentation.

    Args:
        source: folder or Hub name.
        options: ``token``, ``revision``, ``cache_dir``, ``trust_remote_code``.
        changes: values in place of the config's own, such as ``id2label``.

    Raises:
        SegZooError: it is a backbone's, or class names are no text or have other ids than 0 to n - 1. What else may be raised is for `errors_in_a_line`.
    """
    with _reading(CONFIG):
        check_files(Path(source), source)
        values, _ = PreTrainedConfig.get_config_dict(source, **options)
        check_num_labels(values, f"{source}: {CONFIG}")
        check_config_numbers(values, f"{source}: {CONFIG}")
        config = AutoConfig.from_pretrained(source, **options, **changes)
        refuse_backbone(config, source)
        class_names(config, source)
    return config


def read_processor(source: str, options: Mapping[str, Any], num_channels: int = 3) -> BaseImageProcessor:
    """The image processor of a folder or Hub name, which is tried on a small grey picture.

    Args:
        source, options: as in `read_config`.
        num_channels: of the model.

    Raises:
        SegZooError: a mean, deviation or size is not possible. What else may be raised is for `errors_in_a_line`.
    """
    with _reading(PREPROCESSOR):
        processor = AutoImageProcessor.from_pretrained(source, **options)
        if not BaseImageProcessor.get_image_processor_dict(source, **options)[0]:
            raise SegZooError("holds no settings; save or fetch it again")
        check_preparation(processor.to_dict(), f"{source}: {PREPROCESSOR}")
        try_preparation(processor, num_channels)
    return processor


def read_weights(
    load: Callable[..., tuple[PreTrainedModel, dict[str, Any]]],
    source: str,
    options: Mapping[str, Any],
    *,
    own: bool,
    verify: bool,
    new: Callable[[PreTrainedModel, Mapping[str, Any]], Collection[str]] | None = None,
) -> PreTrainedModel:
    """A model in eval mode whose weights are those that its folder holds: all of them, finite, as they were saved.

    Args:
        load: ``from_pretrained`` of a model or backbone with its positional arguments, to which
            ``output_loading_info`` and ``ignore_mismatched_sizes`` are passed.
        source, options: as in `read_config`.
        own: the model is segzoo's, whose weights may have no place for others and whose folder has hashes.
        verify: compare the hashes.
        new: takes the model and what ``output_loading_info`` says; returns the names of the weights that may be
            missing, of another shape or left over, because other ones are meant to begin anew. None: there are none.

    Raises:
        SegZooError: weights are missing, left over, of other shapes, changed or not finite. What else may be raised is for
            `errors_in_a_line`.
    """
    with _reading(_WEIGHTS):
        check_files(Path(source), source)
        verbosity = get_verbosity()
        set_verbosity_error()  # transformers' table of what does not fit, which the error says in one line
        try:
            model, found = load(output_loading_info=True, ignore_mismatched_sizes=True)
        finally:
            set_verbosity(verbosity)
        excused = frozenset() if new is None else frozenset(new(model, found))
        wrong = {
            "missing_keys": [key for key in found["missing_keys"] if key not in excused],
            "mismatched_keys": [entry for entry in found["mismatched_keys"] if entry[0] not in excused],
            "unexpected_keys": [key for key in found["unexpected_keys"] if key not in excused],
        }
        refuse_other_weights(wrong, source, left_over=own)
        if verify:
            _compare_hashes(source, own, options)
        check_weights(model, source)
    return model.eval()


def _shown(error: Exception) -> str:
    """What an error says, as one line of some 250 characters at most."""
    return textwrap.shorten(one_line(error) or type(error).__name__, 250, placeholder=" ...")


def _compare_hashes(source: str, own: bool, options: Mapping[str, Any]) -> None:
    """Compare the weights with the hashes in the folder, which may be in the Hub's cache.

    Raises:
        SegZooError: a file of weights is not what was saved.
    """
    try:
        hashes = cached_file(source, HASHES, **{key: v for key, v in options.items() if key != "trust_remote_code"})
    except OSError:  # there is none
        if own or Path(source).is_dir():
            _log.warning("%s has no %s: the weights are loaded without a look at their hashes", source, HASHES)
        return
    # The weights themselves are there: they have just been loaded.
    check_hashes(Path(hashes).parent, read_hashes(Path(hashes)), source)


def _unreadable_weights(folder: Path) -> str | None:
    """The name of the first file of weights in a folder that cannot be opened; None if all can."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except Exception:  # safetensors raises its own, OSError, ValueError, ...
            return path.name
    return None


def refuse_other_weights(found: Mapping[str, Collection[Any]], source: str, *, left_over: bool = True) -> None:
    """Refuse weights that are not those of the model.

    Args:
        found: what ``from_pretrained(..., output_loading_info=True)`` says about the weights.
        source: where they come from, for the message.
        left_over: refuse also those that the model has no place for; models of transformers often come with some of
            another task.

    Raises:
        SegZooError: weights are missing, of another shape, or left over; the message names the first ones.
    """
    wrong = []
    for what, keys in (
        ("missing", found["missing_keys"]),
        ("of another shape", [_shapes(*entry) for entry in found["mismatched_keys"]]),
        ("unknown to the model", found["unexpected_keys"] if left_over else ()),
    ):
        if keys:
            named = ", ".join(textwrap.shorten(key, 100, placeholder=" ...") for key in sorted(keys)[:2])
            named += ", ..." if len(keys) > 2 else ""
            wrong.append(f"{len(keys)} weights are {what} ({named})")
    if wrong:
        raise SegZooError(
            f"{source}: {'; '.join(wrong)}: the file of weights belongs to another config.json, or is damaged; save or "
            "convert the model again, or fetch it again"
        )


def _shapes(key: str, stored: Collection[int], expected: Collection[int]) -> str:
    stored, expected = ("x".join(map(str, shape)) for shape in (stored, expected))
    return f"{key}: {stored} instead of {expected}"


def is_backbone(config: PreTrainedConfig) -> bool:
    """Whether a config is that of a backbone, without a head that segments."""
    architectures = config.architectures or []
    without_head = type(config) not in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
    remote = "AutoModelForSemanticSegmentation" in (getattr(config, "auto_map", None) or {})
    known = type(config) in MODEL_FOR_BACKBONE_MAPPING or config.model_type == "timm_backbone"
    saved_as_backbone = bool(architectures) and all(name.endswith("Backbone") for name in architectures)
    return known and not remote and (without_head or saved_as_backbone)


def refuse_backbone(config: PreTrainedConfig, source: str) -> None:
    """Refuse the config of a backbone where a whole model is needed.

    Args:
        config: what was loaded.
        source: where it comes from, for the message.

    Raises:
        SegZooError: it is a backbone's; the message says how to train a model with it.
    """
    if is_backbone(config):
        raise SegZooError(
            f"{source}: this is a backbone ({config.model_type}), without a head that segments; "
            f"`segzoo train --backbone {source}` trains a model with it"
        )


def check_channels(config: PreTrainedConfig, processor: BaseImageProcessor, source: str) -> None:
    """Refuse an image processor of segzoo that hands over other channels than a model takes.

    Args:
        config: of the model.
        processor: any; those of transformers do not say how many channels they are for.
        source: where the processor comes from, for the message.

    Raises:
        SegZooError: the numbers of channels differ.
    """
    expected = input_channels(config)
    if isinstance(processor, SegZooImageProcessor) and processor.num_channels != expected:
        raise SegZooError(
            f"{source}: the image processor reads pictures of {processor.num_channels} channels, and the model takes "
            f"{expected}; set num_channels in its preprocessor_config.json, with as many numbers in image_mean and image_std"
        )

"""The image processor: pictures and masks to model inputs, and logits to label maps, by the rules of the original
systems.

Origins of the rules: mmcv 1.6 and mmsegmentation 0.27 (``Resize``, ``Normalize``, ``Pad``, ``LoadAnnotations``), the
test pipelines of InternImage, ViT-Adapter and InternVL (``ResizeToMultiple``, ``SETR_Resize``, ``PadShortSide``) and
MIT's semantic-segmentation-pytorch (``TestDataset``).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput

from segzoo.errors import SegZooError
from segzoo.hub import WritesShim
from segzoo.images.loading import (
    blue_first,
    image_to_tensor,
    list_of_images,
    list_of_masks,
    mask_to_tensor,
    reduce_labels,
)
from segzoo.images.resizing import (
    pad_image,
    padded_size,
    per_channel,
    resize_bicubic,
    resize_bilinear,
    resize_mask,
    resize_steps,
)
from segzoo.images.settings import (
    SegZooImageProcessorKwargs,
    check_names_and_types,
    check_settings,
    check_spelling,
    pair_of_sides,
)
from segzoo.inference.label_maps import (
    label_map_from_logits,
    probabilities_from_logits,
    switched_off,
    upsampled_logits,
)

# Entries of preprocessor_config.json that name this class. The third is for pipelines: they look for a video processor
# too, and would take one for remote code by the name in auto_map if the file did not say that it holds none.
_OF_AUTO_CLASSES = {
    "image_processor_type": "SegZooImageProcessor",
    "auto_map": {"AutoImageProcessor": "modeling_segzoo.SegZooImageProcessor"},
    "video_processor_type": "none",
}

# Entries of preprocessor_config.json that are not settings of this class.
_BOOKKEEPING = {*_OF_AUTO_CLASSES, "processor_class", "feature_extractor_type", "transformers_version"}

# Filters without antialiasing.
_OF_OPENCV = {PILImageResampling.BILINEAR: resize_bilinear, PILImageResampling.BICUBIC: resize_bicubic}


class SegZooImageProcessor(WritesShim, TorchvisionBackend):
    """Image processor of every segzoo model: each step of an original test pipeline is a field.

    The steps, in this order: convert to ``num_channels`` channels, resize, rescale, normalise, pad. Each setting below
    is a constructor argument, an attribute, an entry of ``preprocessor_config.json`` and a keyword argument of a
    single call.

    Reading do_convert_rgb (`bool`, default True): grey, palette, CMYK and RGBA pictures become RGB (alpha is dropped,
        as in
            OpenCV); arrays with one channel are repeated, those with four lose the last. Only with ``num_channels`` 3.
        num_channels (`int`, default 3): channels that the model reads. With 1, 8-bit colours become grey. With any
            number other than 1 and 3, pictures must have exactly that many; TIFF files with many bands need
            ``tifffile``.
        channel_order (`"rgb"` | `"bgr"`, default "rgb"): channel order that the model expects, mmcv's ``to_rgb`` True
            / False; inputs are always RGB, with or without a fourth channel, which stays the last. ``image_mean`` and
            ``image_std`` are in this order.

    Resizing
        do_resize (`bool`, default True): False leaves pictures and masks at their size; ``size_multiple`` still holds.
        size (`dict`, default {"shortest_edge": 512, "longest_edge": 2048}): upper bounds of the two edges, keeping the
            aspect ratio: mmcv's ``img_scale=(2048, 512), keep_ratio=True``. Without ``longest_edge`` the shorter side
            always becomes ``shortest_edge`` (``SETR_Resize``, ``min_size``). ``{"height", "width"}`` is the exact size
            (``keep_ratio=False``). An int is the shortest edge.
        rounding (`"nearest"` | `"down"` | `"nearest_twice"`, default "nearest"): how scaled sides are rounded: mmcv's
            ``int(x + 0.5)``, MIT's ``int(x)``, or the size of ``"nearest"`` taken for bounds once more, as
            mmsegmentation's ``ResizeShortestEdge`` does.
        size_multiple (`int`, optional): both sides are raised to multiples of it, in the way of
            ``size_multiple_mode``, whether or not pictures are resized before.
        size_multiple_mode (`"stretch"` | `"round_up"` | `"pad"` | `"pad_pass"`, default "stretch"): a second resize of
            the already resized picture (``ResizeToMultiple``); one resize to the rounded-up size (MIT); padding
            (``Pad`` with ``size_divisor``, mmseg 1.x ``size_divisor``); padding of what goes through the model in one
            pass, for models that take no other sizes: of the picture, and with windows only of sides that are shorter
            than a window. Pictures with masks are padded for one pass, because a loss needs one.
        resample (`PILImageResampling`, default BILINEAR), antialias (`bool`, default False): the filter. Without
            antialiasing it is OpenCV's (mmcv), with it Pillow's to one grey level (MIT, transformers).

    Values do_rescale (`bool`, default True), rescale_factor (`float`, default 1/255): values are multiplied by the
        factor. do_normalize (`bool`, default True), image_mean, image_std (`float` or one per channel, default
        ImageNet's):
            ``(value - mean) / std`` after rescaling; so they are mmcv's numbers divided by 255.

    Padding, always at the right and the bottom, after normalisation
        do_pad (`bool`, default True): pictures of a batch that differ in size are padded to the largest.
        pad_size (`dict` with height, width, optional): smaller pictures are padded to at least this size
            (``Pad(size=...)``, ``PadShortSide``). Larger ones are unchanged.
        pad_value (`float` or one per channel, default 0): value of padded pixels. Labels are padded with
            ``ignore_index``.

    Labels do_reduce_labels (`bool`, default False): in masks, 0 becomes ``ignore_index``, every other id is lowered by
        one,
            and ``ignore_index`` stays (``reduce_zero_label``).
        ignore_index (`int`, default 255): id of pixels that count in neither loss nor scores.

    Results align_corners (`bool`, default False): how logits are upsampled; the same setting as in the decode head.
        resize_logits_to_input (`bool`, default False): upsample in two steps, to the input of the model and then to
        the
            target, as mmsegmentation does, instead of in one. Labels differ at a few border pixels.
        window_size, window_stride (`[height, width]`, optional): if both are set and the call has no masks, they are
            added to the output (as tuples), so that ``model(**inputs)`` predicts by windows.
    """

    valid_kwargs = SegZooImageProcessorKwargs
    model_input_names = ["pixel_values"]

    do_convert_rgb = True
    num_channels = 3
    channel_order = "rgb"
    do_resize = True
    size = {"shortest_edge": 512, "longest_edge": 2048}
    default_to_square = False
    rounding = "nearest"
    size_multiple = None
    size_multiple_mode = "stretch"
    resample = PILImageResampling.BILINEAR
    antialias = False
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_pad = True
    pad_size = None
    pad_value = 0
    do_reduce_labels = False
    ignore_index = 255
    align_corners = False
    resize_logits_to_input = False
    window_size = None
    window_stride = None

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict ready for JSON, without what names the class."""
        output = super().to_dict()
        for key in _OF_AUTO_CLASSES:
            output.pop(key, None)
        return output

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Write the settings, and the name of this class, by which the Auto classes find it.

        Beside the ``config.json`` of a segzoo model, whose ``model_type`` leads to this class, the name is left out.
        """
        super().to_json_file(json_file_path)
        path = Path(json_file_path)
        if not _is_of_segzoo(path.with_name("config.json")):
            settings = json.loads(path.read_text(encoding="utf-8")) | _OF_AUTO_CLASSES
            path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def __init__(self, **kwargs: Unpack[SegZooImageProcessorKwargs]):
        settings = {
            name: value for name, value in kwargs.items() if name not in _BOOKKEEPING and not name.startswith("_")
        }
        check_names_and_types(settings)
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a processor from what `to_dict` gave; ``from_pretrained`` calls this.

        Args:
            image_processor_dict: the settings.
            kwargs: further settings, and ``return_unused_kwargs``. What is no setting is passed over, as transformers
                does, because pipelines give their model's options to the image processor too.

        Raises:
            SegZooError: a setting is not possible or misspelt.
        """
        if not kwargs.get("return_unused_kwargs"):
            check_spelling(kwargs)
        return super().from_dict(image_processor_dict, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoImageProcessor") -> None:
        """Do nothing: a saved folder names the installed class, so no source file needs to be copied into it."""

    # ------------------------------------------------------------ settings

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        """Bring the settings of the processor or of one call into one form, and check that they make sense."""
        settings = super()._standardize_kwargs(**kwargs)
        for name in ("window_size", "window_stride"):
            if settings.get(name) is not None:
                settings[name] = pair_of_sides(settings[name], name)
        check_settings(settings)
        return settings

    # ------------------------------------------------------------ inputs

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[SegZooImageProcessorKwargs],
    ) -> BatchFeature:
        """Turn pictures, and masks if there are any, into a batch.

        Args:
            images: a picture or a list of pictures. Each is a file path, the bytes of a file, the ``{"path",
                "bytes"}`` of a table (these three are turned upright by their EXIF rotation), a PIL picture, or a
                NumPy array or tensor (height, width), (height, width, channels) or (channels, height, width); one 4-D
                array is a list of pictures. Files, PIL pictures and integers of any type become grey levels 0..255 by
                the rule of their type (`segzoo.images.values.value_rule`). Float arrays keep their values, which
                should range from 0 to 255, or from 0 to 1 with ``do_rescale=False``.
            segmentation_maps: one mask of integer class ids for each picture, of the same size: PIL pictures (L, P, 1,
                I, I;16, F), file paths, arrays or tensors (height, width).
            kwargs: any setting of the class, for this call only.

        Returns:
            ``pixel_values`` (batch, channels, height, width) float32; with masks also ``labels`` (batch, height,
            width) int64, resized by nearest pixel and padded with ``ignore_index``; without masks ``window_size`` and
            ``window_stride`` if the processor has them. With ``return_tensors=None`` the values are lists of tensors.

        Raises:
            SegZooError: wrong number of channels or masks, values outside 0..255, a mask with another size than its
                picture or with values that are not integers, pictures of different sizes with ``do_pad=False``.
        """
        check_names_and_types(kwargs)
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(
        self, images: ImageInput, segmentation_maps: ImageInput | None = None, **settings: Any
    ) -> BatchFeature:
        pictures = [
            image_to_tensor(
                image,
                index,
                num_channels=settings["num_channels"],
                convert_rgb=settings["do_convert_rgb"],
                input_data_format=settings["input_data_format"],
                rescale_factor=settings["rescale_factor"] if settings["do_rescale"] else None,
            )
            for index, image in enumerate(list_of_images(images))
        ]
        if settings["device"] is not None:
            pictures = [picture.to(settings["device"]) for picture in pictures]
        masks = None
        if segmentation_maps is not None:
            masks = self._load_masks(segmentation_maps, pictures, settings)
        return self._preprocess(pictures, masks=masks, **settings)

    def _load_masks(
        self, segmentation_maps: ImageInput, pictures: list[torch.Tensor], settings: Mapping[str, Any]
    ) -> list[torch.Tensor]:
        masks = [
            mask_to_tensor(mask, index)
            for index, mask in enumerate(list_of_masks(segmentation_maps, expected=len(pictures)))
        ]
        if len(masks) != len(pictures):
            raise SegZooError(
                f"{len(pictures)} images came with {len(masks)} segmentation maps; give one map for each image."
            )
        for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            if picture.shape[-2:] != mask.shape:
                raise SegZooError(
                    f"segmentation map {index} is {mask.shape[0]} x {mask.shape[1]} pixels (height x width), its "
                    f"image {picture.shape[1]} x {picture.shape[2]}; give the mask of this image, at the image's size."
                )
        if settings["do_reduce_labels"]:
            masks = [reduce_labels(mask, settings["ignore_index"]) for mask in masks]
        return [mask.to(picture.device) for picture, mask in zip(pictures, masks, strict=True)]

    def _preprocess(
        self, images: list[torch.Tensor], masks: list[torch.Tensor] | None = None, **settings: Any
    ) -> BatchFeature:
        images = [self.resize_picture(image, **settings) for image in images]
        if masks is not None:
            masks = [resize_mask(mask, tuple(image.shape[-2:])) for mask, image in zip(masks, images, strict=True)]
        images = [self._rescale_and_normalize_one(image, settings).float() for image in images]

        if settings["do_pad"]:
            windows = settings["window_size"] if masks is None else None
            sizes = [padded_size(tuple(image.shape[-2:]), **_pad_settings(settings, windows)) for image in images]
            size = (max(height for height, _ in sizes), max(width for _, width in sizes))
            images = [pad_image(image, size, settings["pad_value"]) for image in images]
            if masks is not None:
                masks = [pad_image(mask[None], size, settings["ignore_index"])[0] for mask in masks]
        elif settings["return_tensors"] is not None and len({image.shape for image in images}) > 1:
            sizes = ", ".join(sorted({f"{image.shape[1]} x {image.shape[2]}" for image in images}))
            raise SegZooError(
                f"the images of this batch have different sizes after resizing ({sizes}) and do_pad is False; "
                "set do_pad=True, or process them one by one."
            )

        data: dict[str, Any] = {"pixel_values": images}
        if masks is not None:
            data["labels"] = masks
        batch = BatchFeature(data=data, tensor_type=settings["return_tensors"])
        if masks is None and settings["window_size"] is not None:
            batch["window_size"] = tuple(settings["window_size"])
            batch["window_stride"] = tuple(settings["window_stride"])
        return batch

    def resize_picture(self, picture: torch.Tensor, **changes: Any) -> torch.Tensor:
        """A picture with the size and the order of channels that the model takes, in its own values and not padded.

        Args:
            picture: (num_channels, height, width).
            changes: settings in place of the processor's.
        """
        settings = {**vars(self), **changes}
        steps = resize_steps(tuple(picture.shape[-2:]), **_resize_settings(settings))
        picture = self._resize_image(picture, steps, settings)
        return blue_first(picture) if settings["channel_order"] == "bgr" else picture

    def _resize_image(
        self, image: torch.Tensor, sizes: list[tuple[int, int]], settings: Mapping[str, Any]
    ) -> torch.Tensor:
        """Resize (channels, height, width) to one size after the other; integers are rounded each time, as in mmcv."""
        for size in sizes:
            if tuple(image.shape[-2:]) == size:
                continue
            if (filter_of_opencv := _OF_OPENCV.get(settings["resample"])) and not settings["antialias"]:
                image = filter_of_opencv(image, size)
            else:
                height, width = size
                image = self.resize(
                    image,
                    SizeDict(height=height, width=width),
                    resample=settings["resample"],
                    antialias=settings["antialias"],
                )
        return image

    def _rescale_and_normalize_one(self, image: torch.Tensor, settings: Mapping[str, Any]) -> torch.Tensor:
        if not settings["do_rescale"] and not settings["do_normalize"]:
            return image
        mean = std = None
        if settings["do_normalize"]:
            mean = per_channel(settings["image_mean"], image.shape[0], "image_mean")
            std = per_channel(settings["image_std"], image.shape[0], "image_std")
        return self.rescale_and_normalize(
            image,
            do_rescale=settings["do_rescale"],
            rescale_factor=settings["rescale_factor"],
            do_normalize=settings["do_normalize"],
            image_mean=mean,
            image_std=std,
        )

    # ------------------------------------------------------------ results

    def input_sizes(self, image_sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """The sizes that this processor gives to a batch of pictures.

        Args:
            image_sizes: height and width of each picture before preprocessing.

        Returns:
            (height, width) of each picture after resizing, without padding; and (height, width) of the padded batch.
        """
        settings = vars(self)
        sizes = [tuple(int(side) for side in size) for size in image_sizes]
        sizes = [resize_steps(size, **_resize_settings(settings))[-1] for size in sizes]
        padded = sizes
        if self.do_pad:
            padded = [padded_size(size, **_pad_settings(settings, self.window_size)) for size in sizes]
        return sizes, (max(height for height, _ in padded), max(width for _, width in padded))

    def post_process_semantic_segmentation(
        self,
        outputs: ModelOutput | Mapping[str, torch.Tensor],
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
        return_probabilities: bool = False,
        return_segmentation_scores: bool = False,
    ) -> list[torch.Tensor] | list[BatchFeature]:
        """Label maps of a batch, equal to bilinear upsampling of all logits followed by argmax, in bounded memory.

        The padding that this processor added is computed from ``target_sizes`` and removed in the original systems'
        order: resize the logits to the padded input's size, crop, resize to the target. So if pictures were padded,
        ``target_sizes`` must be the original sizes of all pictures of this batch.

        Args:
            outputs: the model's output (or a dict) with ``logits`` (batch, num_labels, height, width).
            target_sizes: height and width of each picture, (batch, 2); None keeps the logits' size, padding included.
            return_probabilities: also return the probability of every class; that takes num_labels floats per pixel.
            return_segmentation_scores: also return the upsampled logits, as the image processors of transformers do;
                that takes num_labels floats per pixel.

        Returns:
            One int64 map (height, width) on the CPU for each picture; with one of the last two arguments one object
            with ``segmentation`` and ``probabilities``, the softmax after the upsampling, or ``segmentation_scores``,
            both (num_labels, height, width).

        Raises:
            SegZooError: the number of target sizes differs from that of the pictures, a size is not a pair of positive
                integers, or the logits cannot come from pictures of these sizes.
        """
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        if logits.ndim != 4:
            raise SegZooError(
                f"logits have the shape {tuple(logits.shape)}, expected (batch, num_labels, height, width); pass the "
                "model's output unchanged."
            )
        if target_sizes is None:
            plans = [{"size": tuple(logits.shape[-2:])}] * len(logits)
        else:
            sizes = _target_sizes(target_sizes, len(logits))
            _, batch_size = self.input_sizes(sizes)
            plans = [self._upsampling_plan(logits.shape[1:], size, batch_size) for size in sizes]
        results = []
        for image_logits, plan in zip(logits.detach(), plans, strict=True):
            plan = {**plan, "align_corners": self.align_corners}
            image_logits = switched_off(image_logits)
            labels = label_map_from_logits(image_logits, **plan).cpu()
            more = {}
            if return_probabilities:
                more["probabilities"] = probabilities_from_logits(image_logits, **plan).cpu()
            if return_segmentation_scores:
                more["segmentation_scores"] = upsampled_logits(image_logits, **plan).cpu()
            results.append(BatchFeature({"segmentation": labels, **more}) if more else labels)
        return results

    def _upsampling_plan(
        self, shape: Sequence[int], image_size: tuple[int, int], batch_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Keyword arguments for `label_map_from_logits` that turn a picture's logits into a map of its size.

        Args:
            shape: (num_labels, height, width) of the logits.
            image_size: (height, width) of the picture before preprocessing.
            batch_size: (height, width) of the padded batch.
        """
        (size,), _ = self.input_sizes([image_size])
        if size == batch_size and not self.resize_logits_to_input:
            return {"size": image_size}
        height, width = shape[-2:]
        if size != batch_size and abs(height * batch_size[1] - width * batch_size[0]) > 2 * sum(batch_size):
            raise SegZooError(
                f"logits of {height} x {width} do not belong to an input of {batch_size[0]} x {batch_size[1]}, which "
                "these target sizes give with this processor's resizing and padding; pass the original sizes of "
                "exactly the images of this batch, and process them with the same settings."
            )
        return {"size": image_size, "input_size": batch_size, "crop": size}


def _is_of_segzoo(config: Path) -> bool:
    """Whether a file is the config.json of a segzoo model; one that is missing or damaged is not."""
    try:
        return json.loads(config.read_text(encoding="utf-8"))["model_type"] == "segzoo"
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _resize_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: settings[name] for name in ("rounding", "size_multiple", "size_multiple_mode")}
    return values | {"size": settings["size"] if settings["do_resize"] else None}


def _pad_settings(settings: Mapping[str, Any], window_size: Sequence[int] | None) -> dict[str, Any]:
    names = ("size_multiple", "size_multiple_mode", "pad_size")
    return {name: settings[name] for name in names} | {"window_size": window_size}


def _target_sizes(target_sizes: Sequence[tuple[int, int]] | torch.Tensor, batch: int) -> list[tuple[int, int]]:
    if len(target_sizes) != batch:
        raise SegZooError(
            f"target_sizes has {len(target_sizes)} entries for {batch} predictions; give one (height, width) for each."
        )
    sizes = []
    for index, size in enumerate(target_sizes):
        pair = tuple(int(side) for side in size)
        if len(pair) != 2 or min(pair) < 1:
            raise SegZooError(f"target_sizes[{index}] is {pair}; give (height, width) in pixels, both at least 1.")
        sizes.append(pair)
    return sizes

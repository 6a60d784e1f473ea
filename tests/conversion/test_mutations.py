"""An option of an original config that changes the numbers changes the converted model's too, or is refused.

Each case is a model of the zoo whose parts are small, and paths into its config with other values. To have a head tested, list it
in the file of its family in ``mutations``.
"""

import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion.mutations import beyond_mmseg, convolutional, dino, heads, several_parts, transformers
from conversion.mutations.case import altered
from support.contract import settle
from transformers.initialization import no_init_weights

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError
from segzoo.images.resizing import pad_image, round_up

MUTATED = (
    transformers.CASES | heads.CASES | several_parts.CASES | convolutional.CASES | beyond_mmseg.CASES | dino.CASES
)


RECORDS = Path(__file__).parents[1] / "parity" / "records"


def original(name: str) -> dict[str, Any]:
    """The config of a row of the zoo, or of a record whose model is no row."""
    return zoo.original_config(name) or json.loads((RECORDS / f"{name}.json").read_text())["config"]


def picture(size: tuple[int, int]) -> torch.Tensor:
    """The same random picture for all models that see one of this size."""
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(1))


@lru_cache(maxsize=4000)  # the models of one case have most of their tensors in common
def noise(name: str, shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


@torch.no_grad()
def outputs(config: dict, size: tuple[int, int]) -> tuple[dict[str, torch.Size], torch.Tensor | None]:
    """The shapes of the translated model's tensors, and what it makes of a picture at the picture's size.

    The weights depend on the parameters' names and shapes alone; the outputs of all decode heads are joined.
    """
    translated = translate_config(config).config
    with no_init_weights():
        model = SegZooForSemanticSegmentation(translated).eval()
    for name, tensor in model.named_parameters():
        if tensor.ndim > 1:  # a kernel or matrix that keeps the variance
            tensor.copy_(noise(name, tensor.shape) / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(noise(name, tensor.shape) / 10 + (1 if name.endswith("weight") else 0))
    for name, tensor in model.named_buffers():
        if name.endswith(".bases"):
            tensor.copy_(noise(name, tensor.shape))
    settle(model)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if translated.backbone_config.num_channels != 3:
        return shapes, None
    padded = tuple(round_up(side, translated.size_multiple) for side in size)
    maps, _ = model.forward_maps(pad_image(picture(size), padded, 0.0)[None])
    resized = [
        torch.nn.functional.interpolate(out.logits, size, mode="bilinear", align_corners=head.config.align_corners)
        for head, out in zip(model.decode_heads, model.decode(maps), strict=True)
    ]
    return shapes, torch.cat(resized, dim=1)


@pytest.mark.parametrize("name", MUTATED)
def test_every_altered_option_shows(name):
    case = MUTATED[name]
    config = altered(original(name), case.small)
    shapes, logits = outputs(config, case.size)
    unseen = []
    for path, values in case.options.items():
        for value in values:
            try:
                other_shapes, other = outputs(altered(config, {path: value}), case.size)
            except SegZooError as error:
                assert error.args[0].count("\n") == 0
                continue
            if other_shapes == shapes and (other - logits).abs().max() < 1e-4 * logits.abs().max():
                unseen.append((path, value))
    assert not unseen
    for path, value in case.harmless.items():
        other_shapes, other = outputs(altered(config, {path: value}), case.size)
        assert other_shapes == shapes and torch.equal(other, logits), path

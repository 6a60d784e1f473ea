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
from conversion.mutations import beyond_mmseg, convolutional, dino, heads, mmseg1, several_parts, transformers
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
FEW_OPTIONS = mmseg1.CASES  # their backbones' options are few, and their heads are tested above

RECORDS = Path(__file__).parents[1] / "parity" / "records"


def original(name: str) -> dict[str, Any]:
    """The config of a row of the zoo, or of a record whose model is no row."""
    return zoo.original_config(name) or json.loads((RECORDS / f"{name}.json").read_text())["config"]


def picture(size: tuple[int, int]) -> torch.Tensor:
    """The same random picture for all models that see one of this size."""
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(1))


def noise(name: str, shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


@lru_cache(maxsize=4000)  # the models of one case have most of their tensors in common
def weight(name: str, shape: torch.Size) -> torch.Tensor:
    if len(shape) > 1:  # a kernel or matrix that keeps the variance
        return noise(name, shape) / shape[1:].numel() ** 0.5
    return noise(name, shape) / 10 + (1 if name.endswith("weight") else 0)


def build(config: dict) -> tuple[SegZooForSemanticSegmentation, dict[str, torch.Size]]:
    """The translated model, its weights unset, and the shapes of its tensors."""
    with no_init_weights():
        model = SegZooForSemanticSegmentation(translate_config(config).config).eval()
    return model, {name: tensor.shape for name, tensor in model.state_dict().items()}


@torch.no_grad()
def outputs(model: SegZooForSemanticSegmentation, size: tuple[int, int]) -> torch.Tensor:
    """What the model makes of a picture, at the picture's size.

    The weights depend on the parameters' names and shapes alone; the outputs of all decode heads are joined.
    """
    for name, tensor in model.named_parameters():
        tensor.copy_(weight(name, tensor.shape))
    for name, tensor in model.named_buffers():
        if name.endswith(".bases"):
            tensor.copy_(noise(name, tensor.shape))
    settle(model)
    padded = tuple(round_up(side, model.config.size_multiple) for side in size)
    maps, _ = model.forward_maps(pad_image(picture(size), padded, 0.0)[None])
    resized = [
        torch.nn.functional.interpolate(out.logits, size, mode="bilinear", align_corners=head.config.align_corners)
        for head, out in zip(model.decode_heads, model.decode(maps), strict=True)
    ]
    return torch.cat(resized, dim=1)


@pytest.mark.parametrize("name", [*MUTATED, *(pytest.param(name, marks=pytest.mark.slow) for name in FEW_OPTIONS)])
def test_every_altered_option_shows(name):
    case = (MUTATED | FEW_OPTIONS)[name]
    config = altered(original(name), case.small)
    model, shapes = build(config)
    logits = outputs(model, case.size)
    unseen = []
    for path, values in case.options.items():
        for value in values:
            try:
                other, other_shapes = build(altered(config, {path: value}))
                if other_shapes != shapes:
                    continue
                difference = (outputs(other, case.size) - logits).abs().max()
            except SegZooError as error:
                assert error.args[0].count("\n") == 0
                continue
            if difference < 1e-4 * logits.abs().max():
                unseen.append((path, value))
    assert not unseen
    for path, value in case.harmless.items():
        other, other_shapes = build(altered(config, {path: value}))
        assert other_shapes == shapes and torch.equal(outputs(other, case.size), logits), path

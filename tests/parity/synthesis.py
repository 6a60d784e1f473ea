"""Weights, images and labels that depend on nothing but a name and a shape.

The reference records were made by running the original code on such values, so that no file of weights has to travel:
the same key with the same shape always gives the same float32 numbers. Each tensor has its generator, PCG64 seeded
with the CRC-32 of its name; numbers are drawn and scaled in float64 and rounded once.

The distribution of the numbers depends on the role of the tensor, which its name and shape reveal. Only the roles that
the records in this folder need are known here.
"""

import contextlib
import itertools
import math
import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
import torch

# Ranges of one-dimensional factors. Residual branches stay small, so that the sum does not grow with the depth.
ORDINARY, LAST_NORM, LAYER_SCALE = (0.5, 1.5), (0.4, 0.8), (0.05, 0.25)
# Not synthesised: what is the same in every checkpoint.
CONSTANTS = {
    "laplacian_kernel": [[[[-1.0, -1.0, -1.0], [-1.0, 8.0, -1.0], [-1.0, -1.0, -1.0]]]],
    "fusion_kernel": [[[[0.6]], [[0.3]], [[0.1]]]],
}
EMBEDDINGS = ("pos_embed", "cls_token", "cls_emb")


def random_source(name: str) -> np.random.Generator:
    """The random numbers that belong to a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("utf-8"))))


# Elements of the tensors that are kept, for the next record with the same backbone: they take half of a record's time.
_KEPT = range(2**16, 2**24)


def tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor of a state-dict key: float32, or int64 zeros for a counter. It may be shared, so leave it as it is."""
    return _kept_tensor(key, shape) if math.prod(shape) in _KEPT else _tensor(key, shape)


def _tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    path = key.split(".")
    role, owner = path[-1], path[-2] if len(path) > 1 else ""
    if role == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if role in CONSTANTS:
        return torch.tensor(CONSTANTS[role])
    source = random_source(key)
    if role == "running_mean" or role.endswith("bias"):
        values = 0.1 * source.standard_normal(shape)
    elif role == "relative_position_bias_table":
        values = 0.5 * source.standard_normal(shape)
    elif role == "bases":
        values = source.standard_normal(shape)
    elif role == "scale" and len(shape) == 1:
        values = -0.05 + 0.04 * source.random(shape)
    elif role in EMBEDDINGS:
        values = 0.2 * source.standard_normal(shape)
    elif len(shape) >= 2:  # kernels and matrices keep the variance
        values = source.standard_normal(shape)
        values *= 1.0 / math.sqrt(math.prod(shape[1:]))
    else:
        low, high = _factor_range(role, owner)
        values = low + (high - low) * source.random(shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float32).reshape(shape))


@lru_cache(maxsize=128)
def _kept_tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    return _tensor(key, shape)


def _factor_range(role: str, owner: str) -> tuple[float, float]:
    if role in ("gamma", "gamma_1", "gamma_2", "ls1", "ls2", "layer_scale", "layer_scale_1", "layer_scale_2"):
        return LAYER_SCALE
    return LAST_NORM if role == "weight" and owner in ("bn2", "bn3") else ORDINARY


def state_dict(lines: list[str]) -> dict[str, torch.Tensor]:
    """The state dict of a record's key lines, each ``"key 64x3x7x7 float32"`` (a scalar has an empty shape)."""
    state = {}
    for line in lines:
        key, shape, _ = line.split(" ")
        state[key] = tensor(key, tuple(int(side) for side in shape.split("x")) if shape else ())
    return state


def image(name: str, shape: list[int]) -> torch.Tensor:
    """A batch of standard-normal pixels, float32 (B, C, H, W)."""
    return torch.from_numpy(random_source(name).standard_normal(tuple(shape)).astype(np.float32))


def labels(name: str, shape: list[int], num_labels: int, block: int, ignore_index: int = 255) -> torch.Tensor:
    """Class ids (B, H, W), constant on tiles of ``block`` x ``block`` pixels; about one tile in twenty is ignored."""
    batch, height, width = shape
    source = random_source(name)
    tiles = (batch, math.ceil(height / block), math.ceil(width / block))
    ids = source.integers(0, num_labels, size=tiles)
    ids = np.where(source.random(tiles) < 0.05, ignore_index, ids)
    pixels = np.kron(ids, np.ones((1, block, block), dtype=ids.dtype))
    return torch.from_numpy(np.ascontiguousarray(pixels[:, :height, :width])).long()


@contextlib.contextmanager
def draws(name: str | None) -> Iterator[None]:
    """While the block runs, the k-th ``torch.rand`` returns the numbers of a name with k; None changes nothing."""
    count = itertools.count()

    def rand(
        shape: tuple[int, ...], *, device: torch.device, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        return torch.from_numpy(random_source(f"rand{next(count)}:{name}").random(shape).astype(np.float32)).to(device)

    with pytest.MonkeyPatch.context() as patch:
        if name is not None:
            patch.setattr(torch, "rand", rand)
        yield

"""Synthetic street scenes with masks: something to train on where nothing but this package is installed.

The pictures are drawn, not photographed, as the README and `scenes.json` that `write_scenes` makes say. A scene is
a function of (seed, index, size): a street in one-point perspective with sky, buildings, road, pavement, trees, grass,
cars, people and poles, under changing light, haze, blur and noise. Colours overlap between classes, so that a model
has to learn shape, texture and place; some of the scenes have an ignored region at the bottom, as driving data does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.prepared import MANIFEST
from segzoo.errors import SegZooError
from segzoo.files import check_folder_place

SCENES: DatasetFacts = DATASETS["scenes"]
SKY, BUILDING, ROAD, PAVEMENT, TREE, GRASS, CAR, PERSON, POLE = range(9)
_VALIDATION_OFFSET = 1_000_000  # validation scenes are the same however many training scenes there are
_VERSION = 1

# Strength of fine and of coarse texture per class, in grey levels; the last entry is the ignored region.
_FINE = np.array([1, 6, 7, 5, 16, 13, 2, 4, 2, 2], dtype=np.float32)
_COARSE = np.array([5, 7, 6, 5, 22, 14, 5, 6, 3, 3], dtype=np.float32)

Color = tuple[int, int, int]


@dataclass
class _Canvas:
    """Picture, mask and shade at twice the final size, and the camera that looks down the street.

    Positions on the ground are (across, depth): across in half road widths from the middle of the road, depth 1 at the
    lower edge of the picture and growing away from the camera; height is in half road widths too.
    """

    rng: np.random.Generator
    width: int
    height: int
    horizon: float
    vanishing: float
    scale: float
    haze: Color
    haze_strength: float

    def __post_init__(self) -> None:
        self.picture = PIL.Image.new("RGB", (self.width, self.height))
        self.mask = PIL.Image.new("L", (self.width, self.height))
        self.shade = PIL.Image.new("L", (self.width, self.height), 255)
        self._draw = PIL.ImageDraw.Draw(self.picture)
        self._ids = PIL.ImageDraw.Draw(self.mask)
        self._shades = PIL.ImageDraw.Draw(self.shade)

    def point(self, across: float, depth: float, height: float = 0.0) -> tuple[float, float]:
        """Pixel position (x, y) at which a point of the street appears."""
        ground = self.horizon + (1.04 * self.height - self.horizon) / depth
        return self.vanishing + across * self.scale / depth, ground - height * self.scale / depth

    def hazy(self, color: np.ndarray | Color, depth: float) -> Color:
        """A colour at a depth, mixed with haze."""
        keep = np.exp(-self.haze_strength * max(depth - 1.0, 0.0))
        mixed = keep * np.asarray(color, dtype=float) + (1 - keep) * np.asarray(self.haze)
        return tuple(int(v) for v in np.clip(mixed, 0, 255))

    def _shape(self, method: str, xy: list, color: Color, label: int | None) -> None:
        getattr(self._draw, method)(xy, fill=color)
        if label is not None:
            getattr(self._ids, method)(xy, fill=label)
            getattr(self._shades, method)(xy, fill=255)

    def polygon(self, points: list, color: Color, label: int | None = None) -> None:
        """Fills a polygon; a label of None leaves mask and shade unchanged (markings, windows)."""
        self._shape("polygon", points, color, label)

    def ellipse(self, left: float, top: float, right: float, bottom: float, color: Color, label: int | None) -> None:
        """Fills the ellipse inside a box in pixels; a label of None leaves mask and shade unchanged."""
        self._shape("ellipse", [left, top, max(left, right), max(top, bottom)], color, label)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color, label: int | None) -> None:
        """Fills a box in pixels; a label of None leaves mask and shade unchanged."""
        self._shape("rectangle", [left, top, max(left, right), max(top, bottom)], color, label)

    def shadow(self, across: float, depth: float, half_width: float, darkness: int) -> None:
        """Darkens an ellipse on the ground to ``darkness`` of 255."""
        x, y = self.point(across, depth)
        rx, ry = half_width * self.scale / depth, 0.22 * half_width * self.scale / depth
        self._shades.ellipse([x - rx, y - ry, x + rx, y + ry], fill=darkness)

    def color(self, *choices: Color, spread: int = 14) -> np.ndarray:
        """One of the colours at random, varied in brightness and hue: (red, green, blue) as floats."""
        base = np.asarray(choices[int(self.rng.integers(len(choices)))], dtype=float)
        return np.clip(base + self.rng.normal(0, spread) + self.rng.normal(0, spread / 2, 3), 0, 255)


def _sky(canvas: _Canvas, top: np.ndarray, bottom: np.ndarray) -> None:
    """Paints a gradient with soft clouds over the whole picture."""
    rng, width, height = canvas.rng, canvas.width // 2, canvas.height // 2
    way = np.clip(np.linspace(0, 2 * height / max(canvas.horizon, 1), height), 0, 1)[:, None, None].astype(np.float32)
    sky = top.astype(np.float32) * (1 - way) + bottom.astype(np.float32) * way
    clouds = _smooth_noise(rng, height, width, (5, 4)) + 0.5 * _smooth_noise(rng, height, width, (14, 9))
    amount = np.clip(clouds * rng.uniform(0.2, 0.7) + rng.uniform(-0.4, 0.3), 0, 0.85)[..., None]
    sky = sky * (1 - amount) + rng.uniform(175, 250) * amount
    picture = PIL.Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8))
    canvas.picture.paste(picture.resize((canvas.width, canvas.height)))


def _ground(canvas: _Canvas, pavement: float, grass: tuple[bool, bool]) -> None:
    """Paints road and pavements, and grass where a side has no houses, from the horizon down."""
    far, near = 60.0, 0.9

    def strip(left: float, right: float, color: np.ndarray, label: int) -> None:
        for a, b in ((far, 6.0), (6.0, 2.5), (2.5, near)):  # nearer parts are seen through less air
            points = [canvas.point(left, a), canvas.point(right, a), canvas.point(right, b), canvas.point(left, b)]
            canvas.polygon(points, canvas.hazy(color, min(a, 1.6 * b)), label)

    stone = canvas.color((150, 145, 140), (175, 165, 150), (120, 115, 120), (160, 130, 115))
    tar = canvas.color((90, 90, 95), (115, 110, 108), (70, 72, 80), (130, 125, 120))
    lawn = canvas.color((95, 130, 60), (120, 140, 70), (140, 140, 80), (70, 105, 50))
    base, label = (lawn, GRASS) if any(grass) else (stone, PAVEMENT)
    canvas.box(0, canvas.horizon, canvas.width, canvas.height, canvas.hazy(base, 8.0), label)
    for side, has_grass in zip((-1, 1), grass, strict=True):
        if has_grass:
            strip(side * (1 + pavement), side * 60, lawn, GRASS)
        else:
            strip(side * (1 + pavement), side * 60, stone, PAVEMENT)
        strip(side, side * (1 + pavement), stone, PAVEMENT)
        strip(side * 0.98, side * 1.03, stone * 0.75, PAVEMENT)  # kerb
    strip(-1, 1, tar, ROAD)
    paint = canvas.hazy((215, 212, 200), 2.0)
    length = canvas.rng.uniform(0.5, 1.5)
    depth = canvas.rng.uniform(0.8, 1.2)
    while depth < 12 and canvas.rng.random() > 0.02:
        ends = (depth, depth + length * 0.5)
        points = [
            canvas.point(x, z) for x, z in ((-0.03, ends[0]), (0.03, ends[0]), (0.03, ends[1]), (-0.03, ends[1]))
        ]
        canvas.polygon(points, paint)
        depth += length
    if canvas.rng.random() < 0.25:  # zebra crossing
        depth = canvas.rng.uniform(1.3, 2.5)
        for x in np.arange(-0.9, 0.9, 0.22):
            corners = ((x, depth), (x + 0.11, depth), (x + 0.11, depth * 1.2), (x, depth * 1.2))
            canvas.polygon([canvas.point(*corner) for corner in corners], paint)


def _houses(canvas: _Canvas, side: int, line: float) -> list[tuple[float, Callable[[], None]]]:
    """House fronts along one side of the street, with the walls that face the camera: (depth, function that draws)."""
    found = []
    depth = float(canvas.rng.uniform(0.6, 1.0))
    while depth < 16:
        length = float(canvas.rng.uniform(0.8, 2.5) * (1 + depth / 6))
        if canvas.rng.random() < 0.82:
            found.append((depth + length, _house(canvas, side, line, depth, depth + length)))
        depth += length * (1 if canvas.rng.random() < 0.7 else 1.5)
    return found


def _house(canvas: _Canvas, side: int, line: float, near: float, far: float) -> Callable[[], None]:
    rng = canvas.rng
    wall = canvas.color(
        (150, 95, 75),
        (185, 170, 140),
        (130, 130, 135),
        (200, 190, 180),
        (105, 85, 80),
        (165, 140, 95),
        (120, 130, 150),
    )
    height = float(rng.uniform(1.6, 4.5))
    floors, columns = max(2, int(height / rng.uniform(0.5, 0.8))), int(rng.integers(2, 6))
    glass = canvas.color((60, 70, 85), (120, 140, 160), (35, 38, 45), (190, 180, 140))
    x = side * line
    light = float(rng.uniform(0.7, 1.15))
    middle = (near + far) / 2

    def draw() -> None:
        end = canvas.hazy(wall * 0.8, near)
        bottom, top = canvas.point(x, near), canvas.point(x, near, height)
        outer = canvas.point(x + side * 8, near)[0]
        canvas.polygon([bottom, top, (outer, top[1]), (outer, bottom[1])], end, BUILDING)
        front = canvas.hazy(wall * light, middle)
        corners = [(near, 0.0), (near, height), (far, height), (far, 0.0)]
        canvas.polygon([canvas.point(x, z, h) for z, h in corners], front, BUILDING)
        if canvas.scale / middle < 30:
            return
        pane = canvas.hazy(glass, middle)
        for column in range(columns):  # even steps in space, not on the screen
            z1 = near + (far - near) * (column + 0.25) / columns
            z2 = near + (far - near) * (column + 0.7) / columns
            for floor in range(floors):
                h1, h2 = height * (floor + 0.3) / floors, height * (floor + 0.75) / floors
                canvas.polygon([canvas.point(x, z, h) for z, h in ((z1, h1), (z1, h2), (z2, h2), (z2, h1))], pane)

    return draw


def _tree(canvas: _Canvas, across: float, depth: float) -> Callable[[], None]:
    rng = canvas.rng
    height, spread = float(rng.uniform(0.9, 2.2)), float(rng.uniform(0.3, 0.6))
    leaves = canvas.color((60, 95, 45), (85, 110, 50), (45, 75, 50), (130, 115, 50), (100, 60, 40))
    lumps = rng.normal(0, (0.45, 0.3), (14, 2)) * spread
    sizes = rng.uniform(0.35, 0.6, 14) * spread
    tones = rng.uniform(0.7, 1.2, 14)

    def draw() -> None:
        canvas.shadow(across, depth, spread * 1.3, 150)
        unit = canvas.scale / depth
        x, y = canvas.point(across, depth)
        trunk = canvas.hazy((75, 58, 45), depth)
        canvas.box(x - 0.04 * unit, y - 0.7 * height * unit, x + 0.04 * unit, y, trunk, TREE)
        for (dx, dy), size, tone in zip(lumps, sizes, tones, strict=True):
            cx, cy = x + dx * unit, y - (height * 0.75 + dy) * unit
            r = size * unit
            canvas.ellipse(cx - r, cy - r, cx + r, cy + r, canvas.hazy(leaves * tone, depth), TREE)

    return draw


def _pole(canvas: _Canvas, across: float, depth: float) -> Callable[[], None]:
    rng = canvas.rng
    height = float(rng.uniform(1.0, 1.7))
    metal = canvas.color((95, 95, 95), (140, 140, 140), (60, 65, 60), (120, 100, 80))
    kind = int(rng.integers(3))
    sign = canvas.color((190, 40, 40), (40, 70, 160), (220, 190, 40), (230, 230, 230))

    def draw() -> None:
        unit = canvas.scale / depth
        x, y = canvas.point(across, depth)
        half = max(0.022 * unit, 1.5)
        color, top = canvas.hazy(metal, depth), y - height * unit
        canvas.box(x - half, top, x + half, y, color, POLE)
        if kind == 0:  # street lamp, its arm over the road
            end = x - np.sign(across) * 0.4 * unit
            canvas.box(min(x, end), top, max(x, end), top + 2 * half, color, POLE)
        elif kind == 1:
            r = 0.12 * unit
            canvas.ellipse(x - r, top, x + r, top + 2 * r, canvas.hazy(sign, depth), POLE)

    return draw


def _car(canvas: _Canvas, across: float, depth: float) -> Callable[[], None]:
    rng = canvas.rng
    paint = canvas.color(
        (160, 30, 30), (200, 200, 205), (40, 42, 48), (50, 75, 130), (120, 125, 130), (90, 100, 70), (190, 160, 60)
    )
    half, tall = float(rng.uniform(0.19, 0.25)), float(rng.uniform(0.3, 0.46))
    from_behind = across > 0

    def draw() -> None:
        canvas.shadow(across, depth, half * 1.25, 70)
        unit = canvas.scale / depth
        x, y = canvas.point(across, depth)
        w, h = half * unit, tall * unit
        body, dark = canvas.hazy(paint, depth), canvas.hazy((25, 25, 28), depth)
        glass = canvas.hazy((55, 65, 75), depth)
        for sign in (-1, 1):
            canvas.box(x + sign * 0.75 * w - 0.17 * w, y - 0.3 * h, x + sign * 0.75 * w + 0.17 * w, y, dark, CAR)
        roof = [(x - 0.9 * w, y - 0.55 * h), (x - 0.7 * w, y - h), (x + 0.7 * w, y - h), (x + 0.9 * w, y - 0.55 * h)]
        canvas.polygon(roof, canvas.hazy(paint * 0.85, depth), CAR)
        pane = [(x - 0.75 * w, y - 0.58 * h), (x - 0.6 * w, y - 0.92 * h), (x + 0.6 * w, y - 0.92 * h)]
        canvas.polygon([*pane, (x + 0.75 * w, y - 0.58 * h)], glass)
        canvas.box(x - w, y - 0.62 * h, x + w, y - 0.14 * h, body, CAR)
        lamp = canvas.hazy((190, 30, 30) if from_behind else (240, 235, 200), depth)
        for sign in (-1, 1):
            lx = x + sign * 0.8 * w
            canvas.ellipse(lx - 0.14 * w, y - 0.52 * h, lx + 0.14 * w, y - 0.34 * h, lamp, None)
        canvas.box(x - 0.3 * w, y - 0.34 * h, x + 0.3 * w, y - 0.22 * h, canvas.hazy((210, 210, 190), depth), None)

    return draw


def _person(canvas: _Canvas, across: float, depth: float) -> Callable[[], None]:
    rng = canvas.rng
    tall = float(rng.uniform(0.36, 0.48))
    coat = canvas.color((150, 40, 45), (45, 60, 110), (200, 190, 170), (60, 100, 60), (35, 35, 38), (190, 150, 50))
    trousers = canvas.color((40, 45, 70), (60, 55, 50), (30, 30, 32), (120, 110, 95))
    skin = canvas.color((225, 180, 150), (170, 120, 90), (110, 75, 55))
    stride = float(rng.uniform(0.03, 0.22))

    def draw() -> None:
        canvas.shadow(across, depth, 0.13, 110)
        h = tall * canvas.scale / depth
        x, y = canvas.point(across, depth)
        legs, body = canvas.hazy(trousers, depth), canvas.hazy(coat, depth)
        for sign in (-1, 1):
            foot = x + sign * stride * h
            corners = [(x + sign * 0.08 * h - 0.055 * h, y - 0.5 * h), (x + sign * 0.08 * h + 0.055 * h, y - 0.5 * h)]
            canvas.polygon([*corners, (foot + 0.05 * h, y), (foot - 0.05 * h, y)], legs, PERSON)
        canvas.box(x - 0.14 * h, y - 0.86 * h, x + 0.14 * h, y - 0.44 * h, body, PERSON)
        for sign in (-1, 1):
            arm = x + sign * 0.16 * h
            canvas.box(arm - 0.04 * h, y - 0.84 * h, arm + 0.04 * h, y - 0.45 * h, body, PERSON)
        canvas.ellipse(x - 0.085 * h, y - h, x + 0.085 * h, y - 0.83 * h, canvas.hazy(skin, depth), PERSON)

    return draw


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise of about unit strength, (height, width), with about `cells` (across, down) bumps."""
    small = PIL.Image.fromarray(rng.standard_normal((cells[1] + 1, cells[0] + 1)).astype(np.float32))
    return np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC))


def _objects(canvas: _Canvas, pavement: float, grass: tuple[bool, bool]) -> list[tuple[float, Callable[[], None]]]:
    rng = canvas.rng
    found: list[tuple[float, Callable[[], None]]] = []
    for side, has_grass in zip((-1, 1), grass, strict=True):
        if not has_grass:
            found += _houses(canvas, side, 1 + pavement)
        for _ in range(int(rng.integers(2, 7)) if has_grass else int(rng.integers(0, 3))):
            depth = float(np.exp(rng.uniform(0.3, 2.5)))
            across = side * (1 + pavement + (rng.exponential(0.9) + 0.1 if has_grass else -0.15))
            found.append((depth, _tree(canvas, across, depth)))
        for _ in range(int(rng.integers(0, 4))):
            depth = float(np.exp(rng.uniform(0.2, 2.0)))
            found.append((depth, _pole(canvas, side * 1.08, depth)))
        for _ in range(int(rng.integers(0, 5))):
            depth = float(np.exp(rng.uniform(0.2, 1.8)))
            across = side * (1.12 + rng.uniform(0, max(pavement - 0.2, 0.1)))
            found.append((depth, _person(canvas, across, depth)))
    for _ in range(int(rng.integers(1, 7))):
        depth = float(np.exp(rng.uniform(0.3, 2.0)))
        across = float(rng.choice([-0.5, 0.5, -0.78, 0.78]) + rng.normal(0, 0.05))
        found.append((depth, _car(canvas, across, depth)))
    if rng.random() < 0.3:  # someone crosses the road
        depth = float(np.exp(rng.uniform(0.5, 1.7)))
        found.append((depth, _person(canvas, float(rng.uniform(-0.8, 0.8)), depth)))
    return sorted(found, key=lambda item: -item[0])


_SKIES = (  # top, bottom of the sky; colour of the light
    ((95, 145, 215), (195, 215, 235), (1.0, 1.0, 1.0)),
    ((150, 160, 170), (205, 208, 210), (0.94, 0.96, 1.0)),
    ((75, 95, 150), (235, 180, 130), (1.08, 0.95, 0.82)),
    ((165, 175, 180), (225, 225, 220), (0.98, 1.0, 1.0)),
    ((50, 65, 105), (130, 125, 140), (0.7, 0.72, 0.85)),
)


def draw_scene(index: int, *, size: tuple[int, int] = (192, 256), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws one synthetic street scene.

    Args:
        index: number of the scene, 0 or more.
        size: (height, width) in pixels, each at least 32.
        seed: seed; (seed, index, size) determines the result.

    Returns:
        picture (height, width, 3), and mask (height, width) of the ids of `SCENES.classes` and 255, both uint8.

    Raises:
        SegZooError: the size is too small.
    """
    height, width = size
    if min(height, width) < 32:
        raise SegZooError(f"Scenes are at least 32x32 pixels, not {height}x{width}.")
    rng = np.random.default_rng([seed, index])
    top, bottom, light = (np.asarray(part, dtype=float) for part in _SKIES[int(rng.integers(len(_SKIES)))])
    canvas = _Canvas(
        rng,
        width=2 * width,
        height=2 * height,
        horizon=2 * height * float(rng.uniform(0.3, 0.5)),
        vanishing=2 * width * float(rng.uniform(0.32, 0.68)),
        scale=2 * max(width, height) * float(rng.uniform(0.4, 0.65)),
        haze=tuple(int(v) for v in bottom),
        haze_strength=float(rng.uniform(0.01, 0.07)),
    )
    pavement = float(rng.uniform(0.3, 0.8))
    grass = (bool(rng.random() < 0.35), bool(rng.random() < 0.35))
    _sky(canvas, top, bottom)
    _ground(canvas, pavement, grass)
    for _, draw in _objects(canvas, pavement, grass):
        draw()
    if rng.random() < 0.15:  # the bonnet of the camera's own car: seen, never labelled
        reach = 2 * height * float(rng.uniform(0.03, 0.1))
        box = (-0.1 * 2 * width, 2 * height - reach, 1.1 * 2 * width, 2 * height + reach)
        canvas.ellipse(*box, tuple(int(v) for v in canvas.color((50, 50, 55), (120, 30, 30), (150, 150, 155))), 255)
    return _photograph(canvas, light, width, height)


def _photograph(canvas: _Canvas, light: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduces picture and mask to the final size, and adds texture, light, blur and noise."""
    rng = canvas.rng
    mask = np.ascontiguousarray(np.asarray(canvas.mask)[::2, ::2])
    picture = np.asarray(canvas.picture.reduce(2)).astype(np.float32)
    shade = canvas.shade.reduce(2).filter(PIL.ImageFilter.GaussianBlur(width / 128))
    kinds = np.minimum(mask, len(_FINE) - 1)
    texture = rng.standard_normal((height, width), dtype=np.float32) * _FINE[kinds]
    texture += _smooth_noise(rng, height, width, (width // 6, height // 6)) * _COARSE[kinds]
    picture += texture[..., None]
    glow = 1.0 + 0.12 * _smooth_noise(rng, height, width, (2, 2)) * np.asarray(shade, dtype=np.float32) / 255
    picture *= (glow * (np.asarray(shade, dtype=np.float32) / 255) ** 0.8)[..., None]
    picture = (picture * light.astype(np.float32) - 128) * float(rng.uniform(0.75, 1.15)) + 128
    picture += float(rng.uniform(-18, 18))
    softened = PIL.Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    softened = softened.filter(PIL.ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.9)) * width / 256))
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * float(rng.uniform(1.5, 6.0))
    return (np.asarray(softened) + noise).clip(0, 255).astype(np.uint8), mask


_README = """# Synthetic street scenes

These pictures are **synthetic**: drawn by `segzoo.data.scenes`, not photographed. They are there to try programs out
without downloading anything; scores on them say nothing about real pictures.

{num_train} training and {num_validation} validation scenes of {height}x{width} pixels, seed {seed}. Masks hold the ids
below; 255 does not count.

{classes}

Made with `segzoo.data.scenes.write_scenes`; Apache-2.0.
"""


def write_scenes(
    directory: str | os.PathLike,
    *,
    num_train: int = 160,
    num_validation: int = 40,
    size: tuple[int, int] = (192, 256),
    seed: int = 0,
) -> Path:
    """Writes scenes as a folder that `load_segmentation_dataset` reads: `images/{split}`, `annotations/{split}`.

    `id2label.json`, a manifest and a README that calls the pictures synthetic are written beside them. A folder that already
    holds scenes of the same settings is left unchanged, and one that an interrupted run left is completed.

    Args:
        directory: the folder, which is made if it does not exist.
        num_train, num_validation: numbers of scenes; validation scenes do not depend on `num_train`.
        size: (height, width) in pixels, each at least 32.
        seed: seed of all scenes.

    Returns:
        path of the folder.

    Raises:
        SegZooError: the folder holds something else or cannot be written to, or the size is too small.
    """
    root = Path(directory)
    settings = {"num_train": num_train, "num_validation": num_validation, "size": list(size), "seed": seed}
    settings = {"made_by": "segzoo.data.scenes", "synthetic": True, "version": _VERSION, **settings}
    record = root / "scenes.json"
    if root.is_dir() and any(root.iterdir()):
        held = None
        if record.is_file():
            try:
                held = json.loads(record.read_text(encoding="utf-8"))
            except ValueError:
                held = None
        if held is None or {**held, "complete": None} != {**settings, "complete": None}:
            raise SegZooError(f"{root} is not empty and holds no scenes of these settings. Give an empty folder.")
        if held.get("complete"):
            return root
    check_folder_place(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({**settings, "complete": False}), encoding="utf-8")
        for split, count, offset in (("train", num_train, 0), ("validation", num_validation, _VALIDATION_OFFSET)):
            for kind in ("images", "annotations"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                picture, mask = draw_scene(offset + number, size=size, seed=seed)
                PIL.Image.fromarray(picture).save(root / "images" / split / f"scene_{number:05d}.jpg", quality=92)
                PIL.Image.fromarray(mask).save(root / "annotations" / split / f"scene_{number:05d}.png")
        (root / "id2label.json").write_text(json.dumps(SCENES.id2label, indent=2) + "\n", encoding="utf-8")
        (root / MANIFEST).write_text(json.dumps({"dataset": SCENES.name}) + "\n", encoding="utf-8")
        classes = "\n".join(f"- {index}: {name}" for index, name in enumerate(SCENES.classes))
        text = _README.format(
            num_train=num_train,
            num_validation=num_validation,
            height=size[0],
            width=size[1],
            seed=seed,
            classes=classes,
        )
        (root / "README.md").write_text(text, encoding="utf-8")
        record.write_text(json.dumps({**settings, "complete": True}), encoding="utf-8")
    except OSError as error:
        raise SegZooError(
            f"{root}: the scenes cannot be written ({error.strerror or error}); make room, and give the same call again"
        ) from error
    return root

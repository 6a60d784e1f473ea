"""Draws docs/images/way_of_the_data.svg, the picture of docs/concepts.md.

python docs/way_of_the_data.py
"""

from html import escape
from pathlib import Path

PAGE = Path(__file__).parent / "images" / "way_of_the_data.svg"

WIDTH, HEIGHT = 980, 470
FILE, PART, RESULT, WORK = "#fff3d6", "#d9efec", "#e6e2f3", "#f1f1f1"

# name: left, top, width, colour, lines
BOXES = {
    "picture": (20, 40, 120, FILE, ("picture", "file, array, URL")),
    "processor": (180, 40, 150, PART, ("image processor", "size, normalise, pad")),
    "backbone": (370, 40, 120, PART, ("backbone", "feature maps")),
    "neck": (530, 40, 100, PART, ("neck", "if it needs one")),
    "head": (670, 40, 120, PART, ("decode head", "class scores")),
    "logits": (830, 40, 130, RESULT, ("logits", "classes × h/4 × w/4")),
    "auxiliary": (670, 130, 120, PART, ("auxiliary heads", "in training alone")),
    "mask": (20, 220, 120, FILE, ("mask", "one id a pixel")),
    "losses": (670, 220, 120, WORK, ("losses", "labels' size")),
    "inference": (830, 130, 130, WORK, ("inference", "whole, windows, TTA")),
    "map": (830, 220, 130, RESULT, ("label map", "the picture's size")),
    "metrics": (830, 310, 130, WORK, ("metrics", "confusion matrix")),
    "card": (830, 400, 130, RESULT, ("report, card", "scores of the model")),
    "checkpoint": (20, 400, 120, FILE, ("original .pth", "and its config")),
    "conversion": (180, 400, 150, WORK, ("conversion", "rules, key tables")),
    "folder": (370, 400, 260, RESULT, ("model folder", "config.json, safetensors, processor, card")),
}
HEIGHT_OF_BOX = 50

# from side of a box to side of another; dashed where it happens in training alone
ARROWS = (
    ("picture", "right", "processor", "left", False),
    ("processor", "right", "backbone", "left", False),
    ("backbone", "right", "neck", "left", False),
    ("neck", "right", "head", "left", False),
    ("head", "right", "logits", "left", False),
    ("logits", "bottom", "inference", "top", False),
    ("inference", "bottom", "map", "top", False),
    ("map", "bottom", "metrics", "top", False),
    ("metrics", "bottom", "card", "top", False),
    ("auxiliary", "bottom", "losses", "top", True),
    ("mask", "right", "losses", "left", True),
    ("checkpoint", "right", "conversion", "left", False),
    ("conversion", "right", "folder", "left", False),
)
# further lines, as points
LINES = (
    ("580,90 580,155 666,155", True),  # neck to auxiliary heads
    ("810,65 810,245 794,245", True),  # decode head's logits to losses
    ("80,270 80,335 826,335", False),  # mask to metrics
    ("830,425 634,425", False),  # scores to the card in the folder
    ("390,400 390,362 255,362 255,94", False),  # the folder's processor ...
    ("430,400 430,94", False),  # ... and weights
)


def side(name: str, where: str) -> tuple[float, float]:
    """The middle of a side of a box."""
    left, top, width, *_ = BOXES[name]
    return {
        "left": (left, top + HEIGHT_OF_BOX / 2),
        "right": (left + width, top + HEIGHT_OF_BOX / 2),
        "top": (left + width / 2, top),
        "bottom": (left + width / 2, top + HEIGHT_OF_BOX),
    }[where]


def line(points: str, dashed: bool) -> str:
    """An arrow along points."""
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="#555" stroke-width="1.5"{dashes} marker-end="url(#tip)"/>'


def picture() -> str:
    """The whole SVG."""
    parts = []
    for start, from_side, end, to_side, dashed in ARROWS:
        (x0, y0), (x1, y1) = side(start, from_side), side(end, to_side)
        x1, y1 = (x1 - 4, y1) if to_side == "left" else (x1, y1 - 4)  # the tip ends at the box
        parts.append(line(f"{x0:g},{y0:g} {x1:g},{y1:g}", dashed))
    parts += [line(points, dashed) for points, dashed in LINES]
    for left, top, width, colour, (title, below) in BOXES.values():
        middle = left + width / 2
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{HEIGHT_OF_BOX}" rx="7" fill="{colour}" stroke="#777"/>'
            f'<text x="{middle:g}" y="{top + 21}" font-size="14" font-weight="600">{escape(title)}</text>'
            f'<text x="{middle:g}" y="{top + 39}" font-size="11" fill="#444">{escape(below)}</text>'
        )
    tip = '<marker id="tip" markerWidth="8" markerHeight="8" refX="3" refY="4" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" text-anchor="middle" fill="#111">\n'
        f'<title>The way of the data</title>\n<defs>{tip}</defs>\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    PAGE.write_text(picture(), encoding="utf-8")

"""Annotation prompts (survey section 4.3): a mark on the picture says what of it is meant.

Sources: the red circle, Shtedritski et al. 2023, "What does CLIP know about a red circle?" (arXiv:2304.06712): an ellipse drawn within the
box of a region. CPT, Yao et al. 2021, "CPT: Colorful Prompt Tuning" (arXiv:2109.11797): the region is tinted, and the text names the
colour; the colours are those of the published code.

``box``: whose region it is. ``whole`` (the default) is all that the model sees, and four numbers (left, top, right and bottom, as shares of its
sides) are one region of every picture: such a mark is drawn on the pixels that are attacked, so no attack can take it away, and gradients
flow past it. The name of a column of the data gives each picture a box of its own, in pixels of its file: this mark is drawn when the
picture is read, before it is resized and cropped, and an attack changes its pixels as any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.prompts.specs import parse_options
from vlaudit.prompts.template import PLAIN, Template

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlaudit.data.example import Example
    from vlaudit.families.matching import MatchingModel

COLOURS = {
    "red": (240, 0, 30), "purple": (155, 50, 210), "yellow": (255, 255, 25), "blue": (0, 10, 255), "green": (0, 255, 0),
}  # fmt: skip
RED = (255, 0, 0)  # of the circle
CIRCLE, TINT, WHOLE = "circle", "tint", "whole"
OPTIONS = ("kind", "box", "colour", "width", "alpha", "template")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """What is drawn: a ``circle`` whose line is ``width`` of the shorter side, or a ``tint`` that covers by ``alpha``."""

    kind: str
    colour: str
    width: float
    alpha: float

    @property
    def rgb(self) -> tuple[int, int, int]:
        return RED if (self.kind, self.colour) == (CIRCLE, "red") else COLOURS[self.colour]

    def cover(self, box: Box, height: int, width: int) -> Tensor:
        """(H, W) float in [0, 1]: how far the mark covers each pixel of a picture, for a box in its pixels."""
        import torch

        x, y = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
        left, top, right, bottom = box
        if self.kind == TINT:
            return self.alpha * ((x >= left) & (x <= right) & (y >= top) & (y <= bottom)).float()
        line = max(1.0, self.width * min(height, width))
        along, down = (x - (left + right) / 2) / (right - left) * 2, (y - (top + bottom) / 2) / (bottom - top) * 2
        inner = [max(1 - 2 * line / size, 1e-6) for size in (right - left, bottom - top)]
        return ((along**2 + down**2 <= 1) & ((along / inner[0]) ** 2 + (down / inner[1]) ** 2 >= 1)).float()


class Annotation(MatchingPrompt):
    """A mark on every picture, a red circle or a tint, and a hard template. ``box``: shares of the sides, or None for those in ``column``."""

    method = "annotation"

    def __init__(self, mark: Mark, box: Box | None = (0.0, 0.0, 1.0, 1.0), column: str = "", template: str = PLAIN) -> None:
        self.mark, self.box, self.column = mark, box, column
        self._words = Template(template)
        where = column if box is None else WHOLE if box == (0, 0, 1, 1) else " ".join(f"{side:g}" for side in box)
        how = f"{mark.width:g} wide" if mark.kind == CIRCLE else f"by {mark.alpha:g}"
        self._where = f"{mark.colour} {mark.kind} ({how}) around {where}"
        self.id = f"annotation-{mark.colour}-{mark.kind}-{where.replace(' ', '-')}"
        self.drawn = self._where if box is None else ""

    @classmethod
    def parse(cls, argument: str) -> Annotation:
        """``annotation:circle`` or ``annotation:tint``, or with options ``kind=circle,box=whole,colour=red,width=0.02,template=…{}…``; of a
        tint ``alpha=0.5``, its cover. ``box`` is ``whole``, four shares such as ``0.1 0.1 0.9 0.6``, or the name of a column."""
        options = parse_options(argument, cls.method, OPTIONS)
        kind = options.get("kind", options.get("file", CIRCLE)).strip()
        if kind not in (CIRCLE, TINT):
            raise UsageError(f"The annotation '{kind[:40]}' is unknown.", f"Write annotation:{CIRCLE} (red circle) or annotation:{TINT} (CPT).")
        colour = options.get("colour", "red")
        if colour not in COLOURS:
            raise UsageError(f"Annotations have no colour '{colour[:40]}'.", f"Known: {', '.join(COLOURS)}.")
        if ("alpha" if kind == CIRCLE else "width") in options:
            raise UsageError(f"A {kind} has no {'alpha' if kind == CIRCLE else 'width'}.", "Leave it out.")
        mark = Mark(kind, colour, _share(options, "width", 0.02, 0.5), _share(options, "alpha", 0.5, 1.0))
        box, column = _where(options.get("box", WHOLE))
        said = PLAIN if kind == CIRCLE else f"the {{}} is in {colour} color"
        return cls(mark, box, column, options.get("template", said))

    @property
    def text(self) -> str:
        return f"{self._where}, with '{self._words.template}'"

    @property
    def templates(self) -> tuple[str, ...]:
        return self._words.templates

    def transform(self, images: Tensor) -> Tensor:
        if self.box is None:
            return images
        height, width = images.shape[-2:]
        cover = self.mark.cover(_scaled(self.box, width, height), height, width).to(images)
        colour = images.new_tensor(self.mark.rgb)[:, None, None] / 255
        return images * (1 - cover) + colour * cover

    def shown(self, example: Example) -> Image:
        picture = example.open()
        if self.box is not None:
            return picture
        import numpy as np
        from PIL import Image as Pictures

        cover = self.mark.cover(self._box_of(example, picture), picture.height, picture.width).numpy()[..., None]
        marked = np.asarray(picture) * (1 - cover) + np.array(self.mark.rgb) * cover
        return Pictures.fromarray(np.round(marked).astype(np.uint8))

    def check_examples(self, examples: Sequence[Example]) -> None:
        """Raise UsageError for a picture without a box, or with one that does not lie within it."""
        for example in examples if self.box is None else ():
            self._box_of(example, example.open())

    def _box_of(self, example: Example, picture: Image) -> Box:
        cell = example.attributes.get(self.column, "").strip()
        if cell == WHOLE:
            return (0, 0, picture.width, picture.height)
        box = _numbers(cell.strip("[]() "))
        if box is None:
            said = f"'{cell[:40]}', which is no box" if cell else "none"
            raise UsageError(
                f"Of '{example.id}' the column '{self.column}' holds {said}.",
                f"Write left,top,right,bottom in pixels, or {WHOLE}; box={WHOLE} marks every picture as a whole.",
            )
        left, top, right, bottom = box
        if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
            raise UsageError(
                f"The box {cell[:60]} of '{example.id}' does not lie within its picture of {picture.width} x {picture.height} pixels.",
                "Write left,top,right,bottom in pixels of the file.",
            )
        return box

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return self._words.label_features(model, labels)


def _share(options: dict[str, str], key: str, default: float, most: float) -> float:
    try:
        value = float(options.get(key, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= most:
        raise UsageError(f"'{key}={options[key][:40]}' is no number above 0 and up to {most:g}.", f"Write for example {key}={default:g}.")
    return value


def _where(text: str) -> tuple[Box | None, str]:
    """The box of every picture, or None and the column of theirs. Raises UsageError."""
    if text == WHOLE:
        return (0.0, 0.0, 1.0, 1.0), ""
    box = _numbers(text)
    if box is None:
        if not text or text[0].isdigit():
            raise UsageError(f"'box={text[:40]}' is no box.", f"Write {WHOLE}, four shares such as 0.1 0.1 0.9 0.6, or a column's name.")
        return None, text
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UsageError(f"The box {text[:40]} does not lie within a picture.", "Write left, top, right and bottom as shares from 0 to 1.")
    return box, ""


def _numbers(text: str) -> Box | None:
    words = text.replace(",", " ").replace(";", " ").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def _scaled(box: Box, width: int, height: int) -> Box:
    return (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
